"""What lies in a folder of base weights, the job that a run makes of it, and whether the hub's token is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aws
from heartbeat import checkpoint, layout
from heartbeat.failures import InputInvalid
from heartbeat.job import FineTuneJob, SettingError, resolve
from heartbeat.scout import ModelShape

TRAINING_DEFAULTS = "training_defaults.json"


@dataclass(frozen=True, kw_only=True)
class Found:
    uri: str
    num_files: int
    num_bytes: int
    missing: list[str]
    """Names of the files that lack; empty where a run can load the folder."""

    @property
    def lacks(self) -> str:
        """A sentence without its end."""
        if not self.num_files:
            return f"there is no checkpoint at {self.uri}"
        more = f" and {len(self.missing) - 5} more" if len(self.missing) > 5 else ""
        return f"the checkpoint at {self.uri} lacks {', '.join(self.missing[:5])}{more}"


def of_run(run: Mapping[str, Any]) -> tuple[str, str]:
    """(bucket, prefix) of the weights that a run is to use."""
    if run.get("base_model"):
        return layout.split_uri(run["base_model"])
    return aws.artifact_bucket(), layout.base_model_prefix(os.environ["BASE_MODEL"], os.environ["WEIGHT_FORMAT"])


def job_of(run: Mapping[str, Any]) -> tuple[FineTuneJob, dict[str, str]]:
    """The settings of a run, and where each came from: its input, the defaults beside its base weights, the card.

    Raises InputInvalid.
    """
    bucket, folder = of_run(run)
    defaults = aws.read_json(folder + TRAINING_DEFAULTS, bucket=bucket) or {}
    try:
        return resolve(
            ("execution input", {"MAX_RUNTIME_SECONDS": run["max_runtime_seconds"], **run["hyperparameters"]}),
            (TRAINING_DEFAULTS, defaults),
        )
    except SettingError as error:
        raise InputInvalid(str(error)) from None


def look(bucket: str, folder: str) -> Found:
    sizes = {key.removeprefix(folder): size for key, size in aws.list_objects(folder, bucket=bucket).items()}

    def read(name: str) -> Any:
        return aws.read_json(folder + name, bucket=bucket) if name in sizes else None

    if checkpoint.PACKS_MANIFEST in sizes:
        layers = ModelShape.from_config(read("config.json") or {}).num_layers if "config.json" in sizes else 0
        missing = checkpoint.missing_packs(sizes, read(checkpoint.PACKS_MANIFEST), layers)
    else:
        missing = checkpoint.missing_files(sizes, read(checkpoint.WEIGHTS_INDEX))
    return Found(uri=layout.uri(bucket, folder), num_files=len(sizes), num_bytes=sum(sizes.values()), missing=missing)


def has_token() -> bool:
    """Whether the secret has a value. Its value is for the job alone: this asks for the names of its versions."""
    secret = aws.client("secretsmanager").describe_secret(SecretId=os.environ["TOKEN_SECRET"])
    return any("AWSCURRENT" in stages for stages in (secret.get("VersionIdsToStages") or {}).values())
