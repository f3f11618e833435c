"""Optional dependencies, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from radio.errors import MissingExtraError


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: Dotted module name, e.g. ``"open_clip"``.
        extra: The extra of this package that installs it, e.g. ``"text"``.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: The module is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingExtraError(
            f"this needs the package '{error.name}', which is not installed; "
            f"install it with: pip install 'radio[{extra}]'"
        ) from error
