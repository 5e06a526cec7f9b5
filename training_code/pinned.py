"""Host memory that a GPU copies from and to while it computes."""

from __future__ import annotations

import torch

from heartbeat.memory import GIB

_kept: dict[int, torch.Tensor] = {}


def allocate(num_bytes: int) -> torch.Tensor:
    """uint8 (num_bytes,) in page-locked memory of exactly that size, which stays until `free`.

    torch's own page-locked memory comes in powers of two: a layer of Scout, 1.15 GiB, would take 2.
    Raises MemoryError where the machine has not so much.
    """
    try:
        memory = torch.empty(num_bytes, dtype=torch.uint8)
    except RuntimeError:  # torch's own word for it
        raise MemoryError(f"{num_bytes / GIB:.1f} GiB of host memory were asked for") from None
    memory.zero_()  # brings the pages in with all threads; registering alone would with one
    status = torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), num_bytes, 0)
    if int(status):
        raise MemoryError(f"{num_bytes / GIB:.1f} GiB of host memory cannot be page-locked (CUDA error {int(status)})")
    _kept[memory.data_ptr()] = memory
    return memory


def free(memory: torch.Tensor) -> None:
    """Give back what `allocate` gave; no copy may be under way."""
    if _kept.pop(memory.data_ptr(), None) is not None:
        torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())
