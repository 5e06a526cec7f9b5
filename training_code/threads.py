"""How many CPU threads a model is worth."""

from __future__ import annotations

import torch
from torch import nn

ONE_THREAD_PARAMETERS = 2_000_000
"""Below this the layers are so small that a second thread mostly waits for the first: 8 steps of a model of 0.2 M
parameters took 5.5 s of CPU with one thread and 17.8 s with two on a busy machine of 2 cores."""


def fit_threads(model: nn.Module, device: torch.device) -> None:
    """Keeps a small model on the CPU to one thread, so that it leaves the rest of the machine alone."""
    if device.type == "cpu" and sum(parameter.numel() for parameter in model.parameters()) < ONE_THREAD_PARAMETERS:
        torch.set_num_threads(1)
