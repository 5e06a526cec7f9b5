"""What this process computes on, and in which numbers."""

from __future__ import annotations

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
    """bf16 where the device computes in it; else f32, since Llama 4 overflows f16."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32
