"""FineTuneJob: the settings of one fine-tuning run, their defaults, their limits and where each came from."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

MODES = ("auto", "resident", "sharded", "streamed")
LORA_TARGETS = ("attention", "shared_expert", "routed_experts")
VLLM_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `--max-lora-rank` takes (`MaxLoRARanks` in vllm/config/lora.py of vLLM 0.30.0)."""
MAX_RUNTIME_LIMIT_SECONDS = 28 * 24 * 3600
"""The longest MaxRuntimeInSeconds that SageMaker takes: 28 days."""
DEFAULTS_SOURCE = "the card"

LONGEST = 8191
"""The most that MAX_LENGTH may be, in tokens."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_INJECTED_PREFIX = "sagemaker_"  # SageMaker and its SDK add names of their own to hyperparameters.json.


class SettingError(ValueError):
    """A setting that cannot be used. The message names the setting, its value and the fix."""


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """What a setting accepts. `choices` makes it a word, or a comma-separated list where `many`."""

    whole: bool = False
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    many: bool = False
    optional: bool = False
    why: str = ""


def _setting(default: T, **rule: Any) -> T:
    """A dataclass field with its rule; typed as its default so that mypy sees a plain field."""
    made: T = field(default=default, metadata={"rule": _Rule(**rule)})
    return made


@dataclass(frozen=True, kw_only=True)
class FineTuneJob:
    """One fine-tuning run. A hyperparameter's name is the field's in capitals: `max_steps` is MAX_STEPS.

    Strings that hold numbers are taken as numbers, since SageMaker passes every hyperparameter as a string.
    Raises SettingError for a value out of bounds or two that contradict each other.
    """

    learning_rate: float = _setting(2e-4, above=0, at_most=1)
    """Peak of the schedule, reached after the warm-up; AdamW's step size."""

    max_steps: int = _setting(400, whole=True, at_least=1, at_most=1_000_000)
    """Optimizer steps."""

    per_device_batch_size: int = _setting(2, whole=True, at_least=1, at_most=1024)
    """With GRADIENT_ACCUMULATION_STEPS, by which it is multiplied, the sequences of a step. How many of them a GPU is
    given at once is a matter of its memory (`heartbeat.memory.fit`), and changes no step."""

    gradient_accumulation_steps: int = _setting(32, whole=True, at_least=1, at_most=65_536)
    """By what PER_DEVICE_BATCH_SIZE is multiplied, over all GPUs together."""

    max_length: int = _setting(
        4096,
        whole=True,
        at_least=32,
        at_most=LONGEST,
        why="Llama 4 attends in chunks of 8,192 and scales its NoPE layers from row 8,191 on",
    )
    """Tokens in a packed sequence, and the most that a conversation may have."""

    lora_r: int = _setting(16, whole=True, at_least=1, at_most=512, why="vLLM serves no higher rank")
    """Rank of the adapter."""

    lora_alpha: int = _setting(32, whole=True, at_least=1, at_most=65_536)
    """Scale of the adapter: its update is multiplied by LORA_ALPHA / LORA_R."""

    lora_dropout: float = _setting(0.05, at_least=0, below=1)
    """Probability that an input of the adapter is dropped in training."""

    seed: int = _setting(0, whole=True, at_least=0, at_most=2**31 - 1)
    """Of the adapter's start, the order of rows, dropout and the held-out split."""

    warmup_steps: int = _setting(10, whole=True, at_least=0, at_most=1_000_000)
    """Steps over which the learning rate rises from 0 to LEARNING_RATE."""

    held_out_fraction: float = _setting(0.1, at_least=0, at_most=0.5)
    """Share of conversations kept from training, on which base and tuned model are compared."""

    checkpoint_minutes: float = _setting(15.0, above=0, at_most=MAX_RUNTIME_LIMIT_SECONDS / 60)
    """Minutes between checkpoints."""

    eval_every_steps: int = _setting(50, whole=True, at_least=1, at_most=1_000_000)
    """Steps between evaluations on the held-out rows."""

    eval_generate_rows: int = _setting(128, whole=True, at_least=0, at_most=100_000)
    """Held-out rows, at most, whose turns base and tuned model are asked to say; 0 asks nothing. With 128 a share of
    0.9 has an interval of 0.83 to 0.94; four times the rows, and the time, would halve it."""

    eval_max_new_tokens: int = _setting(128, whole=True, at_least=1, at_most=8191)
    """Tokens of such an answer, at most: twice Stanley's longest turn. What is cut is judged as it stands, so raise it
    where calls are longer: half a call is none."""

    lora_targets: tuple[str, ...] = _setting(("attention", "shared_expert"), choices=LORA_TARGETS, many=True)
    """Which matrices get an adapter; written `attention,shared_expert`."""

    mode: str = _setting("auto", choices=MODES)
    """Where the frozen weights live: on each GPU, split over the GPUs, in host memory, or as fits best."""

    max_runtime_seconds: int = _setting(
        28_800,
        whole=True,
        at_least=1,
        at_most=MAX_RUNTIME_LIMIT_SECONDS,
        why="28 days, the longest that SageMaker lets a training job run",
    )
    """The clock of the training job, from start-up to upload; the job's StoppingCondition."""

    usd_per_hour: float | None = _setting(None, at_least=0, at_most=10_000, optional=True)
    """Price of the instance, for the dollars-so-far metric only."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = _value(f.name.upper(), getattr(self, f.name), f.metadata["rule"])
            object.__setattr__(self, f.name, value)
        if self.warmup_steps >= self.max_steps:
            raise SettingError(
                f"WARMUP_STEPS={self.warmup_steps} must be less than MAX_STEPS={self.max_steps}, or the "
                f"learning rate never gets to LEARNING_RATE; set WARMUP_STEPS to at most {self.max_steps - 1}"
            )

    @property
    def global_batch_size(self) -> int:
        """Sequences in an optimizer step, over all GPUs together: the card's 2 x 32 = 64."""
        return self.per_device_batch_size * self.gradient_accumulation_steps

    @property
    def max_lora_rank(self) -> int:
        """The smallest rank limit of vLLM (`--max-lora-rank`) that serves this adapter."""
        return next(rank for rank in VLLM_LORA_RANKS if rank >= self.lora_r)

    @classmethod
    def from_hyperparameters(cls, values: Mapping[str, object]) -> FineTuneJob:
        """The job of a training container's hyperparameters; what is left out takes the card's value."""
        job, _ = resolve(("the hyperparameters", values))
        return job

    def to_hyperparameters(self) -> dict[str, str]:
        """Every setting as SageMaker takes it, strings only; `from_hyperparameters` reverses it."""
        values = {name: getattr(self, name.lower()) for name in SETTINGS}
        return {name: _text(value) for name, value in values.items() if value is not None}

    def with_max_steps(self, max_steps: int) -> FineTuneJob:
        """The same run with another number of steps, its warm-up shortened where it would not fit."""
        warmup_steps = min(self.warmup_steps, _default_warmup_steps(max_steps))
        return replace(self, max_steps=max_steps, warmup_steps=warmup_steps)


SETTINGS: tuple[str, ...] = tuple(f.name.upper() for f in fields(FineTuneJob))
"""Names of all settings, as hyperparameters spell them."""


def resolve(*sources: tuple[str, Mapping[str, object]]) -> tuple[FineTuneJob, dict[str, str]]:
    """The job that these sources give, the first that has a name winning, and where each value came from.

    `resolve(("execution input", {...}), ("training_defaults.json", {...}))`: a name that none has, or that
    has null, takes the card's default, source "the card". Raises SettingError that names the source.
    """
    chosen: dict[str, object] = {}
    where: dict[str, str] = dict.fromkeys(SETTINGS, DEFAULTS_SOURCE)
    for source, values in sources:
        for name, value in values.items():
            if name.startswith(_INJECTED_PREFIX):
                continue
            if name not in where:
                _refuse_unknown(name, source)
            if value is not None and name not in chosen:
                # Checked here, one by one, so that the message can say which source to correct.
                chosen[name] = _from_source(name, value, source)
                where[name] = source
    if "WARMUP_STEPS" not in chosen:
        # The card's 10 steps suit its 400; a short run would otherwise be refused for a value nobody gave.
        steps = chosen.get("MAX_STEPS", FineTuneJob.max_steps)
        assert isinstance(steps, int)
        chosen["WARMUP_STEPS"] = min(FineTuneJob.warmup_steps, _default_warmup_steps(steps))
        if chosen["WARMUP_STEPS"] != FineTuneJob.warmup_steps:
            where["WARMUP_STEPS"] = f"{DEFAULTS_SOURCE}, shortened for MAX_STEPS={steps}"
    settings: dict[str, Any] = {name.lower(): value for name, value in chosen.items()}
    return FineTuneJob(**settings), where


def _default_warmup_steps(max_steps: int) -> int:
    return FineTuneJob.warmup_steps if max_steps > FineTuneJob.warmup_steps * 2 else max_steps // 10


def _from_source(name: str, value: object, source: str) -> object:
    try:
        return _value(name, value, _RULES[name])
    except SettingError as error:
        raise SettingError(f"{error} (from {source})") from None


def _refuse_unknown(name: str, source: str) -> NoReturn:
    near = difflib.get_close_matches(name.upper(), SETTINGS, n=1)
    fix = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(SETTINGS)}"
    raise SettingError(f"{_shown(name)} is not a setting; {fix} (from {source})")


def _value(name: str, value: object, rule: _Rule) -> object:
    """`value` as the setting's own type, checked; raises SettingError."""
    if value is None and rule.optional:
        return None
    if rule.choices:
        return _words(name, value, rule)
    number = _number(name, value, rule)
    why = f" ({rule.why})" if rule.why else ""
    if rule.at_least is not None and number < rule.at_least:
        _refuse(name, value, f"must be at least {_text(rule.at_least)}")
    if rule.above is not None and number <= rule.above:
        _refuse(name, value, f"must be more than {_text(rule.above)}")
    if rule.at_most is not None and number > rule.at_most:
        _refuse(name, value, f"must be at most {_text(rule.at_most)}{why}")
    if rule.below is not None and number >= rule.below:
        _refuse(name, value, f"must be less than {_text(rule.below)}{why}")
    return number if rule.whole else float(number)


def _number(name: str, value: object, rule: _Rule) -> int | float:
    kind = "a whole number" if rule.whole else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        _refuse(name, value, f"must be {kind}")
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 40 or not _NUMBER.fullmatch(text):
            _refuse(name, value, f"must be {kind}")
        value = int(text) if text.lstrip("+-").isdigit() else float(text)
    if isinstance(value, float) and not math.isfinite(value):
        _refuse(name, value, f"must be {kind}, and finite")
    if not rule.whole:
        return value
    if value != int(value):
        _refuse(name, value, f"must be {kind}")
    return int(value)


def _words(name: str, value: object, rule: _Rule) -> str | tuple[str, ...]:
    if isinstance(value, str):
        words = [word.strip() for word in value.split(",")] if rule.many else [value.strip()]
    elif rule.many and isinstance(value, (list, tuple)):
        words = [word if isinstance(word, str) else repr(word) for word in value]
    else:
        words = []
    for word in words or [""]:
        if word not in rule.choices:
            near = difflib.get_close_matches(word.lower(), rule.choices, n=1)
            hint = f", perhaps {near[0]}" if near else ""
            of = "a comma-separated list of" if rule.many else "one of"
            _refuse(name, value, f"must be {of} {', '.join(rule.choices)}{hint}")
    return tuple(word for word in rule.choices if word in words) if rule.many else words[0]


def _refuse(name: str, value: object, problem: str) -> NoReturn:
    default = FineTuneJob.__dataclass_fields__[name.lower()].default
    fix = "leave it out" if default is None else f"leave it out for {_text(default)}"
    raise SettingError(f"{name}={_shown(value)} {problem}; {fix}")


def _shown(value: object) -> str:
    text = value if isinstance(value, str) and value.strip() else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    # Whole floats stay short ("15", not "15.0"); repr() of the rest loses nothing.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


_RULES: dict[str, _Rule] = {f.name.upper(): f.metadata["rule"] for f in fields(FineTuneJob)}
