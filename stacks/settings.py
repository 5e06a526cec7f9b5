"""What an environment may set in cdk.json, read once and checked before a stack is made."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_logs as logs
from constructs import Node

from heartbeat import base_weights, catalog, layout, requests, score_gate
from heartbeat.endpoint_schedule import EndpointSchedule
from heartbeat.job import SettingError
from stacks.bundling import ROOT

SECTION = "heartbeat"

_RETENTION_DAYS = {
    1: logs.RetentionDays.ONE_DAY,
    3: logs.RetentionDays.THREE_DAYS,
    5: logs.RetentionDays.FIVE_DAYS,
    7: logs.RetentionDays.ONE_WEEK,
    14: logs.RetentionDays.TWO_WEEKS,
    30: logs.RetentionDays.ONE_MONTH,
    60: logs.RetentionDays.TWO_MONTHS,
    90: logs.RetentionDays.THREE_MONTHS,
    120: logs.RetentionDays.FOUR_MONTHS,
    150: logs.RetentionDays.FIVE_MONTHS,
    180: logs.RetentionDays.SIX_MONTHS,
    365: logs.RetentionDays.ONE_YEAR,
    400: logs.RetentionDays.THIRTEEN_MONTHS,
    545: logs.RetentionDays.EIGHTEEN_MONTHS,
    731: logs.RetentionDays.TWO_YEARS,
    1096: logs.RetentionDays.THREE_YEARS,
    1827: logs.RetentionDays.FIVE_YEARS,
    2192: logs.RetentionDays.SIX_YEARS,
    2557: logs.RetentionDays.SEVEN_YEARS,
    2922: logs.RetentionDays.EIGHT_YEARS,
    3288: logs.RetentionDays.NINE_YEARS,
    3653: logs.RetentionDays.TEN_YEARS,
}

_ENVIRONMENT = re.compile(r"[a-z][a-z0-9]{0,9}")  # becomes part of resource names, job names first
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/=+@-]{0,127}")  # a tag's value
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_ENDPOINT = re.compile(r"[A-Za-z0-9](-*[A-Za-z0-9]){0,62}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_FOLDER = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/(\S*/)?")
# Over anything but TLS the token could be read on the way; loopback is for tests.
_HUB = re.compile(r"https://[A-Za-z0-9.-]+(:\d+)?|http://127\.0\.0\.1:\d+")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_IMAGE = re.compile(
    r"(\d{12}\.dkr\.ecr\.[a-z0-9-]+\.[a-z.]+/)?[a-z0-9][a-z0-9_-]*(/[a-z0-9._-]+)*(:\w[\w.-]*|@sha256:[0-9a-f]{64})"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One environment's settings. Raises SettingError when made with a value that cannot be used."""

    environment: str
    """`dev`, `prod` …: part of every name, so that environments can share an account."""
    project: str = "heartbeat"
    """Value of the tag `heartbeat:project`, by which the monthly budget counts the cost."""
    base_model: str = layout.BASE_MODEL
    """Hugging Face id of the base model; its checkpoint lies at layout.base_model_prefix."""
    base_model_uri: str | None = None
    """S3 prefix that has the base weights already; left out, they are brought to or uploaded into the app's bucket."""
    hub_url: str = base_weights.HUB
    """Where base weights are brought from: Hugging Face or a mirror of it, which gets to see the token."""
    default_dataset_key: str = layout.DEFAULT_DATASET
    """Key in the data bucket that an execution trains on when its input names no dataset."""
    endpoint_name: str = ""
    """Endpoint that an execution deploys to by default; `heartbeat-<environment>` when left out."""
    instance_types: tuple[str, ...] = ("ml.p4d.24xlarge", "ml.p3.8xlarge", "ml.g5.12xlarge")
    """Training instances, best first."""
    max_runtime_seconds: int = 28_800
    """Limit of one training job, all its attempts together."""
    budget_usd: float | None = None
    """Most that one training job may cost by the plan; no limit when left out."""
    monthly_budget_usd: float | None = None
    """AWS Budgets alert on the project's monthly cost. Leave it out in a partition that lacks AWS Budgets."""
    alarm_email: str | None = None
    """Address that gets alarms and budget alerts (it must confirm the subscription)."""
    retain_data: bool = True
    """Keep buckets, keys, images and logs when the stacks are destroyed, else delete all that they hold."""
    termination_protection: bool = False
    """CloudFormation refuses to delete the stacks."""
    log_retention_days: int = 90
    use_spot: bool = False
    """Train on spot capacity unless the execution's input says otherwise."""
    serving_instance_types: tuple[str, ...] = ()
    """Endpoint instances, best first; where there is no capacity for one the next takes its place, if it has as many
    GPUs to split over. The planner chooses the cheapest of its catalogue when left out. With endpoint_scale_to_zero the
    first that can serve is the only one."""
    endpoint_instances: int = 1
    """Instances of an endpoint, each of which bills; the least where it scales."""
    endpoint_max_instances: int | None = None
    """The most that an endpoint scales to; left out, the number is fixed."""
    endpoint_concurrency: int = 4
    """Requests at once on one instance that scaling aims at."""
    endpoint_scale_to_zero: bool = False
    """End all instances of an endpoint that nobody calls for a while (heartbeat.requests.SCALE_IN_SECONDS), and start
    one when it is called. Until that answers, some minutes later (SCALE_OUT_SECONDS, assumed), calls are refused.
    endpoint_max_instances left out means one. Not every Region has it, and an endpoint that was made without it has to
    be deleted first."""
    endpoint_update: str = "all_at_once"
    """How traffic moves to a new model: `all_at_once`, `canary` (one instance first) or `rolling`. The last two need
    endpoint_instances=2; the first two bill twice the instances while an update lasts."""
    endpoint_schedule: Mapping[str, str] = field(default_factory=dict)
    """When the app's endpoint exists, like `{"on": "07:00", "off": "20:00", "days": "MON-FRI", "time_zone":
    "America/Toronto"}`; always when left out. Deleted at `off`, it bills nothing; made again at `on`, it answers some
    minutes later (heartbeat.requests.SCALE_OUT_SECONDS, assumed), if there is capacity then."""
    keep_previous: int = 1
    """How many configurations and models before the one that serves are kept, to go back to by hand."""
    serving_internet: bool = False
    """Let the serving container reach the internet; vLLM needs none, and by default it has no network at all."""
    weight_format: str = "bf16"
    """Folder of the base model's checkpoint that is trained on and served."""
    vllm_image: str = "vllm:0.30.0-gpu-py312-cu130-ubuntu24.04-sagemaker"
    """Serving image: `name:tag` in the Region's own AWS Deep Learning Containers registry, or a whole URI."""
    volume_size_gib: int = 500
    """Least EBS volume of a training job; instances with NVMe disks ignore it."""
    gate_file: str = "heartbeat/gate.toml"
    """What a tuned model must reach before it is deployed; a path from the repository's root. Deployed with the app:
    neither an execution nor a base model chooses its own bounds."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """More tags for every resource."""
    extra_dataset_buckets: tuple[str, ...] = ()
    """Buckets beside the data bucket that an execution may read datasets from."""
    extra_model_buckets: tuple[str, ...] = ()
    """Buckets beside the app's own, and that of base_model_uri, that an execution may take base weights from."""
    checkpoint_days: int = 14
    """Days until a run's training checkpoints expire; its adapter and report stay."""
    noncurrent_version_days: int = 30
    """Days until an overwritten or deleted object's old version expires."""
    access_log_days: int = 90
    """Days until S3 access logs expire."""

    def __post_init__(self) -> None:
        if not _ENVIRONMENT.fullmatch(self.environment):
            raise SettingError(
                f"environment={self.environment} must be 1 to 10 lower-case letters or digits, letter first; "
                "rename it in cdk.json, or choose another with -c environment=…"
            )
        if not self.endpoint_name:
            object.__setattr__(self, "endpoint_name", f"heartbeat-{self.environment}")
        for name in ("tags", "endpoint_schedule"):
            object.__setattr__(self, name, types.MappingProxyType(dict(getattr(self, name))))
        self._check_words()
        self._check_numbers()
        self._check_scale_to_zero()
        self._check_update()
        self._check_schedule()
        self._check_instances()
        self._check_gate()

    @classmethod
    def from_context(cls, context: Node | Mapping[str, Any], environment: str) -> Settings:
        """The environment's section of cdk.json, overridden by `-c heartbeat.<environment>.<name>=<value>`.

        Raises SettingError for an unknown environment or name, with the nearest known, and for a bad value.
        """
        given = context.get_all_context() if isinstance(context, Node) else context
        sections = given.get(SECTION)
        if not isinstance(sections, Mapping) or not all(isinstance(each, Mapping) for each in sections.values()):
            raise SettingError(f"context.{SECTION} of cdk.json must be an object with an object for each environment")
        if environment not in sections:
            raise SettingError(
                f"environment={environment} is not in cdk.json{_did_you_mean(environment, sections)}; "
                f"choose one of {', '.join(sections)} or add its section under context.{SECTION}"
            )
        prefix = f"{SECTION}.{environment}."
        from_command_line = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
        types_by_name = typing.get_type_hints(cls)
        del types_by_name["environment"]
        _refuse_misplaced(given, sections, types_by_name)
        values = {}
        for name, value in {**sections[environment], **from_command_line}.items():
            if name not in types_by_name:
                raise SettingError(
                    f"{prefix}{name} is not a setting{_did_you_mean(name, types_by_name)}; "
                    "stacks/settings.py describes all that there are"
                )
            read = _from_text if name in from_command_line else _checked
            values[name] = read(f"{prefix}{name}", value, types_by_name[name])
        return cls(environment=environment, **values)

    @property
    def schedule(self) -> EndpointSchedule | None:
        """None for an endpoint that is always there."""
        return EndpointSchedule.from_mapping(self.endpoint_schedule) if self.endpoint_schedule else None

    @property
    def gate_path(self) -> Path:
        return ROOT / self.gate_file

    @property
    def log_retention(self) -> logs.RetentionDays:
        return _RETENTION_DAYS[self.log_retention_days]

    @property
    def removal_policy(self) -> cdk.RemovalPolicy:
        """Of whatever holds data: buckets, keys, images, logs."""
        return cdk.RemovalPolicy.RETAIN if self.retain_data else cdk.RemovalPolicy.DESTROY

    @property
    def model_buckets(self) -> tuple[str, ...]:
        """Buckets beside the app's own that base weights may lie in."""
        named = [layout.split_uri(self.base_model_uri)[0]] if self.base_model_uri else []
        return tuple(dict.fromkeys([*named, *self.extra_model_buckets]))

    @property
    def all_tags(self) -> dict[str, str]:
        """Tags of every resource of the stacks."""
        return {
            **self.tags,
            "heartbeat:environment": self.environment,
            "heartbeat:project": self.project,
        }

    def _refuse(self, name: str, must: str, fix: str) -> typing.NoReturn:
        shown = json.dumps(getattr(self, name), default=dict)
        raise SettingError(f"{SECTION}.{self.environment}.{name}={shown} {must}; {fix}")

    def _check_words(self) -> None:
        patterns = {
            "project": (_PROJECT, "be a tag value of letters, digits, spaces and . _ / = + @ -"),
            "base_model": (_MODEL, f"be a Hugging Face model id like {layout.BASE_MODEL}"),
            "endpoint_name": (_ENDPOINT, "be 1 to 63 letters, digits and single hyphens"),
            "vllm_image": (_IMAGE, "be an image of Amazon ECR with its tag or digest, like vllm:0.30.0-gpu"),
            "alarm_email": (_EMAIL, "be one e-mail address"),
            "base_model_uri": (_FOLDER, "be a folder in S3, like s3://BUCKET/PREFIX/"),
            "hub_url": (_HUB, "be the https address of a hub, without a path"),
        }
        for name, (pattern, must) in patterns.items():
            value = getattr(self, name)
            if value is not None and not pattern.fullmatch(value):
                self._refuse(name, f"must {must}", "correct it or leave it out")
        if self.weight_format not in ("bf16", "nf4"):
            self._refuse("weight_format", "must be bf16 or nf4", "leave it out for bf16")
        if not self.default_dataset_key.startswith(layout.DATASETS):
            self._refuse(
                "default_dataset_key",
                f"must begin with {layout.DATASETS}",
                f"leave it out for {layout.DEFAULT_DATASET}",
            )
        for name in ("extra_dataset_buckets", "extra_model_buckets"):
            for bucket in getattr(self, name):
                if not _BUCKET.fullmatch(bucket):
                    self._refuse(name, f"holds {bucket!r}", "give bucket names, without s3:// or keys")
        for key in self.tags:
            if key.startswith(("aws:", "heartbeat:")):
                self._refuse("tags", f"sets {key!r}, which is not yours to set", "use another prefix")

    def _check_numbers(self) -> None:
        if self.log_retention_days not in _RETENTION_DAYS:
            nearest = min(_RETENTION_DAYS, key=lambda days: abs(days - self.log_retention_days))
            self._refuse(
                "log_retention_days",
                f"is not a retention that CloudWatch Logs has ({', '.join(map(str, _RETENTION_DAYS))})",
                f"use {nearest}",
            )
        for name in ("budget_usd", "monthly_budget_usd"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                self._refuse(name, "must be a number of dollars above 0", "leave it out for no limit")
        limits = {
            # SageMaker's own limits: MaxRuntimeInSeconds 28 days, VolumeSizeInGB 16 TiB.
            "max_runtime_seconds": (600, 28 * 24 * 3600, 28_800),
            "volume_size_gib": (50, 16_384, 500),
            "checkpoint_days": (1, 3650, 14),
            "noncurrent_version_days": (1, 3650, 30),
            "access_log_days": (1, 3650, 90),
            "endpoint_instances": (1, 100, 1),
            "endpoint_concurrency": (1, 10_000, 4),
            "keep_previous": (0, 100, 1),
        }
        for name, (low, high, default) in limits.items():
            if not low <= getattr(self, name) <= high:
                self._refuse(name, f"must be from {low} to {high}", f"leave it out for {default}")

    def _check_update(self) -> None:
        most = self.endpoint_max_instances
        if self.endpoint_scale_to_zero:
            if most is not None and not 1 <= most <= 1000:
                self._refuse("endpoint_max_instances", "must be from 1 to 1000", "leave it out for 1")
        elif most is not None and not self.endpoint_instances < most <= 1000:
            self._refuse(
                "endpoint_max_instances",
                f"must be above endpoint_instances={self.endpoint_instances}, and at most 1000",
                "leave it out for a fixed number",
            )
        if self.endpoint_update not in requests.UPDATES:
            self._refuse("endpoint_update", f"must be one of {', '.join(requests.UPDATES)}", "leave it out")
        if self.endpoint_update != "all_at_once" and self.endpoint_instances < 2:
            self._refuse(
                "endpoint_update",
                f"moves half of the instances at the most, and endpoint_instances={self.endpoint_instances}",
                "set endpoint_instances to 2, or leave endpoint_update out",
            )

    def _check_schedule(self) -> None:
        try:
            _ = self.schedule
        except SettingError as error:
            self._refuse("endpoint_schedule", str(error), "or leave it out for an endpoint that is always there")

    def _check_scale_to_zero(self) -> None:
        if not self.endpoint_scale_to_zero:
            return
        if self.endpoint_schedule:
            self._refuse(
                "endpoint_schedule",
                "cannot be together with endpoint_scale_to_zero=true: an endpoint that nobody calls bills nothing at"
                " night either",
                "leave one of them out",
            )
        if self.endpoint_update != "all_at_once":
            self._refuse(
                "endpoint_update",
                "cannot be together with endpoint_scale_to_zero=true, which always updates copy by copy",
                "leave it out",
            )
        if self.endpoint_instances != 1:
            self._refuse(
                "endpoint_instances",
                "cannot be together with endpoint_scale_to_zero=true, where the least is none",
                "leave it out, and set endpoint_max_instances to the most",
            )

    def _check_instances(self) -> None:
        if not self.instance_types:
            self._refuse("instance_types", "names no instance", 'give at least one, like ["ml.p4d.24xlarge"]')
        for name in ("instance_types", "serving_instance_types"):
            values: tuple[str, ...] = getattr(self, name)
            for value in values:
                try:
                    catalog.load().get(value)
                except catalog.UnknownInstance as unknown:
                    self._refuse(
                        name, f"cannot be planned: {unknown}", "correct it, or add it to heartbeat/instances.csv"
                    )
            if len(set(values)) != len(values):
                self._refuse(name, "names an instance twice", "list each once, best first")

    def _check_gate(self) -> None:
        try:
            score_gate.load(self.gate_path)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self._refuse("gate_file", f"cannot be read ({why})", "name a file below the repository's root")
        except SettingError as error:
            self._refuse("gate_file", f"has a mistake: {error}", "correct the file, or leave the setting out")


_Kind = tuple[str, Callable[[Any], bool], Callable[[Any], Any]]

# What a field of each type may be given as in JSON, and how it is kept.
_KINDS: dict[Any, _Kind] = {
    str: ("text", lambda value: isinstance(value, str), str),
    bool: ("true or false", lambda value: isinstance(value, bool), bool),
    int: ("a whole number", lambda value: type(value) is int, int),
    float: ("a number", lambda value: type(value) in (int, float), float),
    tuple[str, ...]: (
        "a list of texts",
        lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
        tuple,
    ),
    Mapping[str, str]: (
        "an object of texts",
        lambda value: isinstance(value, dict) and all(isinstance(each, str) for each in value.values()),
        dict,
    ),
}


def _checked(name: str, value: Any, expected: Any) -> Any:
    """A value of cdk.json as the field's type."""
    optional = type(None) in typing.get_args(expected)
    if optional and value is None:
        return None
    meaning, fits, keep = _KINDS[typing.get_args(expected)[0] if optional else expected]
    if not fits(value):
        raise SettingError(f"{name}={json.dumps(value)} must be {meaning}; correct it in cdk.json")
    return keep(value)


def _from_text(name: str, text: str, expected: Any) -> Any:
    """A value of the command line: text as it stands, anything else as JSON."""
    if expected in (str, str | None):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text  # which the check refuses by name
    return _checked(name, value, expected)


def _refuse_misplaced(context: Iterable[str], sections: Iterable[str], names: Iterable[str]) -> None:
    """A setting that no environment would read is a mistake of the command line, not a wish to ignore."""
    for key in context:
        section, dot, rest = key.partition(".")
        if key in names:
            raise SettingError(f"{key} needs its environment; write -c {SECTION}.dev.{key}=…")
        if section == SECTION and dot and rest.partition(".")[0] not in sections:
            environment = rest.partition(".")[0]
            raise SettingError(
                f"{key} is for environment {environment}, which is not in cdk.json"
                f"{_did_you_mean(environment, sections)}; choose one of {', '.join(sections)}"
            )


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
