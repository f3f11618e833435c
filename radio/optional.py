"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import json
import os
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

from radio.errors import MissingExtraError

DISTRIBUTION = "radio-vision"
"""The name to install. On PyPI ``radio`` is another project."""

_WITHOUT_REPORTS = {
    "nncf": ("NNCF_CI", "1"),
    "onnxruntime": ("ORT_DISABLE_TELEMETRY", "1"),
    "ray": ("RAY_USAGE_STATS_ENABLED", "0"),
}
"""Packages that report their use to their makers unless told not to when they are imported."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, without the reports that some send to their makers.

    Who wants these reports sets the variable of the environment that docs/security.md names.

    Args:
        module: Dotted module name, e.g. ``"open_clip"``.
        extra: The extra of this package that installs it, e.g. ``"text"``.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: The module is not installed; the message names the extra.
    """
    package = module.split(".")[0]
    if package in _WITHOUT_REPORTS:
        os.environ.setdefault(*_WITHOUT_REPORTS[package])
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or package != error.name.split(".")[0]:
            raise
        raise MissingExtraError(
            f"this needs the package '{error.name}', which is not installed; install it with: "
            f"{install_command(extra)}"
        ) from error


def install_command(extra: str) -> str:
    """The command that installs an extra of this package here, from wherever the package itself came.

    Args:
        extra: E.g. ``"text"``.
    """
    source = Path(__file__).resolve().parent.parent
    if (source / "pyproject.toml").is_file():  # a clone, or what torch.hub downloaded
        where = "." if source == Path.cwd() else str(source)
        return f"pip install '{where}[{extra}]'"
    url = _installed_from()
    if url:
        return f"pip install '{DISTRIBUTION}[{extra}] @ {url}'"
    packages = " ".join(f"'{package}'" for package in _packages_of(extra))
    return f"pip install {packages}" if packages else f"pip install '.[{extra}]' in a clone of the repository"


def _installed_from() -> str | None:
    """The address that pip installed this package from, if it was not an index."""
    try:
        record = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    if record is None:
        return None
    origin = json.loads(record)
    vcs = origin.get("vcs_info", {}).get("vcs")
    return f"{vcs}+{origin['url']}" if vcs else str(origin["url"])


def _packages_of(extra: str) -> list[str]:
    """The packages that an extra of the installed package needs."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    split = (requirement.partition(";") for requirement in requirements)
    return [name.strip() for name, _, marker in split if f'extra == "{extra}"' in marker.replace("'", '"')]
