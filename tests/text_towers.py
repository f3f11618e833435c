"""Small text towers with random weights, made and saved by the libraries that define the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

_WORDS = [
    "photo",
    "of",
    "the",
    "cat",
    "dog",
    "coffee",
    "cup",
    "astronaut",
    "rocket",
    "person",
    "sky",
    "drawing",
]


def open_clip_config(dim: int, siglip: bool = False) -> dict:
    """A tiny model in open_clip's own format: quick GELU like the clip teacher, or SigLIP's kind of tower."""
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    if siglip:
        text = {
            "context_length": 64,
            "vocab_size": 400,
            "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 32,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        }
        return {
            "embed_dim": dim,
            "custom_text": True,
            "init_logit_bias": -10,
            "vision_cfg": vision,
            "text_cfg": text,
        }
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return {"embed_dim": dim, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}


def open_clip_folder(folder: Path, dim: int, siglip: bool = False) -> Path:
    """A folder in open_clip's local-dir layout, with its tokenizer's files where the model needs them."""
    import open_clip

    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": open_clip_config(dim, siglip)}))
    torch.manual_seed(dim)
    model = open_clip.create_model(f"local-dir:{folder}")
    sharpen(model)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    if siglip:
        save_tokenizer(folder)
    return folder


def siglip2_folder(folder: Path, dim: int, naflex: bool = False) -> Path:
    """A SigLIP 2 model as transformers saves it: of fixed size (siglip2-g-384) or naflex (siglip2-so400m)."""
    import transformers

    kind = "Siglip2" if naflex else "Siglip"
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{kind}Config")(
        text_config={**size, "vocab_size": 400, "projection_size": dim},
        vision_config={**size, "patch_size": 16} | ({"num_patches": 16} if naflex else {"image_size": 64}),
    )
    torch.manual_seed(dim)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    sharpen(model)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def sharpen(model: torch.nn.Module) -> None:
    """Larger weights than a fresh model's, so that different texts get clearly different embeddings."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8).add_(torch.randn_like(parameter) * 0.05)
        for name in ("logit_scale", "logit_bias"):
            value = getattr(model, name, None)
            if value is not None:
                value.fill_(2.5 if name == "logit_scale" else -10.0)


def save_tokenizer(folder: Path) -> None:
    """A real subword tokenizer with an end-of-text token and padding, in transformers' files."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_previous")
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    alphabet = list("abcdefghijklmnopqrstuvwxyz0123456789")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_WORDS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="right",
        model_input_names=["input_ids"],
    ).save_pretrained(folder)
