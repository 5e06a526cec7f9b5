"""SageMaker's contract with a training container: where things lie, what it reads, how it reports failure.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from training_code import packs
from training_code.errors import TrainingError
from training_code.launch import Cluster

FAILURE_LIMIT_CHARACTERS = 1024
"""SageMaker shows this much of the failure file as FailureReason."""
ROOM_BYTES = 4 * FAILURE_LIMIT_CHARACTERS
"""What that takes in UTF-8 at most, and one block of most file systems: kept free for it while a job runs."""


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

        Of several ranks the first to fail is heard. Whatever the disk does, nothing is raised.
        """
        text = sentence[:FAILURE_LIMIT_CHARACTERS].encode("utf-8", errors="replace")
        with suppress(OSError):
            print(f"failed: {sentence}", file=sys.stderr, flush=True)
        with suppress(OSError):
            if not self.failure.exists():
                self._write_failure(text)
        return 1

    def _write_failure(self, text: bytes) -> None:
        own = self._room.with_name(f"{self._room.name}-{os.getpid()}")
        try:
            self._room.rename(own)  # one rank gets it
        except FileNotFoundError:
            self.failure.parent.mkdir(parents=True, exist_ok=True)
        try:
            # In place: a disk that is full has no other blocks than those that the file has already.
            with open(os.open(own, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
                file.write(text)
                file.truncate()
            own.rename(self.failure)
        finally:
            own.unlink(missing_ok=True)

    @contextmanager
    def ready_to_fail(self) -> Iterator[None]:
        """Forget the failure of an attempt before this one, and have room for one of this attempt on any disk."""
        self.forget_failure()
        try:
            yield
        finally:
            with suppress(OSError):
                self._room.unlink(missing_ok=True)

    def forget_failure(self) -> None:
        with suppress(OSError):
            self.failure.parent.mkdir(parents=True, exist_ok=True)
            if self.failure.exists():
                self.failure.replace(self._room)
            with open(os.open(self._room, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
                file.write(b" " * ROOM_BYTES)
                os.fsync(file.fileno())

    @property
    def _room(self) -> Path:
        return self.failure.with_name("failure.room")


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
    """Write a safetensors file whole or not at all; the tensors are of one dtype.

    Raises TrainingError where it cannot be written, a full disk above all.
    """
    parts = ((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items())
    header = packs.encode_header(packs.lay_out(parts), metadata)
    data = (tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data for tensor in tensors.values())
    try:
        packs.write_atomically(path, chain([header], data))
    except OSError as error:
        size = sum(tensor.nbytes for tensor in tensors.values()) / 2**30
        raise TrainingError(
            f"{path} ({size:.1f} GiB) cannot be written: {error}; what was saved before is whole. Give the job a "
            "larger volume (VolumeSizeInGB) if the disk is full"
        ) from None


def write_json(path: Path, value: object) -> None:
    """Write atomically, so that a killed process leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    packs.write_atomically(path, [text.encode()])
