"""Which model is taken when the user named none."""

from __future__ import annotations

import logging

from radio.catalog import RELEASES, get_release
from radio.demo.fetching import DEMO_LICENSE, DEMO_NAME
from radio.download import DEFAULT_OPTIONS, DownloadOptions, check_hub, is_cached
from radio.errors import DownloadError

logger = logging.getLogger(__name__)

DEFAULT_VERSION = "c-radio_v3-b"
"""The smallest released version whose license allows commercial use."""


def choose_version(with_text: bool = False, options: DownloadOptions = DEFAULT_OPTIONS) -> str:
    """The version for a call that names none, and a line in the log that says so.

    That is `DEFAULT_VERSION` where it is in the cache or the Hub answers, else a version that is in the cache, else
    ``"demo-vit-s"``. Call it only where the user named no model.

    Args:
        with_text: The model must understand words, which ``"demo-vit-s"`` does not.
        options: Where the cache is.

    Raises:
        DownloadError: A model with text is needed and none can be had.
    """
    release = get_release(DEFAULT_VERSION)
    try:
        if not is_cached(release, options):
            check_hub(release.repository, [], f"{DEFAULT_VERSION} is not in the cache")
    except DownloadError as error:
        here = [each for each in RELEASES if is_cached(each, options) and (each.adaptors or not with_text)]
        if here:
            release = here[0]
        elif with_text:
            raise DownloadError(
                f"words need a model with text; none is in the cache, the Hugging Face Hub cannot be reached, and "
                f"{DEMO_NAME} has no text. Name one with --model, such as the path of a released file"
            ) from error
        else:
            logger.warning(
                "no model was named, no version is in the cache and the Hugging Face Hub cannot be reached: taking "
                "%s, a small backbone that is not a RADIO model (license: %s; see 'radio info %s')",
                DEMO_NAME,
                DEMO_LICENSE,
                DEMO_NAME,
            )
            return DEMO_NAME
    logger.warning("no model was named: taking %s (license: %s)", release.version, release.license)
    return release.version
