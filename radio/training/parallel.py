"""One process or many: DDP and FSDP2 behind the same few functions."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel

from radio.distributed import Processes
from radio.model import RADIOModel

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def spread(student: RADIOModel, processes: Processes, how: str, unused: bool) -> nn.Module:
    """The student as all processes train it.

    Args:
        student: On this process's device, the same in every one.
        processes: Those that torchrun started.
        how: ``"ddp"`` or ``"fsdp2"``.
        unused: Whether some of its parameters have no gradient at some steps.
    """
    if not dist.is_initialized():
        return student
    if how == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        for block in student.backbone.blocks:
            fully_shard(block)
        fully_shard(student)
        return student
    devices = [processes.device] if processes.device.type == "cuda" else None
    return DistributedDataParallel(student, device_ids=devices, find_unused_parameters=unused)


def whole_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and the optimizer's state, not sharded, on the CPU, by the student's own names. All processes call it."""
    return get_state_dict(model, optimizer, options=_WHOLE)


def restore_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, weights: dict[str, Any], state: dict[str, Any]
) -> None:
    """Put what `whole_state` gave back."""
    options = StateDictOptions(full_state_dict=True)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state, options=options)


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes, in every one."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values = values / dist.get_world_size()
    return values


def average_by_key(values: dict[Any, float]) -> dict[Any, float]:
    """The numbers of all processes by their keys, in every one; the mean over those processes that have a key."""
    if not dist.is_initialized():
        return values
    everyone: list[dict[Any, float]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, values)
    found: dict[Any, list[float]] = {}
    for each in everyone:
        for key, value in each.items():
            found.setdefault(key, []).append(value)
    return {key: sum(numbers) / len(numbers) for key, numbers in found.items()}
