"""Adapts a model to your classes with LoRA (Hu et al. 2021), and says what it brought.

    python examples/finetune_lora.py TRAIN VAL --model radio_v2.5-b --epochs 3 -o adapters

TRAIN and VAL have one subfolder of images per class. The folder of the output gets peft's adapters and `head.pt`.
Needs ``pip install '.[finetune]'``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

import radio
from radio.data.batches import image_batches
from radio.data.labeled import ImageFolder
from radio.images import SizeSpec


def train_epoch(
    lora: PeftModel,
    head: nn.Module,
    data: ImageFolder,
    optimizer: torch.optim.Optimizer,
    size: SizeSpec,
    batch_size: int,
) -> float:
    """One pass over the images in random order; the mean loss."""
    labels, order, total = torch.tensor(data.labels), torch.randperm(len(data)).tolist(), 0.0
    for batch in image_batches(lora.get_base_model(), data, order, size, batch_size):
        summary = lora(batch.pixels.to(lora.device)).summary
        loss = F.cross_entropy(head(summary.float()), labels[batch.positions].to(lora.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch.positions)
    return total / len(data)


@torch.inference_mode()
def accuracy(lora: PeftModel, head: nn.Module, data: ImageFolder, size: SizeSpec, batch_size: int) -> float:
    """The share of images that get their class."""
    labels, right = torch.tensor(data.labels), 0
    for batch in image_batches(lora.get_base_model(), data, range(len(data)), size, batch_size):
        summary = lora(batch.pixels.to(lora.device)).summary
        right += int((head(summary.float()).argmax(dim=1).cpu() == labels[batch.positions]).sum())
    return right / len(data)


def main() -> None:
    """Train and evaluate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("--model", default="radio_v2.5-b", help="version, Hub repository or local path")
    parser.add_argument("--size", default="crop:224x224", help="size of the images (default: crop:224x224)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path, default=Path("adapters"))
    args = parser.parse_args()

    train, val = ImageFolder(args.train), ImageFolder(args.val)
    if train.classes != val.classes:
        parser.error(f"{args.train} and {args.val} have different classes")
    model = radio.load_model(args.model, device=args.device, dtype="float32")
    targets = ["attn.qkv", "attn.proj"]
    lora = get_peft_model(
        model, LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=targets)
    ).eval()
    head = nn.Sequential(nn.LayerNorm(model.summary_dim), nn.Linear(model.summary_dim, len(train.classes)))
    head.to(model.device)
    trained = [p for p in (*lora.parameters(), *head.parameters()) if p.requires_grad]
    print(
        f"training {sum(p.numel() for p in trained):,} of {sum(p.numel() for p in lora.parameters()):,} weights"
    )
    optimizer = torch.optim.AdamW(trained, lr=args.lr)
    for epoch in range(args.epochs):
        loss = train_epoch(lora, head, train, optimizer, args.size, args.batch_size)
        right = accuracy(lora, head, val, args.size, args.batch_size)
        print(f"epoch {epoch + 1}: loss {loss:.3f}, accuracy {right:.1%}")
    lora.save_pretrained(str(args.output))
    torch.save(head.state_dict(), args.output / "head.pt")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
