"""Where things lie in S3: the one definition of every key and prefix."""

from __future__ import annotations

import re
from dataclasses import dataclass

BASE_MODEL = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
DATASETS = "datasets/"
DEFAULT_DATASET = DATASETS + "stanley.jsonl"
BASE_MODELS = "base-models/"
RUNS = "runs/"
CHECKPOINTS = "checkpoints/"
"""Apart from RUNS, since S3 expires by prefix: a run's folder is kept, its checkpoints are not."""
ENDPOINTS = "endpoints/"

_S3_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.*)")


def base_model_prefix(model: str, weight_format: str = "bf16") -> str:
    """Prefix of a base model's checkpoint folder in the artifact bucket."""
    return f"{base_model_root(model)}{weight_format}/"


def base_model_root(model: str) -> str:
    """Prefix of all that there is of a base model: a folder for each format, and the record of what was brought."""
    return f"{BASE_MODELS}{model}/"


def endpoint_record(name: str) -> str:
    """Key of what is remembered of an endpoint. In lower case, as SageMaker writes names in ARNs."""
    return f"{ENDPOINTS}{name.lower()}.json"


@dataclass(frozen=True)
class Run:
    """The keys of one execution in the artifact bucket; `runs/<name>/` alone reproduces the run.

    `name` is the execution's name, or a JSONata expression's text where a state machine fills it in.
    """

    name: str

    @property
    def prefix(self) -> str:
        return f"{RUNS}{self.name}/"

    @property
    def plan(self) -> str:
        return self.prefix + "plan.json"

    @property
    def record(self) -> str:
        return self.prefix + "run.json"

    @property
    def metrics(self) -> str:
        return self.prefix + "metrics.json"

    @property
    def scores(self) -> str:
        return self.prefix + "scores.json"

    @property
    def gate(self) -> str:
        return self.prefix + "gate.json"

    @property
    def acceptance(self) -> str:
        return self.prefix + "acceptance.json"

    @property
    def report(self) -> str:
        return self.prefix + "report.html"

    @property
    def adapter(self) -> str:
        return self.prefix + "adapter/"

    @property
    def checkpoints(self) -> str:
        return f"{CHECKPOINTS}{self.name}/"

    @property
    def training(self) -> str:
        """Where SageMaker writes `<job>/output/model/…` and `<job>/output/data/…`."""
        return self.prefix + "training/"

    def training_output(self, job: str) -> str:
        """Prefix of what the job left in /opt/ml/model (uncompressed)."""
        return f"{self.training}{job}/output/model/"


def split_uri(uri: str) -> tuple[str, str]:
    """(bucket, key) of an S3 URI. Raises ValueError with the form that is expected."""
    match = _S3_URI.fullmatch(uri)
    if not match:
        raise ValueError(f"{uri!r} is not an S3 URI; write s3://BUCKET/KEY")
    return match["bucket"], match["key"]


def uri(bucket: str, key: str) -> str:
    return f"s3://{bucket}/{key}"
