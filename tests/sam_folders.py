"""Small SAMs with random weights, made and saved by the library that defines the real ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from text_towers import save_tokenizer, sharpen


def sam_folder(folder: Path, dim: int = 48, side: int = 128) -> Path:
    """A SAM whose image encoder gives ``dim`` channels on a grid of ``side // 16``."""
    vision = transformers.SamVisionConfig(
        hidden_size=dim, output_channels=16, num_hidden_layers=2, num_attention_heads=4, image_size=side,
        patch_size=16, global_attn_indexes=[1], mlp_dim=32, num_pos_feats=8, window_size=4,
    )  # fmt: skip
    prompt = transformers.SamPromptEncoderConfig(
        hidden_size=16, image_size=side, patch_size=16, image_embedding_size=side // 16
    )
    decoder = transformers.SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16
    )
    torch.manual_seed(0)
    model = transformers.SamModel(
        transformers.SamConfig(
            vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
        )
    )
    return _save(model, folder)


def sam3_folder(folder: Path, dim: int = 48, side: int = 112) -> Path:
    """The promptable half of a SAM 3, on a grid of ``side // 14``. Skips the test where transformers has none."""
    if not hasattr(transformers, "Sam3TrackerModel"):
        pytest.skip("SAM 3 came with transformers 5")
    grid = side // 14
    vision = {
        "model_type": "sam3_vision_model", "backbone_config": _sam3_vit(dim, side), "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
        "scale_factors": [4.0, 2.0, 1.0],
    }  # fmt: skip
    prompt = {"hidden_size": 32, "image_size": side}
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    torch.manual_seed(0)
    config = transformers.Sam3TrackerConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
    )
    return _save(transformers.Sam3TrackerModel(config), folder, 0.2)


def sam3_detector_folder(folder: Path, dim: int = 48, side: int = 112) -> Path:
    """SAM 3's detector with its text encoder and a tokenizer. Skips the test where transformers has none."""
    if not hasattr(transformers, "Sam3Model"):
        pytest.skip("SAM 3 came with transformers 5")
    text = {
        "model_type": "clip_text_model", "vocab_size": 200, "hidden_size": 32, "intermediate_size": 48,
        "projection_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32,
        "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": _sam3_vit(dim, side),
        "fpn_hidden_size": 32,
    }
    part = {"hidden_size": 32, "num_attention_heads": 2}
    layers = {**part, "num_layers": 2, "intermediate_size": 48}
    torch.manual_seed(1)
    config = transformers.Sam3Config(
        vision_config=vision, text_config=text, geometry_encoder_config=layers, detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 20}, mask_decoder_config=part,
    )  # fmt: skip
    model = transformers.Sam3Model(config)
    sharpen(model)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def _sam3_vit(dim: int, side: int) -> dict:
    return {
        "model_type": "sam3_vit_model", "hidden_size": dim, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": side, "pretrain_image_size": 56, "window_size": 4,
        "global_attn_indexes": [1],
    }  # fmt: skip


def published_sam3_folder(folder: Path, tracker: Path, detector: Path | None = None) -> Path:
    """The same tensors as they are published: in one file with a detector, whose image encoder the tracker shares."""
    tensors = {}
    for name, value in transformers.Sam3TrackerModel.from_pretrained(tracker).state_dict().items():
        if name.startswith("vision_encoder.backbone."):
            name = f"detector_model.{name}"
        elif name.startswith("vision_encoder.neck."):
            name = name.replace("vision_encoder.neck.", "tracker_neck.")
        else:
            name = f"tracker_model.{name}"
        tensors[name] = value.clone()
    described = {"model_type": "sam3_video"}
    if detector is None:
        tensors["detector_model.text_projection.bias"] = torch.zeros(4)
    else:
        described["detector_config"] = json.loads((detector / "config.json").read_text())
        own = transformers.Sam3Model.from_pretrained(detector).state_dict()
        tensors |= {f"detector_model.{name}": value.clone() for name, value in own.items()}
    tensors["tracker_model.memory_encoder.projection.bias"] = torch.zeros(4)
    config = json.loads((tracker / "config.json").read_text())
    described["tracker_config"] = {**config, "model_type": "sam3_tracker_video"}
    folder.mkdir()
    if detector is not None:
        shutil.copy(detector / "tokenizer.json", folder)
    (folder / "config.json").write_text(json.dumps(described))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def _save(model: torch.nn.Module, folder: Path, size: float = 0.5) -> Path:
    """With every weight random, and large enough that prompts make a difference."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=1.6 * size if name.startswith("mask_decoder.") else size)
    model.save_pretrained(folder)
    return folder
