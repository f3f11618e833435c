"""Images in: from paths, PIL images, NumPy arrays and tensors to float tensors in [0, 1], at sizes a model supports.

>>> from radio.images import load_image, resize_image
>>> pixels = resize_image(load_image("photo.jpg"), "short:512", step=16)
"""

from radio.images.opening import MAX_PIXELS, RASTER_FORMATS
from radio.images.ranges import check_range
from radio.images.reading import (
    IMAGE_SUFFIXES,
    ImageInput,
    as_list,
    image_name,
    is_batch,
    load_image,
    load_images,
)
from radio.images.sizing import SizeSpec, center_crop, nearest_supported, resize_image, target_size

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "RASTER_FORMATS",
    "ImageInput",
    "SizeSpec",
    "as_list",
    "center_crop",
    "check_range",
    "image_name",
    "is_batch",
    "load_image",
    "load_images",
    "nearest_supported",
    "resize_image",
    "target_size",
]
