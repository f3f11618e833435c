"""``radio features``: the features of images, in a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radio.cli.common import (
    find_images,
    load_chosen_model,
    print_result,
    print_skipped,
    progress,
)
from radio.cli.options import (
    add_adaptor,
    add_batch_size,
    add_execution,
    add_feature_fmt,
    add_json,
    add_model,
    add_output,
    add_size,
    add_skip_unreadable,
    positive_int,
)
from radio.files import Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from radio.encoding import Encoding
    from radio.model import RADIOModel

_SUFFIXES = (".safetensors", ".npz")

_EPILOG = """\
OUT.safetensors or OUT.npz holds, for N images:
  summary              (N, D)
  features.0 ... N-1   (C, h, w) each, or (L, C) with --feature-fmt NLC
  image_sizes          (N, 2) height and width at which the images were run
  NAME.summary, NAME.features.0 ...   the same for each --adaptor, and for the encoder of RADIO1D
and, as metadata (a JSON text under 'metadata' in .npz): the model, its version and settings, and the images' paths.
A folder gets one such file for each image, named after it: OUT/photo.safetensors. Choose that for many images: what
goes into one file is held in memory until it is written.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them"
    )
    add_output(parser, "OUT.safetensors, OUT.npz, or a folder", type=str)
    add_model(parser, optional=True)
    add_adaptor(parser, "also give the outputs in this teacher's space (clip, sam, ...); may be repeated")
    add_size(parser)
    add_feature_fmt(parser, "NCHW")
    parser.add_argument(
        "--output-dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of the numbers in the file (default: float16 if the model computes in it, else float32; NumPy has no "
        "bfloat16)",
    )
    parser.add_argument("--summary-only", action="store_true", help="leave out the spatial features")
    add_batch_size(parser, 8)
    add_skip_unreadable(parser)
    add_json(parser)
    parser.add_argument(
        "--num-tokens",
        type=positive_int,
        metavar="K",
        help="RADIO1D: condensed tokens of each image (default: all)",
    )
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Encode the images and write what comes out."""
    images = find_images(args.images)
    targets = _targets(args.output, images)
    if args.output_dtype == "bfloat16" and args.output.endswith(".npz"):
        raise ValueError(
            "an .npz file cannot hold bfloat16; choose float16 or float32, or write .safetensors"
        )
    outputs = Outputs([*images, args.model])
    outputs.check(*targets)
    model = load_chosen_model(args)
    outputs.add_inputs(model.checkpoint_path)
    identity = _identity(model, args)
    shapes: list[tuple[int, ...]] = []
    if len(targets) == 1:
        encoded = dict(_encode(model, images, args))
        shapes += [tuple(encoding.features.shape[1:]) for encoding in encoded.values()]
        if encoded:
            sources = [images[number] for number in encoded]
            _write(outputs, targets[0], list(encoded.values()), sources, identity, args.summary_only)
    else:
        for number, encoding in _encode(model, images, args):
            shapes.append(tuple(encoding.features.shape[1:]))
            _write(outputs, targets[number], [encoding], [images[number]], identity, args.summary_only)
    if not shapes:
        raise ValueError("none of the images can be read; nothing was written")
    where = targets[0] if len(targets) == 1 else targets[0].parent
    kinds = set(shapes)
    features = "x".join(map(str, shapes[0])) if len(kinds) == 1 else f"of {len(kinds)} sizes"
    skipped = len(images) - len(shapes)
    lines = [
        f"wrote {where}",
        f"images: {len(shapes)}, summary: {model.summary_dim} numbers, features: {features}",
    ]
    result = {
        "output": where,
        "images": len(shapes),
        "skipped": skipped,
        "summary": model.summary_dim,
        "features": sorted(kinds),
    }
    print_result(args, result, [*lines, f"skipped: {skipped}"] if skipped else lines)


def _targets(output: str, images: list[Path]) -> list[Path]:
    """The one file for all images, or in a folder one for each."""
    path = Path(output)
    if path.suffix in _SUFFIXES and not path.is_dir():
        return [path]
    if path.suffix and not path.is_dir() and not output.endswith("/"):
        raise ValueError(f"cannot write {path.suffix!r}; allowed: {', '.join(_SUFFIXES)}, or a folder")
    targets = [path / f"{image.stem}.safetensors" for image in images]
    seen: dict[Path, Path] = {}
    for target, image in zip(targets, images, strict=True):
        if target in seen:
            raise ValueError(
                f"{seen[target]} and {image} would both become {target}; write them to one file instead"
            )
        seen[target] = image
    return targets


def _encode(
    model: RADIOModel, images: list[Path], args: argparse.Namespace
) -> Iterator[tuple[int, Encoding]]:
    """Encode batch by batch, so that memory does not grow with the number of images."""
    starts = range(0, len(images), args.batch_size)
    for start in progress(starts, len(starts), "encoding"):
        batch: dict[int, Path | Tensor] = dict(enumerate(images[start : start + args.batch_size], start))
        if args.skip_unreadable:
            batch = dict(_readable(batch, model, args.size))
        encodings = model.encode(
            [*batch.values()], args.size, args.feature_fmt, args.batch_size, num_tokens=args.num_tokens
        )
        yield from zip(batch, encodings, strict=True)


def _readable(
    images: Mapping[int, Path | Tensor], model: RADIOModel, size: str | None
) -> Iterator[tuple[int, Tensor]]:
    """Those that can be read, at the size at which they run; the others are named on stderr."""
    from radio.errors import ImageError

    for number, image in images.items():
        try:
            pixels = model.resize(image, size)
        except ImageError as error:
            print_skipped("features", error)
        else:
            yield number, pixels


def _identity(model: RADIOModel, args: argparse.Namespace) -> dict[str, str]:
    from radio import __version__

    return {
        "model": args.model,
        "version": model.config.version,
        "architecture": model.config.architecture,
        "checkpoint": str(model.checkpoint_path),
        "dtype": str(model.dtype).removeprefix("torch."),
        "output_dtype": _output_dtype(model, args),
        "vitdet_window_size": str(model.window_size or ""),
        "patch_size": str(model.patch_size),
        "feature_format": args.feature_fmt,
        "radio": __version__,
    }


def _output_dtype(model: RADIOModel, args: argparse.Namespace) -> str:
    own = str(model.dtype).removeprefix("torch.")
    return args.output_dtype or (own if own == "float16" else "float32")


def _write(
    outputs: Outputs,
    path: Path,
    encodings: list[Encoding],
    images: list[Path],
    identity: dict[str, str],
    summary_only: bool,
) -> None:
    metadata = {**identity, "images": json.dumps([str(image) for image in images])}
    tensors = _tensors(encodings, summary_only, identity["output_dtype"])
    with outputs.write(path) as temporary:
        if path.suffix == ".npz":
            _save_npz(temporary, tensors, metadata)
        else:
            from radio.data.tensor_files import save_tensors

            save_tensors(temporary, tensors, metadata)


def _tensors(encodings: list[Encoding], summary_only: bool, dtype_name: str) -> dict[str, Tensor]:
    import torch

    dtype = getattr(torch, dtype_name)

    tensors: dict[str, Tensor] = {"image_sizes": torch.tensor([list(e.image_size) for e in encodings])}
    condensed = ["encoder"] if encodings[0].condensed is not None else []
    for name in ("", *encodings[0].adaptors, *condensed):
        outputs: list[Any] = [_output(encoding, name) for encoding in encodings]
        prefix = f"{name}." if name else ""
        tensors[f"{prefix}summary"] = torch.cat([output.summary for output in outputs]).to(dtype).cpu()
        if not summary_only:
            for number, output in enumerate(outputs):
                tensors[f"{prefix}features.{number}"] = output.features[0].contiguous().to(dtype).cpu()
    return tensors


def _output(encoding: Encoding, name: str) -> Any:
    """The backbone's output if there is no name, an adaptor's, or the condensed tokens."""
    if name == "encoder" and encoding.condensed is not None:
        return encoding.condensed
    return encoding.adaptors[name] if name else encoding.backbone


def _save_npz(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    import numpy as np

    arrays: dict[str, Any] = {name: value.numpy() for name, value in tensors.items()}
    np.savez(path, allow_pickle=False, metadata=np.array(json.dumps(metadata)), **arrays)
