"""What callers ask for: which combinations have a meaning, and which merging is for which image."""

from __future__ import annotations

from collections.abc import Sequence

from radio.modeling.token_merging.in_network import InNetworkMerging
from radio.modeling.token_merging.merge import TokenMerging
from radio.wording import counted


def merging_per_image(
    merge: TokenMerging | Sequence[TokenMerging] | None, count: int
) -> Sequence[TokenMerging | None]:
    """One merging for each of `count` images.

    Raises:
        ValueError: A sequence of another length was given.
    """
    if merge is None or isinstance(merge, TokenMerging):
        return [merge] * count
    if len(merge) != count:
        raise ValueError(
            f"merge lists {len(merge)} TokenMerging for {counted(count, 'image')}; give one for each, or one for all"
        )
    return merge


def check_merging(
    merge: TokenMerging | Sequence[TokenMerging] | None,
    tome: InNetworkMerging | None,
    feature_fmt: str,
    one_size: bool,
    windowed: bool,
) -> None:
    """Check that what is asked for goes together.

    Args:
        merge: Merging of the final features.
        tome: Merging inside the network.
        feature_fmt: ``"NLC"`` or ``"NCHW"``.
        one_size: Whether the images come as one tensor, not as a list.
        windowed: Whether the model has ViTDet windows.

    Raises:
        TypeError: `merge` or `tome` is something else than it should be.
        ValueError: The combination has no meaning.
    """
    if tome is not None and not isinstance(tome, InNetworkMerging):
        raise TypeError(
            f"tome must be an InNetworkMerging, e.g. InNetworkMerging(r=8), got {type(tome).__name__}"
        )
    if (
        merge is not None
        and not isinstance(merge, TokenMerging)
        and (one_size or not isinstance(merge, Sequence))
    ):
        raise TypeError(
            f"merge must be a TokenMerging, e.g. TokenMerging(keep=196), got {type(merge).__name__}; "
            "one for each image needs a list of images"
        )
    if isinstance(merge, Sequence) and not all(isinstance(one, TokenMerging) for one in merge):
        raise TypeError(f"merge must list one TokenMerging for each image, got {list(merge)}")
    compact = tome is not None and not tome.expand
    if (merge is not None or compact) and feature_fmt != "NLC":
        raise ValueError(
            f"merged tokens do not lie on a grid, so the feature format must be 'NLC', got {feature_fmt!r}; "
            "output.plan.unmerge(output.features) spreads them back onto the patches"
        )
    if merge is not None and compact:
        raise ValueError(
            "merge= needs the full grid; use InNetworkMerging(..., expand=True) together with it"
        )
    if tome is not None and windowed:
        raise ValueError(
            "merging inside the network takes patches out of their ViTDet windows; load the model with "
            "vitdet_window_size=None, or merge the final features with merge=TokenMerging(...)"
        )
