"""What this process computes on, and in which numbers."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch


def of_process() -> torch.device:
    """The GPU of this rank, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
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
