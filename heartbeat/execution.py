"""What an execution is asked to do: its input, every field optional, checked before anything is spent."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from heartbeat import container_settings, layout, requests
from heartbeat.job import SettingError

MAX_RUNTIME_SECONDS = 28_800
"""The 8-hour stop of the training job, in seconds."""

LONGEST_RUNTIME_SECONDS = 28 * 24 * 3600
"""SageMaker's own limit of MaxRuntimeInSeconds. Source: CreateTrainingJob, StoppingCondition."""

_INSTANCE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9]+")
_ENDPOINT = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")


class InputError(ValueError):
    """The execution's input is wrong; the text names the field, the value and the fix."""


def run_id(environment: str, execution_arn: str) -> str:
    """Stem of the SageMaker names of one execution, as the state machine computes it with `$hash`.

    An execution's own name may hold characters that SageMaker refuses, and a name of 80 would not leave room.
    """
    return f"hb-{environment}-{hashlib.sha256(execution_arn.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The resolved request of one execution."""

    dataset: str
    """S3 URI of one JSONL file."""
    held_out_dataset: str | None = None
    """S3 URI of a JSONL file that the result is judged on; None holds part of the dataset out."""
    base_model: str | None = None
    """S3 prefix of the base weights; None is the app's own, which they are brought to."""
    instance_types: tuple[str, ...]
    """Training instances in order of preference."""
    hyperparameters: Mapping[str, str | int | float]
    """The card's names; they win over the base model's defaults and the card's."""
    max_runtime_seconds: int = MAX_RUNTIME_SECONDS
    """MaxRuntimeInSeconds of the training job."""
    budget_usd: float | None = None
    """The planner refuses a run whose computed price is above it; None is no limit."""
    use_spot: bool = False
    deploy: bool = True
    endpoint_name: str
    adapter_name: str = requests.TUNED_NAME
    """Name by which requests choose this run's adapter among those of the endpoint; it replaces an earlier one."""
    approve: bool = False
    """Wait for a person between the gate and the endpoint."""
    wait_for_endpoint: bool = True
    """Wait while another run deploys to the endpoint; false refuses."""

    @classmethod
    def parse(cls, given: object, defaults: Mapping[str, Any]) -> RunRequest:
        """The request in `given` (an execution's input), with `defaults` for what it leaves out.

        Raises InputError.
        """
        if not isinstance(given, Mapping):
            raise InputError(f"the input must be a JSON object such as {{}}, not {_kind(given)}")
        refuse_unknown(given, [field.name for field in fields(cls)])
        values = {**defaults, **{name: value for name, value in given.items() if value is not None}}
        dataset, held_out = values["dataset"], values.get("held_out_dataset")
        if held_out is not None and held_out == dataset:
            raise InputError(f"held_out_dataset={held_out!r} is the dataset itself; name another file, or leave it out")
        return cls(
            dataset=_dataset("dataset", dataset),
            held_out_dataset=None if held_out is None else _dataset("held_out_dataset", held_out),
            base_model=_folder("base_model", values.get("base_model")),
            instance_types=_instances(values["instance_types"]),
            hyperparameters=_hyperparameters(values.get("hyperparameters") or {}),
            max_runtime_seconds=_seconds(values.get("max_runtime_seconds", MAX_RUNTIME_SECONDS)),
            budget_usd=_budget(values.get("budget_usd")),
            use_spot=_boolean("use_spot", values.get("use_spot", False)),
            deploy=_boolean("deploy", values.get("deploy", True)),
            endpoint_name=_endpoint(values["endpoint_name"], defaults["endpoint_name"]),
            adapter_name=_adapter(values.get("adapter_name", requests.TUNED_NAME)),
            approve=_boolean("approve", values.get("approve", False)),
            wait_for_endpoint=_boolean("wait_for_endpoint", values.get("wait_for_endpoint", True)),
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "instance_types": list(self.instance_types)}


def refuse_unknown(names: Iterable[object], known: Sequence[str]) -> None:
    """Raises InputError for a field of an execution's input that is not `known`, with the one that may be meant."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(known)}"
            raise InputError(f"{name!r} is not a field of the input; {fix}")


def _kind(value: object) -> str:
    return {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")


def _number(value: object) -> float | None:
    """A finite number that JSON may hold; None for everything else, true and false among it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _dataset(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name}={value!r} must be an S3 URI, s3://BUCKET/datasets/FILE.jsonl")
    try:
        _, key = layout.split_uri(value)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    if not key or key.endswith("/"):
        raise InputError(f"{name}={value!r} names a folder; name one JSONL file in it")
    return value


def _folder(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"{name}={value!r} must be an S3 URI, s3://BUCKET/PREFIX/")
    try:
        bucket, key = layout.split_uri(value if value.endswith("/") else f"{value}/")
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    return layout.uri(bucket, key)


def _instances(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f'instance_types={value!r} must be a list such as ["ml.p5.4xlarge"]')
    for name in value:
        if not isinstance(name, str) or not _INSTANCE.fullmatch(name):
            raise InputError(f"instance_types: {name!r} is not an instance type; write ml.FAMILY.SIZE")
    if len(set(value)) != len(value):
        raise InputError(f"instance_types={list(value)!r} names an instance twice; name each once")
    return tuple(value)


def _hyperparameters(value: object) -> Mapping[str, str | int | float]:
    if not isinstance(value, Mapping):
        raise InputError(f'hyperparameters must be an object such as {{"MAX_STEPS": 200}}, not {_kind(value)}')
    for name, setting in value.items():
        if isinstance(setting, bool) or not isinstance(setting, str | int | float):
            raise InputError(f"hyperparameters: {name}={setting!r} must be a number or text")
    return dict(value)


def _seconds(value: object) -> int:
    number = _number(value)
    if number is None or not number.is_integer():
        raise InputError(f"max_runtime_seconds={value!r} must be a whole number; leave it out for 28800 (8 h)")
    if not 1 <= number <= LONGEST_RUNTIME_SECONDS:
        raise InputError(
            f"max_runtime_seconds={number:g} must be between 1 and {LONGEST_RUNTIME_SECONDS} (28 days, SageMaker's"
            " limit); leave it out for 28800 (8 h)"
        )
    return int(number)


def _budget(value: object) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number is None or number <= 0:
        raise InputError(f"budget_usd={value!r} must be a positive number; leave it out for no limit")
    return number


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name}={value!r} must be true or false")
    return value


def _endpoint(value: object, stem: str) -> str:
    # The roles may touch endpoints of the app's own name only, so that no input can replace somebody else's.
    own = isinstance(value, str) and (value == stem or value.startswith(f"{stem}-"))
    if not isinstance(value, str) or not own or not _ENDPOINT.fullmatch(value):
        raise InputError(
            f"endpoint_name={value!r} must be {stem!r} or begin with '{stem}-', such as '{stem}-canary', with at most"
            " 63 letters, digits and single hyphens"
        )
    return value


def _adapter(value: object) -> str:
    try:
        return container_settings.check_adapter_name("adapter_name", value)
    except SettingError as error:
        raise InputError(str(error)) from None
