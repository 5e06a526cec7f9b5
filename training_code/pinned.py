"""Host memory that a GPU copies from and to while it computes, or reads by itself."""

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


def on_host_for(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, in page-locked host memory, as a tensor of the GPU: its kernels read what they need over PCIe.

    For a table of which a few rows are wanted: no processor has to pick them, and nothing waits for it.
    """
    memory = allocate(tensor.numel() * tensor.element_size())
    memory.view(tensor.dtype).view(tensor.shape).copy_(tensor)
    return torch.as_tensor(_Mapped(memory), device=device).view(tensor.dtype).view(tensor.shape)


class _Mapped:
    """Page-locked memory under the address that the GPU knows it by: the same, where both share one address space."""

    def __init__(self, memory: torch.Tensor) -> None:
        self.__cuda_array_interface__ = {
            "shape": tuple(memory.shape),
            "typestr": "|u1",
            "data": (memory.data_ptr(), False),
            "version": 3,
        }
