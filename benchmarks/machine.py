"""What a measurement says of the machine, the code and the settings that it was taken with."""

from __future__ import annotations

import argparse
import resource
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import processor
from heartbeat.memory import GIB
from training_code.ranks import Ranks


def synchronise(where: torch.device, ranks: Ranks) -> None:
    """Wait for this rank's device, then for the other ranks."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    ranks.wait_for_all()


def gpu_in_use_gib(where: torch.device) -> float | None:
    """Of this GPU by all processes, with contexts, libraries and what their allocators keep."""
    if where.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(where)
    return (total - free) / GIB


def record(arguments: argparse.Namespace, where: torch.device, ranks: Ranks) -> dict[str, Any]:
    """The part of a benchmark's JSON that they all have; taken when the measuring is done."""
    return {
        "peak_gpu_gib": torch.cuda.max_memory_allocated(where) / GIB if where.type == "cuda" else None,
        "peak_host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "gpu": torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU",
        "num_gpus": ranks.world_size,
        "processor": processor.name(),
        "settings": vars(arguments),
        "mode": arguments.mode,
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": _code_version(),
    }


def _code_version() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
