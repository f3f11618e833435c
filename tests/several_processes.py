"""Several processes on one machine, talking through Gloo."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run(function: Callable[[int, Any], Any], size: int, argument: Any, folder: Path) -> list[Any]:
    """What ``function(rank, argument)`` returns in each of `size` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (function, size, argument, folder, port), nprocs=size)
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


def _process(
    rank: int, function: Callable[[int, Any], Any], size: int, argument: Any, folder: Path, port: int
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=size)
    torch.save(function(rank, argument), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
