"""Images of every kind become the same float tensor."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from radio.errors import ImageError
from radio.images import is_batch, load_image, load_images, opening, resize_image


@pytest.fixture
def photo(photos: list[Path]) -> Path:
    return photos[0]


@pytest.fixture
def pixels(photo: Path) -> np.ndarray:
    return np.asarray(Image.open(photo).convert("RGB"))


def test_every_kind_of_input_gives_the_same_pixels(photo: Path, pixels: np.ndarray) -> None:
    expected = torch.tensor(pixels).permute(2, 0, 1) / 255
    tensor = torch.tensor(pixels).permute(2, 0, 1)
    kinds = {
        "str": str(photo),
        "path": photo,
        "pil": Image.open(photo),
        "uint8 array": pixels,
        "float array": pixels.astype(np.float32) / np.float32(255),
        "float64 array": pixels / 255,
        "uint8 tensor": tensor,
        "float tensor": tensor / 255,
        "reversed view": pixels[::-1, :, ::-1][::-1, :, ::-1],
    }
    for kind, image in kinds.items():
        loaded = load_image(image)
        assert loaded.dtype == torch.float32
        assert loaded.shape == (3, *pixels.shape[:2])
        torch.testing.assert_close(loaded, expected, rtol=0, atol=1e-7, msg=kind)
        resized = resize_image(loaded, "short:96", step=16)
        torch.testing.assert_close(
            resized, resize_image(expected, "short:96", step=16), rtol=0, atol=1e-6, msg=kind
        )


def test_exif_orientation_is_applied(tmp_path: Path, photo: Path) -> None:
    upright = Image.open(photo).resize((40, 24))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / f"{orientation}.png"
        upright.save(file, exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
        loaded = load_image(file)
        assert torch.equal(loaded, torch.tensor(expected).permute(2, 0, 1) / 255)
        assert loaded.shape == ((3, 24, 40) if orientation < 5 else (3, 40, 24))


def test_transparency_is_composited_on_white_or_a_given_background(tmp_path: Path) -> None:
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[:, :3, 3] = 255
    rgba[:, 3:, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    palette = Image.new("P", (6, 4))
    palette.putpalette([255, 0, 0, 9, 9, 9])
    palette.paste(1, (3, 0, 6, 4))
    palette.save(tmp_path / "palette.png", transparency=1)
    chw = torch.tensor(rgba).permute(2, 0, 1)
    for image in (tmp_path / "rgba.png", tmp_path / "palette.png", rgba, rgba / 255, chw, chw / 255):
        loaded = load_image(image)
        assert loaded[:, 0, 0].tolist() == [1, 0, 0]
        assert loaded[:, 0, 5].tolist() == [1, 1, 1]
        assert load_image(image, background=(0, 0, 1))[:, 0, 5].tolist() == [0, 0, 1]


def test_grey_with_premultiplied_alpha() -> None:
    image = Image.new("LA", (3, 2), (100, 255))
    assert torch.equal(load_image(image.convert("La")), load_image(image))


def test_half_transparent_pixels_are_mixed() -> None:
    assert load_image(np.full((1, 1, 4), 51, np.uint8)).flatten().tolist() == pytest.approx(
        [0.2 * 0.2 + 0.8] * 3
    )


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_modes_that_pillow_converts(photo: Path, mode: str) -> None:
    image = Image.open(photo).resize((32, 24)).convert("L" if mode == "LA" else "RGB").convert(mode)
    loaded = load_image(image)
    assert torch.equal(loaded, torch.tensor(np.asarray(image.convert("RGB"))).permute(2, 0, 1) / 255)


def test_grey_of_8_and_16_bits_and_float(tmp_path: Path) -> None:
    values = np.array([[0, 32768], [65535, 257]], np.uint16)
    Image.fromarray(values).save(tmp_path / "16.png")
    Image.fromarray(values).save(tmp_path / "16.tif")
    expected = torch.tensor(values / 65535, dtype=torch.float32).expand(3, 2, 2)
    images = [
        tmp_path / "16.png",
        tmp_path / "16.tif",
        values,
        values[..., None],
        values.astype(">u2"),
        values / 65535,
        Image.fromarray(values.astype(np.int32)),
        Image.fromarray((values / 65535).astype(np.float32)),
        torch.tensor(values),
        torch.tensor(values / 65535)[None],
    ]
    for image in images:
        torch.testing.assert_close(load_image(image), expected, rtol=0, atol=1e-7)
    assert load_image(np.array([[0, 255]], np.uint8)).tolist() == [[[0, 1]]] * 3


def test_inputs_are_not_changed(photo: Path, pixels: np.ndarray) -> None:
    tensor = torch.tensor(pixels).permute(2, 0, 1) / 255
    array, pil = pixels.copy(), Image.open(photo)
    before = tensor.clone()
    for image in (tensor, array, pil):
        resize_image(load_image(image), "crop:64x32")
    assert torch.equal(tensor, before)
    assert np.array_equal(array, pixels)
    assert pil.mode == "RGB"
    assert np.array_equal(np.asarray(pil), pixels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(dtype: torch.dtype) -> None:
    image = torch.rand(3, 4, 5).to(dtype)
    assert torch.equal(load_image(image), image.float())


@pytest.mark.parametrize(
    ("image", "looks_like"),
    [
        (torch.rand(3, 8, 8) * 255, "0…255: divide by 255"),
        ((np.random.default_rng(0).random((8, 8, 3)) * 255).astype(np.float32), "0…255: divide by 255"),
        (torch.rand(3, 8, 8) * 65535, "16-bit values"),
        (torch.rand(3, 8, 8) * 2 - 1, r"normalized to \[-1, 1\]"),
        ((torch.rand(3, 8, 8) - 0.45) / 0.225, "already normalized by a mean"),
        (torch.rand(3, 8, 8) * 1.1 - 0.05, "overshoot"),
        (torch.rand(3, 8, 8) * 1e6 - 5e5, "Scale the values"),
        (torch.tensor([[0.0, float("nan")]]), "NaN or infinite"),
        (np.array([[0.0, float("inf")]]), "NaN or infinite"),
    ],
)
def test_wrong_ranges_are_explained(image: object, looks_like: str) -> None:
    with pytest.raises(ImageError, match=looks_like):
        load_image(image)


def test_rounding_errors_around_the_range_are_clamped() -> None:
    assert load_image(torch.tensor([[-1e-6, 1 + 1e-6]]))[0].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"looks like \(channels, H, W\)"),
        (torch.zeros(20, 30, 3), r"looks like \(H, W, channels\)"),
        (torch.zeros(2, 3, 8, 8), "looks like a batch"),
        (np.zeros((2, 8, 8, 3), np.uint8), "looks like a batch"),
        (np.zeros((8, 8, 3), np.int64), "int64; pixels must be uint8"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), "int32; pixels must be uint8"),
        (torch.zeros(3, 0, 8), "is empty"),
        (np.zeros((0, 8, 3), np.uint8), "is empty"),
        (Image.fromarray(np.array([[0, 70000]], np.int32)), "integers from 0 to 70000"),
    ],
)
def test_wrong_shapes_and_types_are_explained(image: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(image)


def test_files_that_are_no_images_are_named(tmp_path: Path, photo: Path) -> None:
    truncated = tmp_path / "truncated.jpg"
    truncated.write_bytes(photo.read_bytes()[:5000])
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    empty = tmp_path / "empty.png"
    empty.touch()
    damaged = tmp_path / "damaged.png"
    Image.open(photo).resize((64, 64)).save(damaged)
    content = bytearray(damaged.read_bytes())
    content[60:2000] = bytes(1940)
    damaged.write_bytes(content)
    missing = tmp_path / "missing.jpg"
    for path, reason in [
        (truncated, "cut short or damaged"),
        (text, "not an image"),
        (empty, "it is empty"),
        (damaged, "damaged"),
        (missing, "there is no image file"),
        (tmp_path, "is a folder"),
    ]:
        with pytest.raises(ImageError, match=reason) as caught:
            load_image(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="download the image"):
        load_image("https://example.org/photo.jpg")
    with pytest.raises(TypeError, match="got dict"):
        load_image({})


def test_a_truncated_pil_image_is_named(tmp_path: Path, photo: Path) -> None:
    (tmp_path / "half.jpg").write_bytes(photo.read_bytes()[:5000])
    with pytest.raises(ImageError, match=r"half\.jpg"):
        load_image(Image.open(tmp_path / "half.jpg"))


def test_one_image_several_or_a_batch(photos: list[Path]) -> None:
    batch = torch.rand(2, 3, 8, 6)
    assert not is_batch(photos[0])
    assert not is_batch(batch[0])
    assert is_batch(photos)
    assert is_batch(batch)
    assert torch.equal(torch.stack(load_images(batch)), batch)
    assert len(load_images(photos[0])) == 1
    mixed = load_images([photos[0], batch[0], np.zeros((5, 4), np.uint8)])
    assert [image.shape[0] for image in mixed] == [3, 3, 3]
    assert [tuple(image.shape[1:]) for image in mixed[1:]] == [(8, 6), (5, 4)]
    assert [tuple(image.shape) for image in load_images(np.zeros((2, 5, 4, 3), np.uint8))] == [(3, 5, 4)] * 2


def test_of_several_images_the_wrong_one_is_named(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"image 1 of 2: .*missing\.png"):
        load_images([photos[0], tmp_path / "missing.png"])


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_few_bits_in_a_file_of_16_are_said(bits: int, tmp_path: Path) -> None:
    values = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "scan.png")
    looks_like = rf"scan\.png has 16 bits .* looks like {bits}-bit .* divided by {2**bits - 1}"
    with pytest.warns(UserWarning, match=looks_like):
        load_image(tmp_path / "scan.png")
    assert load_image(values / (2**bits - 1)).max() == 1


def test_whole_16_bits_are_not(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for highest in (0, 200, 40_000, 65_535):
        Image.fromarray(np.full((8, 8), highest, np.uint16)).save(tmp_path / "scan.png")
        load_image(tmp_path / "scan.png")
    assert not recwarn.list


def _png_of_16_bits(path: Path, values: np.ndarray) -> None:
    """A color PNG of 16 bits, which Pillow reads and does not write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {2: 4, 3: 2, 4: 6}[channels]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
    ]
    parts = [
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d))
        for n, d in (*chunks, (b"IEND", b""))
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_few_bits_are_said_of_arrays_tensors_and_colors(bits: int, tmp_path: Path) -> None:
    values = np.linspace(0, 2**bits - 1, 192).astype(np.uint16).reshape(8, 8, 3)
    _png_of_16_bits(tmp_path / "scan.png", values)
    with_alpha = np.concatenate([values, np.full((8, 8, 1), 65535, np.uint16)], axis=2)
    _png_of_16_bits(tmp_path / "alpha.png", with_alpha)
    given = (values, torch.from_numpy(values).permute(2, 0, 1), tmp_path / "scan.png", tmp_path / "alpha.png")
    for image in given:
        with pytest.warns(
            UserWarning, match=f"looks like {bits}-bit data .* divided by {2**bits - 1}"
        ) as seen:
            load_image(image)
        assert len(seen) == 1 and seen[0].filename == __file__
    with pytest.raises(ImageError, match=f"looks like {bits}-bit values: divide by {2**bits - 1}"):
        load_image(values.astype(np.float32))


def test_bright_16_bit_colors_are_not_questioned(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for highest in (0, 200, 40_000):
        values = np.full((4, 4, 3), highest, np.uint16)
        _png_of_16_bits(tmp_path / "scan.png", values)
        load_image(tmp_path / "scan.png")
        load_image(values)
    assert not recwarn.list


def test_rows_with_one_image_under_any_name(photo: Path) -> None:
    expected = load_image(photo)
    content = photo.read_bytes()
    for row in (
        {"img": Image.open(photo), "label": 1},
        {"jpg": {"bytes": content, "path": None}, "__key__": "a"},
    ):
        assert torch.equal(load_image(row), expected)
    for row in ({"left": Image.open(photo), "right": Image.open(photo)}, {"label": 1}):
        with pytest.raises(TypeError, match=r"row\['name'\]"):
            load_image(row)


def test_columns_of_datasets_are_several_images(photo: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"image": [str(photo)] * 2}).cast_column("image", datasets.Image())
    assert len(load_images(rows["image"])) == 2


def test_avif_says_which_pillow_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.avif"
    path.write_bytes(b"\0\0\0\x18ftypavif" + bytes(100))
    monkeypatch.setattr(opening, "_formats", lambda: ["JPEG", "PNG"])
    with pytest.raises(ImageError, match=r"AVIF image, .*'pillow>=11\.3"):
        load_image(path)


def test_heic_needs_its_package_and_says_so(tmp_path: Path, photo: Path) -> None:
    path = tmp_path / "IMG_0001.HEIC"
    try:
        import pillow_heif
    except ImportError:
        path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
        with pytest.raises(ImageError, match=r"HEIC image, which needs the package pillow-heif"):
            load_image(path)
        return
    small = Image.open(photo).convert("RGB").resize((64, 48))
    pillow_heif.from_pillow(small).save(path, quality=95)
    expected = load_image(small)
    assert (load_image(path) - expected).abs().mean() < 0.03
    assert (load_image(path.read_bytes()) - expected).abs().mean() < 0.03
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ImageError, match="HEIC"):
        load_image(path)


def _jpeg(photo: Path) -> bytes:
    content = io.BytesIO()
    Image.open(photo).resize((48, 32)).save(content, "JPEG")
    return content.getvalue()


class _Answer(io.RawIOBase):
    """An answer of a server: it comes in pieces and cannot be rewound."""

    def __init__(self, content: bytes) -> None:
        self.left = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), 100)
        part, self.left = self.left[:count], self.left[count:]
        buffer[: len(part)] = part
        return len(part)


class _Minimal:
    """Only what some storage clients have."""

    def __init__(self, content: bytes) -> None:
        self.read = io.BytesIO(content).read


def test_streams_and_encoded_arrays(photo: Path, tmp_path: Path) -> None:
    content = _jpeg(photo)
    expected = load_image(content)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", content)
    source, sink = os.pipe()
    os.write(sink, content[:60_000])
    os.close(sink)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, os.fdopen(source, "rb", buffering=0) as pipe:
        for given in (
            pipe,
            archive.open("a.jpg"),
            _Answer(content),
            _Minimal(content),
            memoryview(content),
            np.frombuffer(content, np.uint8),  # as cv2.imencode gives it
            torch.frombuffer(bytearray(content), dtype=torch.uint8),  # as torchvision.io.read_file
        ):
            assert torch.equal(load_image(given), expected)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="open as text"):
        load_image(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="not an image"):
        load_image(np.zeros(100, np.uint8))
    with pytest.raises(ImageError, match=r"data URI.*b64decode"):
        load_image("data:image/jpeg;base64,/9j/4AAQ")


def test_rows_as_data_sets_have_them(photo: Path) -> None:
    content, path = _jpeg(photo), str(photo)
    small = load_image(content)
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    for row in (
        {"jpg": content, "txt": "a caption", "__key__": "0001"},  # webdataset
        {"image_bytes": content, "label": 3},
        {"img": pixels, "label": 3},
        {"pixels": torch.from_numpy(pixels.copy()).permute(2, 0, 1), "box": torch.rand(1, 4)},
        {"images": [Image.open(io.BytesIO(content))], "messages": []},  # vision-language data
        {"image": [content]},
        {"png": Image.open(io.BytesIO(content)), "boxes": np.zeros((1, 2, 3))},
    ):
        assert torch.equal(load_image(row), small), list(row)
    whole = load_image(path)
    for name in ("image_path", "file_name", "filepath", "file"):
        assert torch.equal(load_image({name: path, "label": 3, "caption": "a path"}), whole)
    for row, message in (
        ({"image": [content, content]}, "has 2 images under 'image'; give the list itself"),
        ({"left": content, "right": content}, r"row\['name'\]"),
        ({"rgb": pixels, "depth": pixels}, r"row\['name'\]"),
        ({"embedding": np.zeros(8), "box": np.zeros((2, 4)), "caption": path}, r"row\['name'\]"),
        ({"image": None}, r"row\['name'\]"),
    ):
        with pytest.raises(TypeError, match=message):
            load_image(row)


def test_several_images_in_any_container(photo: Path) -> None:
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    paths = [str(photo)] * 2
    rows = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    for several in (
        rows,
        rows.to_iterable_dataset(),
        pandas.Series(paths),
        np.array(paths),
        np.array(paths, object),
        dict.fromkeys([paths[0], photo]).keys(),
    ):
        assert len(load_images(several)) == 2

    class OtherLibrary:
        """An array of one image, whose rows are no images."""

        ndim = 3

        def __iter__(self) -> Iterator[np.ndarray]:
            return iter(np.zeros((4, 4, 3), np.uint8))

    with pytest.raises(TypeError, match="got OtherLibrary"):
        load_images(OtherLibrary())  # type: ignore[arg-type]


def _ppm(path: Path, values: np.ndarray, largest: int) -> Path:
    height, width = values.shape[:2]
    path.write_bytes(b"P6 %d %d %d\n" % (width, height, largest) + values.astype(">u2").tobytes())
    return path


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_few_bits_in_a_color_ppm_are_said(bits: int, tmp_path: Path) -> None:
    values = np.linspace(0, 2**bits - 1, 192).astype(np.uint16).reshape(8, 8, 3)
    with pytest.warns(UserWarning, match=f"no value above {2**bits - 1}: it looks like {bits}-bit data"):
        load_image(_ppm(tmp_path / "scan.ppm", values, 65535))


def test_ppm_files_that_name_their_largest_value_are_scaled(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    values = np.linspace(0, 4095, 192).astype(np.uint16).reshape(8, 8, 3)
    pixels = load_image(_ppm(tmp_path / "camera.ppm", values, 4095))
    expected = torch.from_numpy(values / 4095).permute(2, 0, 1).float()
    torch.testing.assert_close(pixels, expected, rtol=0, atol=0.5 / 255 + 1e-6)
    load_image(_ppm(tmp_path / "dark.ppm", values // 16, 4095))  # dark, and right
    load_image(_ppm(tmp_path / "bright.ppm", values * 16, 65535))
    assert not recwarn.list
