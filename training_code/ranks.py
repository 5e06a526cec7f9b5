"""The processes that train together, one a GPU; a process alone is rank 0 of 1 and needs no network."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, Protocol

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=30)
"""Between the ranks' calls of one collective: reading a base model from a cold disk may differ by minutes."""


class Work(Protocol):
    """A collective in flight."""

    def wait(self) -> object: ...


@dataclass(frozen=True)
class Ranks:
    """This process among them."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Among those on this machine."""
    num_hosts: int = 1

    @property
    def on_this_host(self) -> int:
        return self.world_size // self.num_hosts

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> Work | None:
        """Add up the tensor over all ranks, in place and not waited for; None where there is nothing to wait for."""
        if self.world_size == 1:
            return None
        work: Work | None = dist.all_reduce(tensor, async_op=True)
        return work

    def add_up(self, tensor: torch.Tensor) -> None:
        """The same, waited for."""
        work = self.sum(tensor)
        if work is not None:
            work.wait()

    def totals(self, numbers: Sequence[int], device: torch.device) -> list[int]:
        """Each of these whole numbers, added up over all ranks."""
        numbers = [int(number) for number in numbers]  # torch would keep truth values as what they are
        if self.world_size == 1:
            return numbers
        told = torch.tensor(numbers, device=device)
        self.add_up(told)
        found: list[int] = told.tolist()
        return found

    def gather(self, whole: torch.Tensor, part: torch.Tensor) -> Work | None:
        """Fill `whole` with every rank's `part`, in the order of ranks; not waited for."""
        work: Work | None = dist.all_gather_into_tensor(whole, part, async_op=True)
        return work

    def scatter(self, mine: torch.Tensor, parts: list[torch.Tensor] | None, *, source: int) -> None:
        """Receive the part that rank `source`, the only one that gives `parts`, has for this rank."""
        dist.scatter(mine, parts, src=source)

    def of_first(self, value: int, device: torch.device) -> int:
        """What the first rank gives, on every rank."""
        if self.world_size == 1:
            return value
        told = torch.tensor(value, device=device)
        dist.broadcast(told, src=0)
        return int(told.item())

    def copy_of_first(self, tensor: torch.Tensor) -> None:
        """Make it the first rank's, in place."""
        if self.world_size > 1:
            dist.broadcast(tensor, src=0)

    def text_of_first(self, text: str, device: torch.device) -> str:
        """The first rank's text, on every rank."""
        if self.world_size == 1:
            return text
        length = self.of_first(len(text.encode()), device)
        letters = torch.tensor(list(text.encode()) if self.is_first else [0] * length, dtype=torch.uint8, device=device)
        if length:
            dist.broadcast(letters, src=0)
        return bytes(letters.tolist()).decode()

    def wait_for_all(self) -> None:
        if self.world_size > 1:
            dist.barrier()


def join(device: torch.device) -> Ranks:
    """Find the others by the variables that torchrun sets; without them this process is alone.

    Leave with `end_process`.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Ranks()
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, device_id=device if device.type == "cuda" else None)
    on_this_host = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return Ranks(dist.get_rank(), world_size, int(os.environ.get("LOCAL_RANK", "0")), world_size // on_this_host)


def end_process(status: int) -> NoReturn:
    """End with this exit status. Where ranks are joined nothing is taken down in good order: that hangs, or aborts,
    where another rank has gone first."""
    sys.stdout.flush()
    sys.stderr.flush()
    if dist.is_initialized():
        os._exit(status)
    sys.exit(status)
