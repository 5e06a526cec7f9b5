"""What this process computes on, and in which numbers."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"


def of_process() -> torch.device:
    """The GPU of this rank, or the CPU. To be called before anything is put on a GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # A layer's matrices are gigabytes that come and go between small tensors. In segments of fixed size the next
    # one's may find no whole room though there is enough of it: of 22 GiB, 1.3 were lost (docs/performance.md).
    os.environ.setdefault(ALLOCATOR, "expandable_segments:True")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it, f16 on older GPUs (V100), f32 on the CPU."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


@functools.cache
def has_triton(device: torch.device) -> bool:
    """Whether kernels can be compiled for it: an NVIDIA GPU from compute capability 8.0, and the compiler is here."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and importlib.util.find_spec("triton") is not None
    )
