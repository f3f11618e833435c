"""The released versions, one row each."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from radio.errors import bare

_NON_COMMERCIAL = "NVIDIA Source Code License (non-commercial)"
_OPEN_MODEL = "NVIDIA Open Model License (commercial use allowed)"
_V2_ADAPTORS = ("clip", "dino_v2", "sam")
_V2_5_ADAPTORS = ("clip", "siglip", "dino_v2", "sam")
_V3_ADAPTORS = ("clip", "siglip2-g", "dino_v2", "sam")
_V4_ADAPTORS = ("siglip2-g", "dino_v3", "sam3")


@dataclass(frozen=True)
class Release:
    """A released version.

    Attributes:
        version: Its name, e.g. ``"radio_v2.5-l"``.
        repository: The Hugging Face repository that holds its weights.
        filename: The torch file in it; None where the repository has ``config.json`` and safetensors weights only.
        license: The license of the weights (not of this library).
        patch_size: Side of a patch, in pixels.
        max_resolution: Largest side of an image, in pixels.
        preferred_resolution: Height and width at which the model works best.
        parameters: Parameters of the backbone: patch projection, position embeddings, prefix tokens, blocks and the
            final norm where it is used; not the adaptors.
        adaptors: The teacher adaptors in the file.
        pos_embed_align_corners: How the version was trained to resize its position embeddings.
        vitdet: Whether the version was trained with ViTDet windows.
        vitdet_num_global, vitdet_num_windowed: Its schedule of windowed and global blocks.
        hub_repository: The repository that holds it as ``config.json`` and ``model.safetensors``.
        family: What kind of model it is: ``"vit"``, ``"eradio"`` or ``"radio1d"``.
    """

    version: str
    repository: str
    filename: str | None
    license: str
    patch_size: int
    max_resolution: int
    preferred_resolution: tuple[int, int]
    parameters: int
    adaptors: tuple[str, ...]
    pos_embed_align_corners: bool
    vitdet: bool
    vitdet_num_global: int | None = None
    vitdet_num_windowed: int | None = None
    hub_repository: str | None = None
    family: Literal["vit", "eradio", "radio1d"] = "vit"


def _v2_5(
    size: str, filename: str, hub: str | None, parameters: int, patch: int = 16, **changes: object
) -> Release:
    row: dict = {
        "version": f"radio_v2.5-{size}",
        "repository": "nvidia/RADIO",
        "filename": filename,
        "license": _NON_COMMERCIAL,
        "patch_size": patch,
        "max_resolution": 2048,
        "preferred_resolution": (768, 768),
        "parameters": parameters,
        "adaptors": _V2_5_ADAPTORS,
        "pos_embed_align_corners": True,
        "vitdet": True,
        "vitdet_num_global": 4,
        "hub_repository": hub,
    }
    return Release(**(row | changes))


def _v2(version: str, filename: str) -> Release:
    return Release(
        version=version,
        repository="nvidia/RADIO",
        filename=filename,
        license=_NON_COMMERCIAL,
        patch_size=16,
        max_resolution=2048,
        preferred_resolution=(432, 432),
        parameters=651_642_880,
        adaptors=_V2_ADAPTORS,
        pos_embed_align_corners=True,
        vitdet=True,
        vitdet_num_windowed=5,
    )


def _c_radio(
    version: str,
    repository: str,
    filename: str | None,
    parameters: int,
    adaptors: tuple[str, ...],
    **changes: object,
) -> Release:
    row: dict = {
        "version": version,
        "repository": f"nvidia/{repository}",
        "filename": filename,
        "license": _OPEN_MODEL,
        "patch_size": 16,
        "max_resolution": 2048,
        "preferred_resolution": (512, 512),
        "parameters": parameters,
        "adaptors": adaptors,
        "pos_embed_align_corners": False,
        "vitdet": False,
        "hub_repository": f"nvidia/{repository}",
    }
    return Release(**(row | changes))


RELEASES: tuple[Release, ...] = (
    _v2_5("b", "radio-v2.5-b_half.pth.tar", "nvidia/RADIO-B", 98_233_344),
    _v2_5("l", "radio-v2.5-l_half.pth.tar", "nvidia/RADIO-L", 319_881_216),
    _v2_5("h", "radio_v2.5-h.pth.tar", "nvidia/RADIO-H", 651_642_880),
    _v2_5("h-norm", "radio_v2.5-h-norm.pth.tar", None, 651_642_880),
    _v2_5(
        "g",
        "radio_v2.5-g.pth.tar",
        "nvidia/RADIO-g",
        1_159_546_880,
        patch=14,
        max_resolution=1792,
        preferred_resolution=(896, 896),
        vitdet_num_global=8,
    ),
    _v2("radio_v2.1", "radio_v2.1_bf16.pth.tar"),
    _v2("radio_v2", "radio_v2.pth.tar"),
    Release(
        version="radio_v1",
        repository="nvidia/RADIO",
        filename="radio_v1.pth.tar",
        license=_NON_COMMERCIAL,
        patch_size=14,
        max_resolution=1050,
        preferred_resolution=(378, 378),
        parameters=637_632_000,
        adaptors=(),
        pos_embed_align_corners=True,
        vitdet=False,
    ),
    Release(
        version="e-radio_v2",
        repository="nvidia/RADIO",
        filename="eradio_v2.pth.tar",
        license=_NON_COMMERCIAL,
        patch_size=16,
        max_resolution=2048,
        preferred_resolution=(512, 512),
        parameters=389_598_784,
        adaptors=(),
        pos_embed_align_corners=False,
        vitdet=False,
        hub_repository="nvidia/E-RADIO",
        family="eradio",
    ),
    _c_radio(
        "c-radio_v2-g",
        "C-RADIOv2-g",
        "c-radio_v2-g_half.pth.tar",
        1_159_618_560,
        _V2_5_ADAPTORS,
        preferred_resolution=(768, 768),
        pos_embed_align_corners=True,
        vitdet=True,
        vitdet_num_global=8,
    ),
    _c_radio(
        "c-radio_v2-vlm-h",
        "C-RADIOv2-VLM-H",
        "c-radio_v2-vlm-h.pth.tar",
        651_653_120,
        _V2_5_ADAPTORS,
        preferred_resolution=(768, 768),
        pos_embed_align_corners=True,
        vitdet=True,
        vitdet_num_global=8,
    ),
    _c_radio(
        "c-radio_v3-b",
        "C-RADIOv3-B",
        "c-radio_v3-b_half.pth.tar",
        98_251_776,
        _V3_ADAPTORS,
        pos_embed_align_corners=True,
    ),
    _c_radio("c-radio_v3-l", "C-RADIOv3-L", "c-radio-v3_l_half.pth.tar", 319_930_368, _V3_ADAPTORS),
    _c_radio(
        "c-radio_v3-h",
        "C-RADIOv3-H",
        "c-radio_v3-h_half.pth.tar",
        651_642_880,
        _V3_ADAPTORS,
        pos_embed_align_corners=True,
    ),
    _c_radio("c-radio_v3-g", "C-RADIOv3-g", "c-radio_v3-g_half.pth.tar", 1_159_618_560, _V3_ADAPTORS),
    _c_radio(
        "c-radio_v4-so400m",
        "C-RADIOv4-SO400M",
        "c-radio_v4-so400m_half.pth.tar",
        431_237_232,
        _V4_ADAPTORS,
        vitdet=True,
    ),
    _c_radio(
        "c-radio_v4-h", "C-RADIOv4-H", "c-radio_v4-h_half.pth.tar", 651_645_440, _V4_ADAPTORS, vitdet=True
    ),
    _c_radio("c-radio_v4-1d-h", "C-RADIOv4-1D-H", None, 1_452_129_280, (), family="radio1d"),
)


def find_release(name: str) -> Release | None:
    """The release of that version name or Hub repository name, if there is one."""
    for release in RELEASES:
        if name == release.version or (
            release.hub_repository and name.lower() == release.hub_repository.lower()
        ):
            return release
    return None


def find_release_of_file(filename: str) -> Release | None:
    """The release whose torch file has that name, if there is one."""
    return next((release for release in RELEASES if release.filename == filename), None)


def get_release(version: str) -> Release:
    """The release of that version name or Hub repository name.

    Raises:
        ValueError: There is none; the message lists the released versions.
    """
    release = find_release(version)
    if release is None:
        raise ValueError(
            f"unknown version {version!r}; released: {', '.join(r.version for r in RELEASES)}; "
            f"or give a Hub repository ('owner/name') or a path to a checkpoint file or folder{suggestion(version)}"
        )
    return release


def suggestion(name: str) -> str:
    """What a name that is nearly a version's or a repository's probably means, to end a message with."""
    named = {_bare(release.version): release.version for release in RELEASES}
    named |= {
        _bare(release.hub_repository): release.version for release in RELEASES if release.hub_repository
    }
    if exact := named.get(_bare(name)):
        return f"; did you mean {exact!r}?"
    close = dict.fromkeys(named[match] for match in get_close_matches(_bare(name), named, cutoff=0.75))
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _bare(name: str) -> str:
    """Of a repository's name only what follows the owner."""
    return bare(name.rpartition("/")[2])
