"""SageMaker's contract with a training container: where things lie, what it reads, how it reports failure.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from training_code.errors import TrainingError
from training_code.launch import Cluster

FAILURE_LIMIT_CHARACTERS = 1024
"""SageMaker shows this much of the failure file as FailureReason."""


@dataclass(frozen=True)
class Environment:
    """The folders under /opt/ml (or HEARTBEAT_OPT_ML, where no container gives this process its own)."""

    root: Path

    @classmethod
    def of_process(cls) -> Environment:
        return cls(Path(os.environ.get("HEARTBEAT_OPT_ML", "/opt/ml")))

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """What SageMaker uploads when the job ends."""
        return self.root / "model"

    @property
    def failure(self) -> Path:
        return self.root / "output" / "failure"

    def channel(self, name: str) -> Path:
        return self.root / "input" / "data" / name

    def hyperparameters(self) -> dict[str, Any]:
        """{} where SageMaker wrote none. Raises TrainingError for a file that is not a JSON object."""
        return read_json_object(self.root / "input" / "config" / "hyperparameters.json", missing={})

    def cluster(self) -> Cluster:
        """The instances of this job, as SageMaker's resourceconfig.json lists them; one where it does not."""
        path = self.root / "input" / "config" / "resourceconfig.json"
        resources = read_json_object(path, missing={})
        hosts, here = resources.get("hosts") or [""], resources.get("current_host", "")
        if len(hosts) == 1:
            return Cluster()
        if here not in hosts:
            raise TrainingError(f"{path}: current_host={here!r} is not among hosts={hosts}")
        ordered = sorted(hosts)
        interface = resources.get("network_interface_name", "eth0")
        return Cluster(num_hosts=len(hosts), host=ordered.index(here), master=ordered[0], interface=interface)

    def fail(self, sentence: str) -> int:
        """Leave the sentence in the log and where SageMaker looks for FailureReason; the exit status to end with.

        Of several ranks the first to fail is heard.
        """
        print(f"failed: {sentence}", file=sys.stderr, flush=True)
        self.failure.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), self.failure.open("x", encoding="utf-8") as file:
            file.write(sentence[:FAILURE_LIMIT_CHARACTERS])
        return 1

    def forget_failure(self) -> None:
        """Of an attempt before this one."""
        self.failure.unlink(missing_ok=True)


def read_json_object(path: Path, *, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object in `path`, or `missing` where there is no such file and `missing` is given."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise TrainingError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise TrainingError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file as `write_json` writes: whole or not at all.

    Raises TrainingError where it cannot be written, a full disk above all.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(dict(tensors), str(partial), metadata=dict(metadata))
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        size = sum(tensor.nbytes for tensor in tensors.values()) / 2**30
        raise TrainingError(
            f"{path} ({size:.1f} GiB) cannot be written: {error}; what was saved before is whole. Give the job a "
            "larger volume (VolumeSizeInGB) if the disk is full"
        ) from None


def write_json(path: Path, value: object) -> None:
    """Write atomically, so that a killed process leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
