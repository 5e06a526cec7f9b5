"""The plan of a run: on which instances it fits, how long it takes there and what it costs; or why not.

Each figure comes from the model's shape, the dataset's tokens and what GPUs were measured to reach
(`heartbeat.calibration`), and each candidate shows the terms that it is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, Literal

from heartbeat import calibration, score_gate
from heartbeat.calibration import Calibration
from heartbeat.candidates import Candidate, Request
from heartbeat.card import INSTANCE_TYPES as INSTANCE_TYPES
from heartbeat.card import card_truth_table as card_truth_table
from heartbeat.catalog import Catalog, Instance
from heartbeat.dataset import DatasetStats
from heartbeat.durations import about
from heartbeat.job import FineTuneJob
from heartbeat.scout import ModelShape
from heartbeat.serving_plan import ServingPlan as ServingPlan
from heartbeat.serving_plan import plan_serving as plan_serving
from heartbeat.timing import ASSUMED, Assumed

Rank = Literal["preference", "cost", "time"]
"""As the instances are given, the cheapest run first, or the fastest."""

CLEARLY = 0.9
"""An instance with this share of the chosen one's dollars or hours, or less, is worth naming."""

NEARLY = 1.05
"""Within this of the fastest, one takes the cheapest."""

_TRIED_FOR_FIXES = 5
"""Instances, the first in order, that a smaller job is looked for on: each takes dozens of plans."""

MUCH_ASSUMED = 0.1
"""From this share of a run on it is said that nobody measured it."""

_LEAST_NEW_TOKENS, _LEAST_ASKED_ROWS = 32, 16
"""A smaller job asks for no shorter answers and of no fewer rows: of less nothing could be judged."""

MANY_PASSES = 10
"""Passes over the data from which on a run rather learns it by heart."""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """An instance on which the run cannot be, with the reason of the mode that comes nearest."""

    instance_type: str
    mode: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The verdict on a run before it is paid for."""

    candidates: tuple[Candidate, ...]
    """Where it can run, best first: one entry an instance, in its fastest mode that fits."""
    rejected: tuple[Rejection, ...]
    considered: tuple[Candidate, ...]
    """Every instance asked for in every mode."""
    refusal: str | None
    """Why it cannot run anywhere, by how much, and the nearest change that would."""
    alternatives: tuple[str, ...]
    """Instances of the catalogue that would do it clearly cheaper or faster than the first of `candidates`."""
    warnings: tuple[str, ...]
    max_runtime_seconds: int
    budget_usd: float | None
    use_spot: bool
    passes: float
    """How often each training row is seen."""
    tokens_per_step: float
    """On average."""
    tokens_are_exact: bool
    """Whether Llama 4's tokenizer counted them; otherwise they are estimates, and so is all that rests on them."""
    assumed: Assumed
    """What start and end of a run were taken to be."""
    quotas_checked: bool
    prices_as_of: str
    """Of the instances considered, and whether any is old."""

    @property
    def feasible(self) -> bool:
        return self.refusal is None

    def to_dict(self) -> dict[str, Any]:
        """As JSON: all fields, and `feasible`."""
        return {"schema": 1, "feasible": self.feasible, **asdict(self)}


def plan_run(
    *,
    shape: ModelShape,
    stats: DatasetStats,
    job: FineTuneJob,
    catalog: Catalog,
    instance_types: Sequence[str] | None = None,
    max_runtime_seconds: int = 28_800,
    budget_usd: float | None = None,
    use_spot: bool = False,
    spot_usd_per_hour: Mapping[str, float] | None = None,
    tokens_per_second: Mapping[str, float] | None = None,
    quotas: Mapping[str, int] | None = None,
    rank: Rank = "preference",
    measured: Calibration | None = None,
    assumed: Assumed = ASSUMED,
    today: date | None = None,
) -> Plan:
    """Plans a run on each of `instance_types`.

    They are best first: the card's three where None, or the whole catalogue with a `rank` of cost or time.
    `budget_usd` is held against on-demand prices, also with `use_spot`, whose price is unknown unless given.
    `tokens_per_second`: the user's own rates of whole instances. `quotas`: training jobs that the account may run on
    each type at a time (0 where it is left out); None: not checked. `measured`: the stored benchmarks where None.
    `assumed`: what comes before and after the steps. `today` tells which prices are old.
    Raises UnknownInstance for a type that the catalogue lacks, ValueError for a rate of 0 or less and for statistics
    that were counted for another MAX_LENGTH.
    """
    for name, rate in (tokens_per_second or {}).items():
        catalog.get(name)
        if not (math.isfinite(rate) and rate > 0):
            raise RateError(f"the rate of {name} is {rate:g}; it must be tokens a second, above 0")
    request = Request(
        shape=shape,
        stats=stats,
        job=job,
        catalog=catalog,
        max_runtime_seconds=max_runtime_seconds,
        budget_usd=budget_usd,
        spot_usd_per_hour=spot_usd_per_hour or {},
        tokens_per_second=tokens_per_second or {},
        quotas=quotas,
        calibration=measured or calibration.stored(catalog),
        assumed=assumed,
        today=today or datetime.now(UTC).date(),
    )
    default = INSTANCE_TYPES if rank == "preference" else tuple(catalog.instances)
    wanted = list(dict.fromkeys(instance_types or default))
    considered = [candidate for name in wanted for candidate in request.candidates(catalog.get(name))]
    best = sorted((request.best(catalog.get(name)) for name in wanted), key=_KEYS[rank])
    trainable = request.work.training_rows > 0
    candidates = tuple(candidate for candidate in best if trainable and not candidate.problems)
    rejected = tuple(
        Rejection(instance_type=c.instance_type, mode=c.mode, reasons=c.problems) for c in best if c.problems
    )
    return Plan(
        candidates=candidates,
        rejected=rejected,
        considered=tuple(considered),
        refusal=None if candidates else _refusal(request, best),
        alternatives=tuple(_alternatives(request, candidates)),
        warnings=tuple(_warnings(request, candidates, use_spot)),
        max_runtime_seconds=max_runtime_seconds,
        budget_usd=budget_usd,
        use_spot=use_spot,
        passes=request.work.passes,
        tokens_per_step=request.work.step_tokens,
        tokens_are_exact=stats.tokens_are_exact,
        assumed=assumed,
        quotas_checked=quotas is not None,
        prices_as_of="; ".join(dict.fromkeys(c.price_note for c in considered)),
    )


class RateError(ValueError):
    """A rate that nothing can run at; the message names the instance and the rate."""


# One that nobody can time comes after all that somebody can.
_KEYS: Mapping[Rank, Callable[[Candidate], tuple[bool, float]]] = {
    "preference": lambda c: (c.hours is None, 0.0),
    "cost": lambda c: (c.usd_on_demand is None, c.usd_on_demand or 0.0),
    "time": lambda c: (c.hours is None, c.hours or 0.0),
}


def _alternatives(request: Request, candidates: Sequence[Candidate]) -> list[str]:
    """What the catalogue has that is clearly better than the chosen one, in words."""
    first = candidates[0] if candidates else None
    if first is None or first.hours is None or first.usd_on_demand is None:
        return []
    every = [request.best(instance) for instance in request.catalog]
    fit = [c for c in every if not c.problems and c.hours is not None and c.usd_on_demand is not None]
    cheapest, fastest = min(fit, key=lambda c: c.usd_on_demand or 0.0), _fastest(fit)
    better: dict[str, list[str]] = {}
    if (cheapest.usd_on_demand or 0.0) <= CLEARLY * first.usd_on_demand:
        better.setdefault(f"{cheapest.summary()} ({cheapest.confidence})", []).append("cheaper")
    if (fastest.hours or 0.0) <= CLEARLY * first.hours:
        better.setdefault(f"{fastest.summary()} ({fastest.confidence})", []).append("faster")
    return [f"clearly {' and '.join(how)}: {words}, where {first.summary()}" for words, how in better.items()]


def _fastest(fit: Sequence[Candidate]) -> Candidate:
    """The cheapest of those that are hardly slower than the fastest. All have hours; at least one."""
    least = min(c.hours or 0.0 for c in fit)
    near = [c for c in fit if (c.hours or 0.0) <= NEARLY * least]
    return min(near, key=lambda c: (c.usd_on_demand is None, c.usd_on_demand or 0.0))


# --- refusals and what would help


def _refusal(request: Request, nearest: Sequence[Candidate]) -> str:
    if not request.work.training_rows:
        return (
            f"no row of the {request.stats.rows:,} is left to train on: {request.stats.over_long_rows:,} are over "
            f"MAX_LENGTH={request.job.max_length}; shorten them, or raise MAX_LENGTH to at most 8191"
        )
    why = "; ".join(f"{c.instance_type} ({c.mode}) {', '.join(c.problems)}" for c in nearest)
    return f"this run fits no instance asked for: {why}. {_what_would_fit(request, nearest)}."


def _what_would_fit(request: Request, nearest: Sequence[Candidate]) -> str:
    tried: dict[str, None] = {}
    smaller = []
    for candidate in nearest[:_TRIED_FOR_FIXES]:
        for change in _changes(request, candidate):
            tried |= dict.fromkeys(name.upper() for name in change)
            found = replace(request, job=replace(request.job, **change)).best(_instance(request, candidate))
            if not found.problems:
                smaller.append((change, found))
                break
    # The one that keeps most steps is the nearest; of several, the first in the order of preference.
    most = max(smaller, key=lambda fix: fix[0].get("max_steps", request.job.max_steps), default=None)
    fixes = [f"{_in_words(request.job, most[0])} ({most[1].summary()})"] if most else []
    asked = {candidate.instance_type for candidate in nearest}
    others = [request.best(instance) for instance in request.catalog if instance.instance_type not in asked]
    fit = [c for c in others if not c.problems and c.hours is not None]
    if fit:
        cheapest = min(fit, key=lambda c: (c.usd_on_demand is None, c.usd_on_demand or 0.0))
        fixes += dict.fromkeys(c.summary() for c in (cheapest, _fastest(fit)))
    if fixes:
        return "What would fit: " + "; ".join(fixes)
    if not tried:
        return "No setting of the job would make it fit"
    return f"None of the changes tried, one at a time ({', '.join(tried)}), makes it fit"


def _instance(request: Request, candidate: Candidate) -> Instance:
    return request.catalog.get(candidate.instance_type)


def _in_words(job: FineTuneJob, change: Mapping[str, Any]) -> str:
    """`MAX_STEPS=175 instead of 400`."""
    before, after = job.to_hyperparameters(), replace(job, **change).to_hyperparameters()
    return ", ".join(f"{name}={after[name]} instead of {before[name]}" for name in map(str.upper, change))


def _changes(request: Request, candidate: Candidate) -> Iterator[dict[str, Any]]:
    """Changes of the job that may make it fit where this candidate does not, the least first."""
    job = request.job
    if not _instance(request, candidate).bf16:
        return
    if job.mode != "auto":
        yield {"mode": "auto"}
    if not candidate.memory_shortage:
        if job.eval_every_steps < job.max_steps:
            yield {"eval_every_steps": job.max_steps}
        for tokens in _halves(job.eval_max_new_tokens, _LEAST_NEW_TOKENS):
            yield {"eval_max_new_tokens": tokens}
        for rows in _halves(min(job.eval_generate_rows, request.work.heldout_rows), _LEAST_ASKED_ROWS):
            yield {"eval_generate_rows": rows}
    for length in _halves(job.max_length, max(request.stats.longest_row_tokens, 256)):
        yield {"max_length": length}
    if candidate.memory_shortage:
        for rank in _halves(job.lora_r, 1):
            yield {"lora_r": rank}
        fewer = tuple(target for target in job.lora_targets if target != "routed_experts")
        if fewer and fewer != job.lora_targets:
            yield {"lora_targets": fewer}
    else:
        yield from _fewer_steps(request, candidate)


def _halves(number: int, least: int) -> Iterator[int]:
    """Half of it, half of that, and so on; none under `least`."""
    while number // 2 >= least:
        number //= 2
        yield number


def _fewer_steps(request: Request, candidate: Candidate) -> Iterator[dict[str, Any]]:
    """The most MAX_STEPS that end in time and within the budget there, where that is fewer and at least 1."""
    modes = request.candidates(_instance(request, candidate))
    enough = max((c.steps_in_time or 0 for c in modes), default=0)
    if 1 <= enough < request.job.max_steps:
        job = request.job.with_max_steps(enough)
        same_warmup = job.warmup_steps == request.job.warmup_steps
        yield {"max_steps": enough, **({} if same_warmup else {"warmup_steps": job.warmup_steps})}


# --- warnings


def _warnings(request: Request, candidates: Sequence[Candidate], use_spot: bool) -> list[str]:
    job, stats, work = request.job, request.stats, request.work
    found = []
    if work.passes > MANY_PASSES:
        enough = max(1, MANY_PASSES * work.training_rows // job.global_batch_size)
        found.append(
            f"MAX_STEPS={job.max_steps} passes over these {work.training_rows:,} training rows {work.passes:,.0f} "
            f"times, and would learn them by heart; MAX_STEPS={enough} passes {MANY_PASSES} times"
        )
    needed = score_gate.load().loss.min_rows
    if work.heldout_rows < needed:
        found.append(
            f"about {work.heldout_rows} rows will be held out, and the quality gate needs {needed}: it would "
            "refuse the result; add rows or raise HELD_OUT_FRACTION"
        )
    if not job.eval_generate_rows:
        found.append(
            "EVAL_GENERATE_ROWS=0 asks for no answers: the quality gate would refuse the result, unless its file says "
            "loss_alone = true"
        )
    if stats.over_long_rows:
        found.append(f"{stats.over_long_rows:,} of {stats.rows:,} rows are over MAX_LENGTH and are left out")
    unknown = [c.instance_type for c in candidates if c.usd_spot is None]
    if use_spot and unknown:
        of = "" if len(unknown) == len(candidates) else f" of {', '.join(unknown)}"
        found.append(f"spot prices{of} are unknown: the dollars are on-demand, an upper bound")
    if not stats.tokens_are_exact:
        found.append(
            "tokens are estimates, within some 10% for English or French chat, and so is what rests on them; "
            "`make environment` brings the tokenizer that counts them"
        )
    if candidates:
        found += _warnings_of(candidates[0], request)
    return found


def _warnings_of(first: Candidate, request: Request) -> list[str]:
    found = []
    name = first.instance_type
    if first.hours is None:
        found.append(f"{name}: nothing is known of its speed, so hours and dollars are not either")
    elif first.confidence == "scaled" and first.hours_low is not None and first.hours_high is not None:
        found.append(
            f"{name}: hours are scaled from another GPU or model, not measured: "
            f"{about(first.hours_low * 3600)} to {about(first.hours_high * 3600)}"
        )
    if first.confidence == "scaled" and first.mode == "sharded" and request.catalog.get(name).link == "pcie":
        found.append(
            f"{name}: its GPUs are joined by PCIe, which is taken to reach the share of its datasheet that NVLink did"
        )
    if first.hours is not None and first.assumed_seconds >= MUCH_ASSUMED * first.hours * 3600:
        found.append(
            f"{name}: {about(first.assumed_seconds)} of its {about(first.hours * 3600)} are assumed, not measured: "
            f"{', '.join(term.replace('_', ' ') for term in first.assumed)}"
        )
    if first.hours_high is not None and first.hours_high * 3600 > first.max_runtime_seconds:
        found.append(
            f"{name}: at worst the run takes {about(first.hours_high * 3600)} and is stopped after "
            f"{about(first.max_runtime_seconds)} with the adapter of its last step"
        )
    if first.usd_per_hour is None:
        found.append(f"{name}: its price is unknown")
    elif request.catalog.get(name).price_status != "given":
        found.append(f"{name}: ${first.usd_per_hour:,.2f} an hour: {first.price_note}")
    if request.work.gpus_used(first.num_gpus) < first.num_gpus:
        used = request.work.gpus_used(first.num_gpus)
        rows = f"{used:,} row" + ("" if used == 1 else "s")
        found.append(f"{name}: a step of {rows} keeps only {used} of its {first.num_gpus} GPUs busy")
    return found
