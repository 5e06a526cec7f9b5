"""Telling which memory ran out: torch has one exception for it, and several other ways to say so."""

from __future__ import annotations

import torch

_OF_GPU = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What a RuntimeError says where a library of the GPU's got no memory."""
_OF_HOST = ("DefaultCPUAllocator",)
"""Likewise of the host's: torch raises no MemoryError."""


def is_of_gpu(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or _says(error, _OF_GPU)


def is_of_host(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or _says(error, _OF_HOST)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(some in str(error) for some in words)
