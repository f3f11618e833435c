"""Several processes, as ``torchrun`` starts them, that share one data set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from radio.devices import best_device, usable_device


class Processes:
    """This process among all of them; one process alone when ``torchrun`` did not start it.

    Attributes:
        rank: The number of this process.
        size: How many there are.
        device: The device of this process: its own GPU, or the CPU.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank = rank
        self.size = size
        self.device = device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes results."""
        return self.rank == 0

    def positions(self, count: int) -> range:
        """This process's share of ``count`` images: every ``size``-th one."""
        return range(self.rank, count, self.size)

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """The sums over all processes, in every process."""
        total = torch.tensor(list(numbers), dtype=torch.int64, device=self.device)
        if self.size > 1:
            dist.all_reduce(total)
        return total.tolist()

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, for as long as the block lasts.

    They talk through NCCL between GPUs and through Gloo between CPUs.

    Args:
        device: ``"auto"`` for a GPU per process where there are GPUs, or a torch device.

    Raises:
        ValueError: There is no such device here.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = usable_device(device) if device != "auto" else _own_device()
    if size == 1:
        yield Processes(rank, size, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(rank, size, chosen)
        if chosen.type != "cuda":
            # A thread of Gloo lets go of the last sum's tensor some time after the result is here, and aborts the
            # process if Python is ending by then. A barrier gives it the time of a round trip.
            dist.barrier()
    finally:
        dist.destroy_process_group()


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return best_device()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
