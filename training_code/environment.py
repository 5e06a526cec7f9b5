"""SageMaker's contract with a training container: where things lie, what it reads, how it reports failure.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_code.errors import TrainingError

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

    def num_hosts(self) -> int:
        """How many instances this job runs on; 1 where SageMaker does not say."""
        resources = read_json_object(self.root / "input" / "config" / "resourceconfig.json", missing={})
        return max(1, len(resources.get("hosts", [])))

    def fail(self, sentence: str) -> None:
        """Leave the sentence where SageMaker looks for FailureReason."""
        self.failure.parent.mkdir(parents=True, exist_ok=True)
        self.failure.write_text(sentence[:FAILURE_LIMIT_CHARACTERS], encoding="utf-8")


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


def write_json(path: Path, value: object) -> None:
    """Write atomically, so that a killed process leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
