"""What may be chosen about a model without touching its weights, and whose choice counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from radio.catalog import Release
from radio.checkpoints.guard import brief
from radio.checkpoints.shapes import whole_number
from radio.config import NECKS, WINDOW_RULES, RadioConfig
from radio.errors import CheckpointError

LARGEST_SIDE = 2**16
"""No image is larger than this many pixels along a side, whatever a file says."""

_LONGEST_SCHEDULE = 1024
"""No ViTDet schedule counts more blocks than this."""


@dataclass(frozen=True)
class Settings:
    """The settings that one source states: the user, the file or the catalog. None where it says nothing.

    Attributes:
        max_resolution: Largest side of an image, in pixels.
        preferred_resolution: Height and width at which the model works best, in pixels.
        vitdet_window_size: Side of the ViTDet windows in patches.
        vitdet_num_global, vitdet_num_windowed: The schedule of windowed and global blocks.
        pos_embed_align_corners: How position embeddings are resized.
        eradio_window_size: Side of E-RADIO's attention windows, or the rule that chooses it.
        neck_name: Which output a RADIO1D model gives.
    """

    max_resolution: int | None = None
    preferred_resolution: tuple[int, int] | None = None
    vitdet_window_size: int | None = None
    vitdet_num_global: int | None = None
    vitdet_num_windowed: int | None = None
    pos_embed_align_corners: bool | None = None
    eradio_window_size: int | str | None = None
    neck_name: str | None = None


def settle(user: Settings, file: Settings, catalog: Settings) -> Settings:
    """Whose choice counts: the user's over the file's over the catalog's, for each setting by itself.

    The two numbers of the ViTDet schedule are one setting: whoever states either of them states the schedule.
    """
    sources = (user, file, catalog)
    settled = {
        name: next((value for value in values if value is not None), None)
        for name, values in _by_name(sources).items()
    }
    for source in sources:
        if source.vitdet_num_global is not None or source.vitdet_num_windowed is not None:
            settled["vitdet_num_global"] = source.vitdet_num_global
            settled["vitdet_num_windowed"] = source.vitdet_num_windowed
            break
    return Settings(**settled)


def _by_name(sources: tuple[Settings, ...]) -> dict[str, list[Any]]:
    return {name: [getattr(source, name) for source in sources] for name in asdict(sources[0])}


def with_settings(config: RadioConfig, settings: Settings) -> RadioConfig:
    """The description with settings in place of its own, wherever they say something.

    Raises:
        ValueError: A size makes no sense for this model; the message says what is allowed.
    """
    stated = {name: value for name, value in asdict(settings).items() if value is not None}
    config = _with_family_settings(
        config, stated.pop("eradio_window_size", None), stated.pop("neck_name", None)
    )
    config = replace(config, **stated)
    if config.vitdet_window_size is not None and (config.eradio or config.radio1d):
        raise ValueError(
            f"vitdet_window_size is for ViTs, and {brief(config.architecture)} is none; leave it out"
        )
    patch, largest = config.patch_size, config.max_resolution
    if not patch <= largest <= LARGEST_SIDE:
        raise ValueError(
            f"max_resolution must be from {patch} (one patch) to {LARGEST_SIDE} pixels, got {brief(largest)}"
        )
    if not all(patch <= side <= largest for side in config.preferred_resolution):
        raise ValueError(
            f"preferred_resolution must be two sides from {patch} to {largest} pixels, "
            f"got {brief(config.preferred_resolution)}"
        )
    for name in ("vitdet_num_global", "vitdet_num_windowed"):
        number = stated.get(name)
        if number is not None and not 1 <= number <= _LONGEST_SCHEDULE:
            raise ValueError(
                f"{name} must be at least 1 and at most {_LONGEST_SCHEDULE} blocks, got {brief(number)}"
            )
    window, widest = config.vitdet_window_size, largest // patch
    if window is not None and window < 1:
        raise ValueError(f"vitdet_window_size must be at least 1 patch, got {brief(window)}")
    if window is not None and window > widest:
        raise ValueError(
            f"vitdet_window_size={brief(window)} makes windows of {brief(window * patch)} pixels, but the largest "
            f"image of this model has {largest}; at most {widest} patches"
        )
    return config


def _with_family_settings(config: RadioConfig, window: int | str | None, neck: str | None) -> RadioConfig:
    """The description with what can be chosen for one family only."""
    if window is not None:
        if config.eradio is None:
            raise ValueError(
                f"eradio_window_size is for E-RADIO, and {brief(config.architecture)} is none; leave it out"
            )
        if window not in WINDOW_RULES and (not isinstance(window, int) or not 1 <= window <= LARGEST_SIDE):
            raise ValueError(
                f"eradio_window_size must be at least 1 position, or one of {', '.join(WINDOW_RULES)}, "
                f"got {brief(window)}"
            )
        config = replace(config, eradio=replace(config.eradio, window_size=window))
    if neck is not None:
        if config.radio1d is None:
            raise ValueError(
                f"neck_name is for RADIO1D, and {brief(config.architecture)} is none; leave it out"
            )
        if neck not in NECKS:
            raise ValueError(
                f"unknown neck_name {brief(neck)}; allowed: {', '.join(NECKS)}, or None for both"
            )
        config = replace(config, radio1d=replace(config.radio1d, neck_name=neck))
    return config


def settings_of_release(release: Release | None) -> Settings:
    """What the catalog says about a version; nothing without one."""
    if release is None:
        return Settings()
    return Settings(
        max_resolution=release.max_resolution,
        preferred_resolution=release.preferred_resolution,
        vitdet_num_global=release.vitdet_num_global,
        vitdet_num_windowed=release.vitdet_num_windowed,
        pos_embed_align_corners=release.pos_embed_align_corners,
    )


def settings_of_repository(stated: Mapping[str, Any], source: str) -> Settings:
    """What a Hub repository's ``config.json`` says; a torch file says nothing.

    Raises:
        CheckpointError: A field has the wrong type.
    """
    numbers = {
        name: whole_number(stated[name], name, source)
        for name in ("max_resolution", "vitdet_window_size", "vitdet_num_global", "vitdet_num_windowed")
        if stated.get(name) is not None
    }
    preferred = stated.get("preferred_resolution")
    if preferred is not None:
        if not isinstance(preferred, (list, tuple)) or len(preferred) != 2:
            raise CheckpointError(
                f"{source}: preferred_resolution must be a height and a width, got {brief(preferred)}"
            )
        height, width = (whole_number(side, "preferred_resolution", source) for side in preferred)
        preferred = (height, width)
    align_corners = stated.get("pos_embed_align_corners")
    if align_corners is not None and not isinstance(align_corners, bool):
        raise CheckpointError(f"{source}: pos_embed_align_corners must be true or false")
    window, neck = stated.get("eradio_window_size"), stated.get("neck_name")
    if window is not None and not isinstance(window, str):
        window = whole_number(window, "eradio_window_size", source)
    if neck is not None and not isinstance(neck, str):
        raise CheckpointError(f"{source}: neck_name must be a text, got {brief(neck)}")
    return Settings(
        preferred_resolution=preferred,
        pos_embed_align_corners=align_corners,
        eradio_window_size=window,
        neck_name=neck,
        **numbers,
    )
