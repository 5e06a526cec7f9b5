"""Checkpoints that a killed job resumes from, to the last bit.

One safetensors file holds the trained weights, AdamW's moments and the run's history. What depends on the step
number alone (order of rows, dropout, learning rate) is not stored: it is computed anew.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from training_code.environment import save_tensors
from training_code.errors import TrainingError
from training_code.lora_weights import LoraWeights
from training_code.ranks import Ranks

KEPT = 2
"""One more than is needed, in case the newest was cut short on its way to S3."""

_NAME = re.compile(r"step-(\d{8})\.safetensors")
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """What a run has done so far, in this process and in those before it."""

    step: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    seconds: float = 0.0
    """Spent in steps."""
    loss_curve: list[tuple[int, float]] = field(default_factory=list)
    base_row_losses: list[float] | None = None
    """The base model's summed loss of each held-out row."""

    @classmethod
    def of_text(cls, text: str) -> Progress | None:
        """Of the JSON that a checkpoint holds; None for no text."""
        if not text:
            return None
        progress = cls(**json.loads(text))
        progress.loss_curve = [(step, loss) for step, loss in progress.loss_curve]
        return progress


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone; the lock ends with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainingError(
                f"another job is training into {folder}; give each job a checkpoint folder of its own"
            ) from None
        yield


def save(
    folder: Path,
    progress: Progress,
    lora: LoraWeights,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
) -> Path:
    """Write a checkpoint atomically and delete all but the newest KEPT. `identity`: what makes this run this run."""
    state = optimizer.state.get(lora.flat, {})
    flats = {"": lora.flat.detach().cpu(), **{f".{moment}": state[moment].cpu() for moment in _MOMENTS if state}}
    tensors = {f"{name}{suffix}": view for suffix, flat in flats.items() for name, view in lora.named(flat).items()}
    path = folder / f"step-{progress.step:08d}.safetensors"
    metadata = {"progress": json.dumps(asdict(progress)), "identity": json.dumps(identity)}
    save_tensors(path, tensors, metadata)
    for old in _checkpoints(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def resume(
    folder: Path,
    lora: LoraWeights,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    ranks: Ranks,
) -> Progress | None:
    """Load the newest whole checkpoint into `lora` and `optimizer`; None where there is none.

    The first rank reads it and tells the others: on another machine the folder may be another one. Raises
    TrainingError where the folder belongs to another run: resuming it would silently train something else.
    """
    found = _newest(folder, identity) if ranks.is_first else None
    device = lora.flat.device
    progress = Progress.of_text(ranks.text_of_first(json.dumps(asdict(found[0])) if found else "", device))
    if progress is None:
        return None
    _share(found[1] if found else None, "", lora, lora.flat.detach(), ranks)
    if progress.step:
        moments = {moment: torch.empty_like(lora.flat.detach()) for moment in _MOMENTS}
        for moment, flat in moments.items():
            _share(found[1] if found else None, f".{moment}", lora, flat, ranks)
        # A fused optimizer counts its steps on the device.
        optimizer.state[lora.flat] = {"step": torch.tensor(float(progress.step), device=device), **moments}
    return progress


def _newest(folder: Path, identity: Mapping[str, Any]) -> tuple[Progress, dict[str, torch.Tensor]] | None:
    for path in _checkpoints(folder):
        try:
            with safe_open(str(path), framework="pt") as stored:
                metadata = stored.metadata()
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            print(f"{path.name} is not whole ({error}); trying the one before it", flush=True)
            continue
        _refuse_another_run(json.loads(metadata["identity"]), identity, folder)
        progress = Progress.of_text(metadata["progress"])
        assert progress is not None
        return progress, tensors
    return None


def _share(
    tensors: Mapping[str, torch.Tensor] | None, suffix: str, lora: LoraWeights, flat: torch.Tensor, ranks: Ranks
) -> None:
    """Fill `flat`, which is laid out as the adapter, on every rank from the first one's tensors."""
    if tensors is not None:
        for name, view in lora.named(flat).items():
            view.copy_(tensors[f"{name}{suffix}"])
    ranks.copy_of_first(flat)


def _refuse_another_run(stored: Mapping[str, Any], current: Mapping[str, Any], folder: Path) -> None:
    changed = sorted(name for name in {*stored, *current} if stored.get(name) != current.get(name))
    if changed:
        name = changed[0]
        raise TrainingError(
            f"{folder} holds a checkpoint of another run ({name} was {stored.get(name)}, and is {current.get(name)}); "
            "give this job another checkpoint folder, or empty this one"
        )


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)
