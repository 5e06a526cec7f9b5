"""What a job leaves in /opt/ml/model beside the adapter: metrics.json and run.json."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import heartbeat
from heartbeat.job import FineTuneJob
from training_code.checkpoint import Progress
from training_code.clock import StopReason
from training_code.environment import write_json

SCHEMA = 1
_LIBRARIES = ("torch", "safetensors", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The comparison that the quality gate decides on. A loss is None where it was not evaluated."""

    rows: int
    supervised_tokens: int
    base_loss: float | None
    tuned_loss: float | None
    loss: Mapping[str, Any] | None = None
    perplexity: Mapping[str, Any] | None = None
    """Both losses again, and e to them, with their intervals: heartbeat.held_out_loss."""


def write_metrics(
    path: Path,
    progress: Progress,
    *,
    steps_planned: int,
    stop_reason: StopReason | None,
    heldout: HeldOut,
    rows: dict[str, int],
) -> None:
    losses = [loss for _, loss in progress.loss_curve]
    write_json(
        path,
        {
            "schema": SCHEMA,
            "status": "stopped_early" if stop_reason else "completed",
            "stop_reason": stop_reason,
            "steps_done": progress.step,
            "steps_planned": steps_planned,
            "tokens_trained": progress.tokens,
            "supervised_tokens_trained": progress.supervised_tokens,
            "first_loss": losses[0] if losses else None,
            "last_loss": losses[-1] if losses else None,
            "heldout": vars(heldout),
            "seconds": progress.seconds,
            "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else 0.0,
            "rows": rows,
            "loss_curve": progress.loss_curve,
        },
    )


def write_record(
    path: Path, job: FineTuneJob, where: dict[str, str], *, sources: Mapping[str, str], weight_format: str
) -> None:
    """What it takes to run this again: settings and where each came from, digests, versions."""
    settings = job.to_hyperparameters()
    write_json(
        path,
        {
            "schema": SCHEMA,
            "settings": {name: {"value": value, "from": where[name]} for name, value in settings.items()},
            **sources,
            "weight_format": weight_format,
            "versions": {
                "heartbeat": heartbeat.__version__,
                "python": platform.python_version(),
                **_versions(),
            },
        },
    )


def _versions() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = None
    return found
