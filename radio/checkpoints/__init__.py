"""Bytes on disk to (RadioConfig, tensors), and back."""

from radio.checkpoints.checkpoint import Checkpoint, read_checkpoint, read_content
from radio.checkpoints.hub_repo import write_hub_repo

__all__ = ["Checkpoint", "read_checkpoint", "read_content", "write_hub_repo"]
