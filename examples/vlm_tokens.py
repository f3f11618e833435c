"""Photographs as few tokens of a language model: merge, project, and put them in front of a question.

    python examples/vlm_tokens.py --model radio_v2.5-l examples/images/*.jpg --picture tokens.png

The language model here is a tiny LLaMA with random weights, so its answers are noise; the way from pixels to
``inputs_embeds`` is the real one. Needs ``pip install '.[text]'``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM

import radio
from radio.drawing.pictures import save_picture
from radio.encoding import Encoding
from radio.files import Outputs
from radio.modeling.token_merging import TokenMerging


class Projector(nn.Module):
    """From the vision backbone's features to the language model's embeddings: a two-layer MLP plus the position."""

    def __init__(self, vision_dim: int, language_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.LayerNorm(vision_dim),
            nn.Linear(vision_dim, language_dim),
            nn.GELU(),
            nn.Linear(language_dim, language_dim),
        )

    def forward(self, features: Tensor, positions: Tensor) -> Tensor:
        """Features (K, C) at positions (K, 2) as embeddings (K, D)."""
        embedded = self.mlp(features.to(self.mlp[1].weight.dtype))
        return embedded + sine_cosine(positions, embedded.shape[-1]).to(embedded)


def sine_cosine(positions: Tensor, dim: int) -> Tensor:
    """Where a token lies: (row, column) pairs (K, 2) as (K, dim); fractions of a patch are welcome."""
    frequencies = 1000 ** -torch.linspace(0, 1, dim // 4, device=positions.device)
    angles = (positions[:, :, None] * frequencies).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def tiny_language_model() -> LlamaForCausalLM:
    """A LLaMA with random weights that reads and writes bytes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def language_inputs(
    language_model: LlamaForCausalLM, projector: Projector, encodings: Sequence[Encoding], question: str
) -> dict[str, Tensor]:
    """What the language model reads for each image: its tokens, then the question.

    Images have different numbers of tokens; shorter rows are padded on the left, where the attention mask is 0.

    Returns:
        ``inputs_embeds`` (B, N, D), ``attention_mask`` (B, N) and ``position_ids`` (B, N).
    """
    words = torch.tensor(list(question.encode()), device=language_model.device)
    text = language_model.get_input_embeddings()(words)
    rows = [
        torch.cat([projector(image.backbone.features[0], image.backbone.positions[0]), text])
        for image in encodings
    ]
    embeds = pad_sequence(rows, batch_first=True, padding_side="left")
    real = [torch.ones(len(row), dtype=torch.int64, device=embeds.device) for row in rows]
    mask = pad_sequence(real, batch_first=True, padding_side="left")
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}


def paint(photograph: Path, encoding: Encoding, cell: int = 24, gap: int = 24) -> Image.Image:
    """The photograph, and next to it the region of every token in the mean color of its patches.

    Args:
        photograph: The image that was encoded.
        encoding: Its encoding with merged tokens.
        cell: Side of a patch in the picture, in pixels.
        gap: Margin around both halves, in pixels.
    """
    rows, columns = encoding.grid
    height, width = rows * cell, columns * cell
    photo = ImageOps.exif_transpose(Image.open(photograph)).convert("RGB")
    photo = photo.resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(photo)).float()
    patches = pixels.reshape(rows, cell, columns, cell, 3).mean(dim=(1, 3))
    plan = encoding.backbone.plan
    colors = plan.unmerge(plan.reduce(patches.reshape(1, -1, 3).to(plan.sizes.device)))[0].cpu()
    painted = _enlarge(colors.reshape(rows, columns, 3), cell)

    tokens = _enlarge(plan.assignment.cpu().reshape(rows, columns), cell)
    border = torch.zeros(height, width, dtype=torch.bool)
    border[1:] |= tokens[1:] != tokens[:-1]
    border[:, 1:] |= tokens[:, 1:] != tokens[:, :-1]
    line = torch.where(painted.mean(dim=2, keepdim=True) > 90, 0.0, 255.0)
    painted = torch.where(border[:, :, None], 0.65 * painted + 0.35 * line, painted)

    canvas = torch.full((height + 2 * gap, 2 * width + 3 * gap, 3), 255.0)
    canvas[gap:-gap, gap : gap + width] = pixels
    canvas[gap:-gap, 2 * gap + width : -gap] = painted
    return Image.fromarray(canvas.round().to(torch.uint8).numpy())


def _enlarge(grid: Tensor, cell: int) -> Tensor:
    return grid.repeat_interleave(cell, dim=0).repeat_interleave(cell, dim=1)


def main() -> None:
    """Ask about every photograph."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--model", default="radio_v2.5-l", help="version, Hub repository or local path")
    parser.add_argument(
        "--size", help="e.g. short:768 (default: the supported size nearest to the image's own)"
    )
    parser.add_argument(
        "--ratio", type=float, default=0.64, help="share of tokens to merge away (default: 0.64)"
    )
    parser.add_argument("--question", default="What is in the picture?")
    parser.add_argument("--picture", type=Path, help="paint the first image's tokens into this file")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    model = radio.load_model(args.model, device=args.device)
    encodings = model.encode(args.images, size=args.size, merge=TokenMerging(ratio=args.ratio))
    language_model = tiny_language_model().to(model.device)
    projector = Projector(model.embed_dim, language_model.config.hidden_size).to(model.device)

    with torch.inference_mode():
        inputs = language_inputs(language_model, projector, encodings, args.question)
        answers = language_model.generate(**inputs, max_new_tokens=8, do_sample=False)
    for path, encoding, answer in zip(args.images, encodings, answers, strict=True):
        tokens, patches = encoding.features.shape[1], encoding.grid[0] * encoding.grid[1]
        print(f"{path.name}: {patches} patches -> {tokens} tokens -> {len(answer)} bytes of (random) answer")
    if args.picture:
        save_picture(paint(args.images[0], encodings[0]), args.picture, Outputs([*args.images, args.model]))
        print(f"wrote {args.picture}")


if __name__ == "__main__":
    main()
