"""Features of a whole data set: resumable, nothing lost, on one machine or many. Needs the ``extract`` extra.

>>> from radio import load_model
>>> from radio.extraction import ExtractionOptions, extract
>>> model = load_model("c-radio_v3-b", adaptors=["siglip2-g"])
>>> report = extract(["photos/"], model, "features/", ExtractionOptions(size=512))
"""

from radio.extraction.cache import CachedFeatures, cached_features
from radio.extraction.engine import Progress, Report, extract
from radio.extraction.inputs import Item, Listing, list_inputs
from radio.extraction.plan import ExtractionOptions
from radio.extraction.worker import Counts, TooManyFailuresError

__all__ = [
    "CachedFeatures",
    "Counts",
    "ExtractionOptions",
    "Item",
    "Listing",
    "Progress",
    "Report",
    "TooManyFailuresError",
    "cached_features",
    "extract",
    "list_inputs",
]
