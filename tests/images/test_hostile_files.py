"""Files and objects that are no images, or too much of one: an ImageError at once, and nothing else happens."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from irregular import KINDS, make_irregular
from PIL import Image

from radio import ImageError, load_model
from radio.images import MAX_PIXELS, RASTER_FORMATS, load_image, load_images

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n10 10 moveto\nshowpage\n"


@pytest.fixture
def no_programs(tmp_path, monkeypatch):
    """Programs of these names would leave a file behind."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gs", "gswin32c", "gswin64c", "convert", "magick", "ffmpeg"):
        (folder / name).write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield
    assert not (tmp_path / "ran").exists(), "a program was started"


@pytest.mark.parametrize("name", ["photo.jpg", "photo.eps", "photo.png", "photo"])
@pytest.mark.parametrize(
    "start", [b"", b"\xc5\xd0\xd3\xc6" + struct.pack("<7I", 30, len(EPS), 0, 0, 0, 0, 0)[:26]]
)
def test_no_image_file_starts_a_program(name, start, tmp_path, no_programs):
    path = tmp_path / name
    path.write_bytes(start + EPS)
    for image in (path, path.read_bytes(), io.BytesIO(path.read_bytes()), {"path": str(path)}):
        with pytest.raises(ImageError, match="none of the formats that are read"):
            load_image(image)


def test_an_eps_image_that_pillow_opened_is_not_decoded_here(tmp_path, no_programs):
    (tmp_path / "photo.jpg").write_bytes(EPS)
    with (
        Image.open(tmp_path / "photo.jpg") as opened,
        pytest.raises(ImageError, match="format EPS, which is not read"),
    ):
        load_image(opened)


@pytest.mark.parametrize(
    "kind", ["ICNS", "ICO", "PCX", "SGI", "TGA", "DDS", "PDF", "MSP", "SPIDER", "IM", "XBM"]
)
def test_formats_that_are_not_listed_are_refused(kind, tmp_path):
    path = tmp_path / "photo.jpg"
    mode = "1" if kind in ("MSP", "XBM") else "F" if kind == "SPIDER" else "RGB"
    content = io.BytesIO()  # and not the path: SPIDER would take the suffix for its own from then on
    Image.new(mode, (32, 32)).save(content, format=kind)
    path.write_bytes(content.getvalue())
    with pytest.raises(ImageError, match=r"photo\.jpg"):
        load_image(path)


@pytest.mark.parametrize("kind", RASTER_FORMATS)
def test_listed_formats_are_read_whatever_the_name(kind, tmp_path):
    if kind not in Image.SAVE:
        pytest.skip("this Pillow was built without it")
    path = tmp_path / "photo.eps"
    options = {"quality": 100} if kind in ("JPEG", "MPO", "WEBP", "AVIF") else {}
    Image.new("RGB", (32, 16), (200, 100, 0)).save(path, format=kind, **options)
    for image in (
        path,
        path.read_bytes(),
        path.open("rb"),
        {"image": {"bytes": path.read_bytes(), "path": None}},
    ):
        found = load_image(image)
        assert found.shape == (3, 16, 32)
        assert found.mean(dim=(1, 2)).tolist() == pytest.approx([200 / 255, 100 / 255, 0], abs=0.03)


def test_pgm_and_pbm_are_ppm(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 2 1 255\n\x00\xff")
    assert load_image(tmp_path / "x.pgm")[0].tolist() == [[0, 1]]


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "folder", "link to itself", "link to a FIFO"])
def test_what_is_no_regular_file_is_refused_at_once(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "photo.jpg"
    if kind in KINDS:
        make_irregular(kind, path)
    elif kind == "link to itself":
        path.symlink_to(path)
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    start = time.monotonic()
    with pytest.raises(ImageError, match="photo.jpg") as caught:
        load_image(path)
    assert time.monotonic() - start < 5
    assert kind in ("link to itself", "folder") or "not a regular file" in str(caught.value)


def test_a_folder_of_images_has_regular_files_only(tmp_path, photos, reference, capsys):
    from radio.cli import main

    (tmp_path / "in" / "deep.jpg").mkdir(parents=True)
    os.mkfifo(tmp_path / "in" / "pipe.png")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "photo.jpg").symlink_to(photos[0])
    words = [str(tmp_path / "in"), "-m", str(reference / "v2_5" / "checkpoint.pth.tar"), "--size", "64"]
    assert main(["features", *words, "-o", str(tmp_path / "out.npz")]) == 0
    printed = capsys.readouterr()
    assert "images: 1" in printed.out
    assert "not taken for images" in printed.err and "deep.jpg, notes.txt, pipe.png" in printed.err


def _png(width: int, height: int) -> bytes:
    """A PNG of one color with two gray levels, which compresses to nearly nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    row = bytes(1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


_MEASURE = """
import resource, sys
import torch
from radio.images import load_image
load_image(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pixels = load_image(sys.argv[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((peak - before) * 1024 / (pixels.shape[1] * pixels.shape[2]))
"""


def test_a_large_image_takes_little_more_than_its_pixels(tmp_path, photos):
    """Pillow's bytes and twelve for the floats of a pixel; a 9000 x 9000 PNG took thirty-three."""
    path = tmp_path / "large.png"
    path.write_bytes(_png(9000, 9000))
    assert path.stat().st_size < 20_000
    command = [sys.executable, "-c", _MEASURE, str(path), str(photos[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) < 17


@pytest.mark.parametrize("size", [(16384, 8193), (1, MAX_PIXELS + 1), (2**31 - 1, 2**31 - 1), (60000, 60000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_more_pixels_than_any_camera_makes_are_refused(size, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(_png(16, 16).replace(struct.pack(">II", 16, 16), struct.pack(">II", *size)))
    content = bytearray(path.read_bytes())
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"bomb\.png"):
        load_image(path)
    with pytest.raises(ImageError):
        load_image(bytes(content))


NAMES = {
    "long name": "x" * 300 + ".jpg",
    "long path": "x" * 5000,
    "zero": "a\0b.jpg",
    "empty": "",
    "below a file": "photo.jpg/more.jpg",
    "not UTF-8": "\udcff.jpg",
    "escape codes": "\x1b[31mred\n.jpg",
    "bytes": b"photo.jpg",
}


@pytest.mark.parametrize("path", NAMES.values(), ids=NAMES)
def test_names_that_cannot_be_files(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("photo.jpg")
    with pytest.raises(ImageError) as caught:
        load_image(path)
    message = str(caught.value)
    assert len(message) < 1000 and message.isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(path)
    path.chmod(stat.S_IWUSR)
    with pytest.raises(ImageError, match="denied"):
        load_image(path)


def _with_attribute(name: str) -> torch.Tensor:
    tensor = torch.rand(3, 8, 8)
    setattr(tensor, name, None)
    return tensor


class Obstinate(torch.Tensor):
    """A subclass that refuses every operation."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError(f"no {function}")


UNUSUAL = {
    "sparse": lambda: torch.eye(8).to_sparse(),
    "sparse csr": lambda: torch.eye(8).to_sparse_csr(),
    "meta": lambda: torch.empty(3, 8, 8, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.rand(3, 8, 8)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.rand(8, 8), torch.rand(4, 8)], layout=torch.jagged),
    "quantized": lambda: torch.quantize_per_tensor(torch.rand(3, 8, 8), 0.1, 0, torch.quint8),
    "complex": lambda: torch.rand(3, 8, 8, dtype=torch.complex64),
    "bool": lambda: torch.ones(3, 8, 8, dtype=torch.bool),
    "float8": lambda: torch.full((3, 8, 8), float("nan")).to(torch.float8_e5m2),
    "int4": lambda: torch.empty(3, 8, 8, dtype=torch.uint4),
    "scalar": lambda: torch.tensor(1.0),
    "obstinate": lambda: torch.rand(3, 8, 8).as_subclass(Obstinate),
    "object array": lambda: np.array([[None]], dtype=object),
    "text array": lambda: np.array([["a"]]),
    "dates": lambda: np.zeros((8, 8), "datetime64[s]"),
    "records": lambda: np.zeros((8, 8), [("r", np.uint8)]),
    "complex array": lambda: np.zeros((8, 8), np.complex64),
    "too large for float32": lambda: np.full((8, 8), 1e300),
    "closed PIL image": lambda: _closed(),
    "closed file": lambda: _closed_file(),
    "text file": lambda: io.StringIO("no image"),
}


def _closed() -> Image.Image:
    image = Image.new("RGB", (8, 8))
    image.close()
    return image


def _closed_file() -> io.BytesIO:
    file = io.BytesIO(EPS)
    file.close()
    return file


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unusual_objects_are_an_image_error(kind):
    with pytest.raises(ImageError) as caught:
        load_image(UNUSUAL[kind]())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("kind", ["sparse", "meta", "nested", "quantized"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unusual_batches_are_an_image_error(kind, reference):
    batches = {
        "sparse": lambda: torch.rand(2, 3, 32, 32).to_sparse(),
        "meta": lambda: torch.empty(2, 3, 32, 32, device="meta"),
        "nested": lambda: torch.nested.nested_tensor([torch.rand(3, 32, 32)] * 2),
        "quantized": lambda: torch.quantize_per_tensor(torch.rand(2, 3, 32, 32), 0.1, 0, torch.quint8),
    }
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    for read in (model.encode, load_images):
        with pytest.raises(ImageError):
            read(batches[kind]())


@pytest.mark.parametrize("name", ["detach", "to", "numel", "device", "shape", "anything"])
def test_an_attribute_on_a_tensor_changes_nothing(name):
    tensor = torch.rand(3, 8, 8)
    expected = tensor.clone()
    try:
        setattr(tensor, name, None)
    except AttributeError:
        pytest.skip("torch does not allow it")
    assert torch.equal(load_image(tensor), expected)


@pytest.mark.parametrize(
    "thing",
    [
        SimpleNamespace(detach=None),
        SimpleNamespace(detach=lambda: None),
        3,
        None,
        {},
        {"image": None},
        object,
    ],
)
def test_what_is_no_image_at_all_is_a_type_error(thing):
    with pytest.raises(TypeError, match="got"):
        load_image(thing)


def test_subclasses_of_tensors_are_read(photos):
    class Labeled(torch.Tensor):
        pass

    values = torch.rand(3, 8, 8)
    found = load_image(values.as_subclass(Labeled))
    assert type(found) is torch.Tensor and torch.equal(found, values)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_files_cut_at_every_place(tmp_path):
    """A prefix of a file is an image error or, from some place on, an image; never another error."""
    for kind in RASTER_FORMATS:
        if kind not in Image.SAVE:
            continue
        whole = io.BytesIO()
        Image.effect_noise((24, 24), 90).convert("RGB").save(whole, format=kind)
        content = whole.getvalue()
        for length in range(0, len(content), max(len(content) // 40, 1)):
            try:
                load_image(content[:length])
            except ImageError:
                continue
            except Exception as error:
                pytest.fail(f"{kind} cut at {length}: {error!r}")


def test_every_command_names_a_pipe_and_goes_on_or_ends(tmp_path, photos, reference, capsys):
    from radio.cli import main

    os.mkfifo(tmp_path / "pipe.jpg")
    words = ["-m", str(reference / "v2_5" / "checkpoint.pth.tar"), "--size", "64"]
    both = [str(tmp_path / "pipe.jpg"), str(photos[0])]
    assert main(["features", *both, "-o", str(tmp_path / "out.npz"), *words]) == 1
    assert "named pipe (FIFO)" in capsys.readouterr().err
    for command in ("features", "pca"):
        out = str(tmp_path / "o.npz") if command == "features" else str(tmp_path / "pca")
        assert main([command, *both, "-o", out, "--skip-unreadable", *words]) == 0
        assert "skipped" in capsys.readouterr().err
    assert Path(tmp_path / "o.npz").exists()
