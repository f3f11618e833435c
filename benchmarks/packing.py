"""Images of different sizes in one packed pass, against other ways to run them. Prints a markdown table.

    python benchmarks/packing.py                       # ViT-B in bfloat16: 16 images of 224 to 768 pixels
    python benchmarks/packing.py --dtype float32 --rounds 1
    python benchmarks/packing.py --quick               # a tiny model and small images, seconds
    python benchmarks/packing.py --device cuda --model ViT-L

The ways take turns. Before anything is timed, the outputs of all ways that compute the same are compared.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from peers import PATCH, SIZES, random_model, transformers_peer
from timing import CLOCKS, interleaved, print_header, print_row, print_table, ratios, spread
from torch import Tensor

from radio import RadioOutput
from radio.modeling.network import RADIONetwork
from radio.modeling.patch_generator import flatten_patches

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.05}


def image_sizes(count: int, smallest: int, largest: int) -> list[tuple[int, int]]:
    """Heights and widths with mixed aspect ratios, the same ones in every run."""
    sides = random.Random(0)
    return [
        (
            PATCH * sides.randint(smallest // PATCH, largest // PATCH),
            PATCH * sides.randint(smallest // PATCH, largest // PATCH),
        )
        for _ in range(count)
    ]


def one_by_one(model: RADIONetwork, images: list[Tensor]) -> list[RadioOutput]:
    """A forward pass for every image."""
    return [model(image[None]) for image in images]


def padded(model: RADIONetwork, images: list[Tensor]) -> RadioOutput:
    """One batch in which every image has the size of the largest. (Its outputs differ: padding is attended to.)"""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    return model(
        torch.stack(
            [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images]
        )
    )


def transformers_packed(model: RADIONetwork, images: list[Tensor]) -> Callable[[], list[Tensor]]:
    """transformers' packed pass with our weights; gives the features of every image."""
    peer = transformers_peer(model)
    grids = torch.tensor([(image.shape[1] // PATCH, image.shape[2] // PATCH) for image in images])
    counts = grids.prod(-1).tolist()
    grids = grids.to(model.device)

    def run() -> list[Tensor]:
        patches = torch.cat([flatten_patches(image[None], PATCH)[0] for image in images]).to(model.dtype)
        return list(peer(patches, image_grid_hw=grids).features.split(counts))

    return run


def check_equal(expected: list[RadioOutput], actual: list[Tensor], what: str, tolerance: float) -> float:
    """The largest difference over the largest value.

    Raises:
        RuntimeError: It is larger than the tolerance; then there is nothing to compare.
    """
    apart = max(
        float((a.float() - b.features[0].float()).abs().max() / b.features.float().abs().max())
        for a, b in zip(actual, expected, strict=True)
    )
    if not apart <= tolerance:
        raise RuntimeError(f"{what} is {apart:.2g} away from one by one, more than {tolerance:.2g}")
    return apart


def synchronized(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """The call, and waiting until a GPU has done it."""

    def run() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ViT-B", choices=SIZES)
    parser.add_argument("--dtype", default="bfloat16", choices=TOLERANCE)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--smallest", type=int, default=224, help="least side in pixels")
    parser.add_argument("--largest", type=int, default=768, help="largest side in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--quick", action="store_true", help="a tiny model and small images")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.quick:
        args.model, args.rounds, args.images, args.smallest, args.largest = "tiny", 1, 6, 32, 96
    device = torch.device(args.device)
    model = random_model(SIZES[args.model]).to(device, getattr(torch, args.dtype))
    sizes = image_sizes(args.images, args.smallest, args.largest)
    images = [torch.rand(3, *size).to(device) for size in sizes]

    peer = transformers_packed(model, images)
    expected = one_by_one(model, images)
    tolerance = TOLERANCE[args.dtype]
    ours_apart = check_equal(expected, [output.features[0] for output in model(images)], "packed", tolerance)
    peer_apart = check_equal(expected, peer(), "transformers", tolerance)
    del expected

    ways: dict[str, Callable[[], object]] = {
        "packed": lambda: model(images),
        "one by one": lambda: one_by_one(model, images),
        "padded to the largest": lambda: padded(model, images),
        "transformers, packed": peer,
    }
    calls = {name: synchronized(call, device) for name, call in ways.items()}
    seconds = interleaved(calls, args.rounds, CLOCKS[args.clock])

    print_header()
    tokens = sum(height * width for height, width in sizes) // PATCH**2
    images_of = f"{args.images} images of {args.smallest}–{args.largest} px"
    print_table(
        f"{args.model}, {args.dtype}, {images_of}, {tokens} patches, {args.clock} clock",
        ["way", "seconds", "time over packed", "largest difference to one by one"],
    )
    apart = {"packed": f"{ours_apart:.1e}", "one by one": "0", "transformers, packed": f"{peer_apart:.1e}"}
    for name, values in seconds.items():
        print_row(
            [
                name,
                str(spread(values)),
                str(ratios(values, seconds["packed"])),
                apart.get(name, "not the same"),
            ]
        )


if __name__ == "__main__":
    main()
