"""Fuzz target of image reading: any bytes are an image or an `ImageError`, and nothing else happens.

    python tests/fuzz/images.py -max_total_time=300              # minutes, guided by coverage (extra: fuzz)
    python tests/fuzz/images.py out/corpus -max_total_time=300   # keeps what it finds in out/corpus

`test_replay_images.py` runs mutations of every format for some seconds, without coverage.
"""

from __future__ import annotations

import io
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

LARGEST = 2**20
"""Pixels that are decoded while fuzzing, so that millions of runs fit in memory."""


def seeds() -> dict[str, bytes]:
    """Small images of every format, with what their decoders have branches for."""
    from PIL import Image

    from radio.images import RASTER_FORMATS

    Image.init()
    noise = Image.effect_noise((16, 12), 90).convert("RGB")
    variants: dict[str, list[tuple[Any, dict]]] = {
        "PNG": [(noise.convert(mode), {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
        "TIFF": [
            (noise, {"compression": name}) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")
        ],
        "JPEG": [
            (noise, {}),
            (noise, {"progressive": True}),
            (noise.convert("CMYK"), {}),
            (noise.convert("L"), {}),
        ],
        "GIF": [(noise, {}), (noise, {"save_all": True, "append_images": [noise.rotate(180)]})],
        "WEBP": [(noise, {}), (noise, {"lossless": True}), (noise.convert("RGBA"), {})],
        "BMP": [(noise, {}), (noise.convert("P"), {}), (noise.convert("1"), {})],
        "PPM": [(noise, {}), (noise.convert("L"), {}), (noise.convert("1"), {})],
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    variants["JPEG"].append((noise, {"exif": exif}))
    found = {}
    for kind in RASTER_FORMATS:
        if kind not in Image.SAVE:
            continue
        for number, (image, options) in enumerate(variants.get(kind, [(noise, {})])):
            file = io.BytesIO()
            image.save(file, format=kind, **options)
            found[f"{kind.lower()}-{number}"] = file.getvalue()
    return found


def read_any(content: bytes) -> bool:
    """Whether the bytes were an image; anything but a sound image or an `ImageError` is a finding."""
    import torch

    from radio.errors import ImageError
    from radio.images import load_image, resize_image

    try:
        pixels = load_image(content)
    except ImageError as error:
        assert str(error).isprintable() and len(str(error)) < 1500, "a message for people"
        return False
    assert pixels.dtype == torch.float32 and pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.numel()
    assert float(pixels.min()) >= 0 and float(pixels.max()) <= 1
    resized = resize_image(pixels, "crop:32x32", 16)
    assert resized.shape == (3, 32, 32)
    return True


def main() -> None:
    """Search guided by coverage until libFuzzer's arguments say stop."""
    import atheris

    with atheris.instrument_imports(include=["radio.images", "PIL"]):
        from radio.images import opening
    opening.MAX_PIXELS = LARGEST
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in seeds().items():
            Path(folder, name).write_bytes(content)
        for place in (argument for argument in sys.argv[1:] if not argument.startswith("-")):
            Path(place).mkdir(parents=True, exist_ok=True)
        options = ["-rss_limit_mb=4096", "-timeout=20"]
        atheris.Setup([*sys.argv, *options, folder], lambda content: read_any(content) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
