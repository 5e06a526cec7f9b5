"""Base weights that come into the bucket by themselves: what is asked for, on which instance, for how long."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from heartbeat.execution import LONGEST_RUNTIME_SECONDS, InputError, refuse_unknown
from heartbeat.scout import ModelShape

FORMATS = ("bf16", "nf4", "fp8")
"""What is brought, its NF4 packs for the trainer, and a copy for serving; the latter two are made of the first."""
HUB = "https://huggingface.co"
STARTED_BY = "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID"
"""Step Functions' own field of a nested execution's input: the console links the two by it."""

MEGABYTES_PER_SECOND = 200.0
"""Assumed of the hub and of S3, several files at a time; nothing was measured on AWS."""
NF4_WEIGHTS_PER_CORE_SECOND = 25e6
FP8_WEIGHTS_PER_CORE_SECOND = 76e6
"""Measured on an AMD EPYC core, bf16 weights, torch 2.13 (nf4.quantize of 84 M, fp8.quantise of 126 M)."""
THREADS_PER_CORE = 2
"""vCPUs are hyperthreads; arithmetic is counted by cores."""
FETCHING_MEMORY_GIB, PACKING_MEMORY_GIB = 4, 12
"""Computed, with as much to spare: eight files in flight with two parts of 64 MiB each, and Python with torch; the
largest tensor (16 x 5120 x 16384 in bf16: 2.5 GiB), a pack (1.2), and what is computed between them."""
VOLUME_GIB = 60
"""Computed: up to four shards of 4.4 GB at a time, one file that is being written (4.4 GB), with as much to spare."""
SLACK, START_UP_HOURS = 3.0, 0.5
"""The stop comes at three times the estimate and half an hour for the image."""

_TOKEN = re.compile(r"[!-~]{8,512}")
_REVISION = re.compile(r"[\w][\w./-]{0,199}")


@dataclass(frozen=True, kw_only=True)
class Instance:
    """An instance without a GPU that the job may run on."""

    name: str
    num_vcpus: int
    memory_gib: int
    network_gbit: float
    """Lasting, each way: what is called "up to 10" is for minutes. EC2's instance types reference, unverified."""
    usd_per_hour: float
    """SageMaker training on demand, us-east-1, as of 2026-11: unverified."""


INSTANCES = (
    Instance(name="ml.m5.xlarge", num_vcpus=4, memory_gib=16, network_gbit=1.25, usd_per_hour=0.23),
    Instance(name="ml.m5.2xlarge", num_vcpus=8, memory_gib=32, network_gbit=2.5, usd_per_hour=0.461),
    Instance(name="ml.m5.4xlarge", num_vcpus=16, memory_gib=64, network_gbit=5, usd_per_hour=0.922),
    Instance(name="ml.c5.2xlarge", num_vcpus=8, memory_gib=16, network_gbit=2.5, usd_per_hour=0.408),
    Instance(name="ml.c5.4xlarge", num_vcpus=16, memory_gib=32, network_gbit=5, usd_per_hour=0.816),
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The job on one instance."""

    instance_type: str
    hours: float
    """Estimated, at the rates that are assumed above."""
    usd: float
    max_runtime_seconds: int
    """The job's stop condition."""
    volume_size_gib: int = VOLUME_GIB

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def candidates(
    shape: ModelShape, make: Sequence[str], *, names: Sequence[str] = (), max_runtime_seconds: int | None = None
) -> list[Candidate]:
    """The instances that have the memory, cheapest first by the whole job's price; or `names` in their order.

    Raises InputError for a name that is not among INSTANCES.
    """
    known = {instance.name: instance for instance in INSTANCES}
    for name in names:
        if name not in known:
            raise InputError(
                f"instance_types: {name!r} is not known to bring weights on; leave it out, or name one of "
                f"{', '.join(known)}"
            )
    needed = FETCHING_MEMORY_GIB if set(make) <= {"bf16"} else PACKING_MEMORY_GIB
    fitting = [instance for instance in INSTANCES if instance.memory_gib >= needed]
    found = [_candidate(each, shape, make, max_runtime_seconds) for each in ([known[n] for n in names] or fitting)]
    return found if names else sorted(found, key=lambda one: one.usd)


def _candidate(
    instance: Instance, shape: ModelShape, make: Sequence[str], max_runtime_seconds: int | None
) -> Candidate:
    hours = _hours(shape, make, instance)
    stop = max_runtime_seconds or math.ceil((SLACK * hours + START_UP_HOURS) * 3600)
    return Candidate(
        instance_type=instance.name,
        hours=round(hours, 2),
        usd=round(hours * instance.usd_per_hour, 2),
        max_runtime_seconds=min(stop, LONGEST_RUNTIME_SECONDS),
    )


def _hours(shape: ModelShape, make: Sequence[str], instance: Instance) -> float:
    """Bringing reads and writes at once; the other two read what was brought, compute, and write."""
    made = {one: sum(shape.bytes_by_part(one).values()) for one in FORMATS if one != "bf16"}
    computed = {"nf4": NF4_WEIGHTS_PER_CORE_SECOND, "fp8": FP8_WEIGHTS_PER_CORE_SECOND}
    num_bytes = sum(shape.bytes_bf16 + made.get(one, 0) for one in make)
    seconds = num_bytes / min(MEGABYTES_PER_SECOND * 1e6, instance.network_gbit * 1e9 / 8)
    num_cores = instance.num_vcpus / THREADS_PER_CORE
    seconds += sum(shape.total_parameters / (rate * num_cores) for one, rate in computed.items() if one in make)
    return seconds / 3600


@dataclass(frozen=True, kw_only=True)
class BringRequest:
    """The input of an execution that brings weights, every field optional."""

    make: tuple[str, ...] = FORMATS
    """Of FORMATS; nf4 and fp8 need bf16, which is brought where it is not there."""
    revision: str = "main"
    """Branch, tag or commit of the repository on the hub."""
    instance_types: tuple[str, ...] = ()
    """In order of preference; the cheapest first when left out."""
    max_runtime_seconds: int | None = None
    """The job's stop condition; from size and assumed rates when left out."""

    @classmethod
    def parse(cls, given: object) -> BringRequest:
        """Raises InputError."""
        if not isinstance(given, Mapping):
            raise InputError("the input must be a JSON object such as {}")
        values = {name: value for name, value in given.items() if value is not None and name != STARTED_BY}
        refuse_unknown(values, [field.name for field in fields(cls)])
        return cls(
            make=_formats(values.get("make", FORMATS)),
            revision=_revision(values.get("revision", "main")),
            instance_types=_texts("instance_types", values.get("instance_types", ())),
            max_runtime_seconds=_seconds(values.get("max_runtime_seconds")),
        )


def _texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise InputError(f"{name}={value!r} must be a list of texts; leave it out for the default")
    return tuple(value)


def _formats(value: object) -> tuple[str, ...]:
    given = _texts("make", value)
    for each in given:
        if each not in FORMATS:
            raise InputError(f"make: {each!r} is not a format; name some of {', '.join(FORMATS)}")
    return tuple(each for each in FORMATS if each in given) or FORMATS


def _revision(value: object) -> str:
    if not isinstance(value, str) or not _REVISION.fullmatch(value) or ".." in value:
        raise InputError(f"revision={value!r} must be a branch, tag or commit; leave it out for main")
    return value


def _seconds(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 600 <= value <= LONGEST_RUNTIME_SECONDS:
        raise InputError(
            f"max_runtime_seconds={value!r} must be a whole number from 600 to {LONGEST_RUNTIME_SECONDS} (28 days,"
            " SageMaker's limit); leave it out for three times the estimate"
        )
    return value


def is_token(text: str) -> bool:
    """Whether it can be a token of the hub, and go into a header: one line of letters, digits and signs."""
    return _TOKEN.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class BringJob:
    """What the job is told. A hyperparameter's name is the field's in capitals."""

    model: str
    """Hugging Face id"""
    revision: str
    make: tuple[str, ...]
    """Of FORMATS, in their order"""
    bucket: str
    folder: str
    """Prefix in the bucket with a folder for each format"""
    token_secret: str
    """ARN of the secret that holds the hub's token; never the token"""
    hub: str = HUB

    def to_hyperparameters(self) -> dict[str, str]:
        return {name.upper(): ",".join(v) if name == "make" else str(v) for name, v in asdict(self).items()}

    @classmethod
    def from_hyperparameters(cls, values: Mapping[str, Any]) -> BringJob:
        """Raises InputError for one that is missing."""
        found: dict[str, Any] = {}
        for field in fields(cls):
            value = values.get(field.name.upper())
            if not isinstance(value, str) or not value:
                raise InputError(f"{field.name.upper()}={value!r} must be text; start the job by its state machine")
            found[field.name] = value
        return cls(**{**found, "make": _formats(found["make"].split(","))})
