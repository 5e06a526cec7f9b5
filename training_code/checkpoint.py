"""Checkpoints that a killed job resumes from, to the last bit.

One safetensors file holds the trained weights, AdamW's moments and the run's history. What depends on the step
number alone (order of rows, dropout, learning rate) is not stored: it is computed anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
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
_DIGEST = "sha256"


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
    evaluation_seconds: float = 0.0
    """What the last evaluation took; 0 before the first."""
    skipped: int = 0
    """Steps that changed no weight, as f16's range was passed."""
    skipped_in_a_row: int = 0
    """Of these, the ones since the last step that was not."""
    recent_seconds: list[float] = field(default_factory=list)
    """Of each of the last steps."""

    @property
    def updates(self) -> int:
        """How often the optimizer has changed the weights."""
        return self.step - self.skipped

    @classmethod
    def of_text(cls, text: str) -> Progress | None:
        """Of the JSON that a checkpoint holds; None for no text."""
        if not text:
            return None
        progress = cls(**json.loads(text))
        progress.loss_curve = [(step, loss) for step, loss in progress.loss_curve]
        return progress


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a checkpoint's file holds."""

    progress: str
    """A Progress, as JSON."""
    identity: str
    """What makes its run that run, as JSON: names and values."""
    arrangement: str
    """placing.Arrangement of its last step."""
    tensors: Mapping[str, torch.Tensor]

    def texts(self) -> dict[str, str]:
        return {"progress": self.progress, "identity": self.identity, "arrangement": self.arrangement}

    def digest(self) -> str:
        """SHA-256 of all of it."""
        found = hashlib.sha256(json.dumps(self.texts(), sort_keys=True).encode())
        for name in sorted(self.tensors):
            found.update(name.encode())
            found.update(self.tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()


def save(
    folder: Path,
    progress: Progress,
    lora: LoraWeights,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    arrangement: str,
) -> Path:
    """Write a checkpoint atomically and durably, and delete all but the newest KEPT.

    `identity`: what makes this run this run. `arrangement`: of its micro-batches, as text.
    """
    state = optimizer.state.get(lora.flat, {})
    flats = {"": lora.flat.detach().cpu(), **{f".{moment}": state[moment].cpu() for moment in _MOMENTS if state}}
    tensors = {f"{name}{suffix}": view for suffix, flat in flats.items() for name, view in lora.named(flat).items()}
    path = folder / f"step-{progress.step:08d}.safetensors"
    stored = Stored(
        progress=json.dumps(asdict(progress)),
        identity=json.dumps(dict(identity)),
        arrangement=arrangement,
        tensors=tensors,
    )
    save_tensors(path, tensors, {**stored.texts(), _DIGEST: stored.digest()})
    for old in _checkpoints(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def newest(folder: Path) -> Stored | None:
    """The newest checkpoint that is whole; those after it are deleted, since they would take its place among KEPT.

    Raises TrainingError for a file of another version of the trainer.
    """
    for path in _checkpoints(folder):
        try:
            found = _read(path)
        except (SafetensorError, OSError, _DamagedError) as error:
            print(f"{path.name} is not whole ({error}); it is deleted, and the one before it tried", flush=True)
            path.unlink(missing_ok=True)
            continue
        return found
    return None


class _DamagedError(Exception):
    """A checkpoint's bytes are not those that were written."""


def _read(path: Path) -> Stored:
    with safe_open(str(path), framework="pt") as stored:
        metadata = stored.metadata() or {}
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    try:
        found = Stored(
            progress=metadata["progress"],
            identity=metadata["identity"],
            arrangement=metadata["arrangement"],
            tensors=tensors,
        )
        if found.digest() != metadata[_DIGEST]:
            raise _DamagedError("its digest is another one")
        Progress.of_text(found.progress)
    except (KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} was not written by this version of the trainer ({error}); give this job another checkpoint "
            "folder, or empty this one"
        ) from None
    return found


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
    found = newest(folder) if ranks.is_first else None
    if found:
        _refuse_another_run(json.loads(found.identity), identity, folder)
    device, tensors = lora.flat.device, found.tensors if found else None
    progress = Progress.of_text(ranks.text_of_first(found.progress if found else "", device))
    if progress is None:
        return None
    _share(tensors, "", lora, lora.flat.detach(), ranks)
    if progress.updates:
        moments = {moment: torch.empty_like(lora.flat.detach()) for moment in _MOMENTS}
        for moment, flat in moments.items():
            _share(tensors, f".{moment}", lora, flat, ranks)
        # A fused optimizer counts its updates on the device.
        optimizer.state[lora.flat] = {"step": torch.tensor(float(progress.updates), device=device), **moments}
    return progress


def _share(
    tensors: Mapping[str, torch.Tensor] | None, suffix: str, lora: LoraWeights, flat: torch.Tensor, ranks: Ranks
) -> None:
    """Fill `flat`, which is laid out as the adapter, on every rank from the first one's tensors."""
    if tensors is not None:
        for name, view in lora.named(flat).items():
            view.copy_(tensors[f"{name}{suffix}"])
    ranks.copy_of_first(flat)


def _refuse_another_run(stored: Mapping[str, Any], current: Mapping[str, Any], folder: Path) -> None:
    changed = [
        f"{name} was {stored.get(name)}, and is {current.get(name)}"
        for name in sorted({*stored, *current})
        if stored.get(name) != current.get(name)
    ]
    if changed:
        raise TrainingError(
            f"{folder} holds a checkpoint of another run ({'; '.join(changed)}); "
            "give this job another checkpoint folder, or empty this one"
        )


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)
