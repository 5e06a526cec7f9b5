"""`plan`: what a run needs, takes and costs on each instance, before it is paid for."""

from __future__ import annotations

import argparse
import difflib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from heartbeat import catalog, charts, dataset
from heartbeat.candidates import Candidate, whole_dollars
from heartbeat.card import card_truth_table
from heartbeat.catalog import Catalog
from heartbeat.cli import explain, quotas, screen, source, vocabulary
from heartbeat.cli.errors import UserError
from heartbeat.cli.errors import explain as explain_error
from heartbeat.dataset import DatasetStats
from heartbeat.durations import about
from heartbeat.execution import MAX_RUNTIME_SECONDS
from heartbeat.job import MAX_RUNTIME_LIMIT_SECONDS, FineTuneJob, resolve
from heartbeat.plan import Plan, Rank, plan_run, plan_serving
from heartbeat.requests import SCALE_IN_SECONDS
from heartbeat.scout import SCOUT, ModelShape
from heartbeat.serving_plan import SERVED_FORMATS, ServingPlan
from heartbeat.timing import ASSUMED, Assumed


def run(arguments: argparse.Namespace) -> int:
    if arguments.card:
        return _card(as_json=arguments.json)
    if not arguments.dataset:
        raise UserError("name a dataset, such as examples/stanley/stanley.jsonl, or ask for --card")
    shape, defaults = _base_model(arguments.base_model)
    job, _ = _job(arguments, defaults)
    counter = vocabulary.counter_if_any()
    found = dataset.check(source.lines(arguments.dataset), job=job, counter=counter)
    if not found.ok:
        raise UserError(f"{arguments.dataset} cannot be trained on: {found.describe(limit=2)}; `check` shows all")
    instance_types, assumed = source.instances(arguments.instances), _assumed(arguments.assume)
    known = catalog.load().with_prices(_pairs("--price", arguments.price))
    spot_prices = _known(known, _pairs("--spot-price", arguments.spot_price))
    if spot_prices and not arguments.spot:
        raise UserError("--spot-price is of spot capacity; give --spot too, or leave it out")
    allowed, quotas_note = _quotas(arguments)

    def planned(budget_usd: float | None, rank: Rank) -> Plan:
        return plan_run(
            shape=shape,
            stats=found.stats,
            job=job,
            catalog=known,
            instance_types=instance_types,
            max_runtime_seconds=job.max_runtime_seconds,
            budget_usd=budget_usd,
            use_spot=arguments.spot,
            spot_usd_per_hour=spot_prices,
            tokens_per_second=_pairs("--rate", arguments.rate),
            quotas=allowed,
            rank=rank,
            assumed=assumed,
        )

    budget = _budget(arguments.budget)
    plan = planned(budget, arguments.rank or "preference")
    if not plan.feasible:
        _require_runnable(found.stats, job, plan)
    if budget is not None and not plan.feasible:
        _require_budget(budget, planned(None, "cost"), planned(budget, "cost"))
    serving = [
        plan_serving(
            shape=shape,
            catalog=known,
            weight_format=weight_format,
            max_model_len=_positive("--context", arguments.context),
            concurrency=_positive("--concurrency", arguments.concurrency),
            adapters=_positive("--adapters", arguments.adapters),
            max_lora_rank=job.max_lora_rank,
            busy_hours_per_day=_busy_hours(arguments.busy_hours),
            assumed=assumed,
        )
        for weight_format in SERVED_FORMATS
    ]
    if arguments.chart:
        _draw(arguments.chart, arguments.dataset, job, plan)
    if arguments.json:
        record = {**plan.to_dict(), "hyperparameters": job.to_hyperparameters()}
        print(json.dumps({**record, "serving": [item.to_dict() for item in serving]}, indent=1))
    else:
        _show(arguments.dataset, shape, job, plan, quotas_note)
        _show_serving(serving)
        if arguments.explain:
            explain.show(shape, job, plan)
        if arguments.chart:
            screen.say(f"  The chart: {arguments.chart}")
    return 0 if plan.feasible else 1


def _quotas(arguments: argparse.Namespace) -> tuple[dict[str, int] | None, str]:
    """The account's, or None and why they are not known. A plan does not fail for want of them."""
    if arguments.no_quotas:
        return None, "quota not checked (--no-quotas)"
    if not quotas.may_ask():
        return None, "quota not checked (no AWS credentials)"
    from botocore.exceptions import BotoCoreError, ClientError

    from heartbeat.cli.account import client

    try:
        # Dozens of pages: a person is told what takes so long, a program is not.
        with nullcontext() if arguments.json else screen.phase("Service Quotas"):
            found = quotas.training_quotas(client("service-quotas", patient=False), spot=arguments.spot)
    except (BotoCoreError, ClientError) as error:
        return None, f"quota not checked ({explain_error(error)})"
    return found, "quotas are the account's own"


def _pairs(option: str, words: Sequence[str]) -> dict[str, float]:
    """`["ml.p5.4xlarge=5.5"]` as a mapping."""
    found = {}
    for name, text in source.settings(words).items():
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{option} {name}={text} must be a number above 0")
        found[name] = value
    return found


def _known(known: Catalog, values: dict[str, float]) -> dict[str, float]:
    for name in values:
        known.get(name)
    return values


def _positive(option: str, number: int) -> int:
    if number < 1:
        raise UserError(f"{option} {number} must be at least 1")
    return number


def _busy_hours(hours: float) -> float:
    if not 0 <= hours <= 24:
        raise UserError(f"--busy-hours {hours:g} must be between 0 and 24")
    return hours


def _assumed(words: Sequence[str]) -> Assumed:
    """What the user knows of a run's start and end, better than we."""
    known = [field.name.upper() for field in fields(Assumed)]
    values = {name.upper(): value for name, value in _pairs("--assume", words).items()}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"give {', '.join(known)}"
            raise UserError(f"--assume {name} is nothing that a plan assumes; {hint}")
    return replace(ASSUMED, **{name.lower(): value for name, value in values.items()})


def _require_runnable(stats: DatasetStats, job: FineTuneJob, plan: Plan) -> None:
    """Raises UserError for a run that is a mistake on any machine: without a row, or longer than any job may be."""
    if not stats.trainable_rows:
        raise UserError(str(plan.refusal))
    timed = [c for c in plan.considered if c.hours is not None]
    fastest = min(timed, key=lambda c: c.hours or 0.0, default=None)
    if fastest is None or (fastest.hours or 0.0) * 3600 <= MAX_RUNTIME_LIMIT_SECONDS:
        return
    clock = about(job.max_runtime_seconds)
    steps = f"; lower it to {fastest.steps_in_time:,}, which ends within {clock}" if fastest.steps_in_time else ""
    raise UserError(
        f"MAX_STEPS={job.max_steps} takes {fastest.guess}{about((fastest.hours or 0.0) * 3600)} on the fastest,"
        f" {fastest.instance_type}, and SageMaker ends a training job after 28 days (672 h){steps}"
    )


def _require_budget(budget_usd: float, free: Plan, held: Plan) -> None:
    """Raises UserError where even the cheapest run is over the budget: then the budget is the mistake.

    `free` is the plan without a budget, `held` the one with it.
    """
    cheapest = free.candidates[0] if free.candidates else None
    if cheapest and cheapest.usd_on_demand is not None and cheapest.usd_on_demand > budget_usd:
        steps = max(c.steps_in_time or 0 for c in held.considered if c.instance_type == cheapest.instance_type)
        # Where start and end alone cost more, no number of steps helps.
        fewer = f", or lower MAX_STEPS to {steps:,}" if steps else ""
        raise UserError(
            f"--budget {budget_usd:g} is under the cheapest run, {cheapest.summary()}: raise it to"
            f" {math.ceil(cheapest.usd_on_demand)}{fewer}"
        )


def _job(arguments: argparse.Namespace, defaults: Mapping[str, Any]) -> tuple[FineTuneJob, Mapping[str, str]]:
    given: dict[str, object] = dict(source.settings(arguments.settings))
    if arguments.max_runtime_seconds is not None:
        if "MAX_RUNTIME_SECONDS" in given:
            raise UserError("MAX_RUNTIME_SECONDS and --max-runtime-seconds say the same thing; give one")
        given["MAX_RUNTIME_SECONDS"] = arguments.max_runtime_seconds
    given.setdefault("MAX_RUNTIME_SECONDS", MAX_RUNTIME_SECONDS)
    return resolve(("the command line", given), ("training_defaults.json", defaults))


def _base_model(folder: Path | None) -> tuple[ModelShape, Mapping[str, Any]]:
    """The model to plan for, and the settings that its folder suggests."""
    if folder is None:
        return SCOUT, {}
    config = _read_json(folder / "config.json")
    if config is None:
        raise UserError(f"{folder} has no config.json; name a Hugging Face checkpoint folder")
    return ModelShape.from_config(config), _read_json(folder / "training_defaults.json") or {}


def _read_json(path: Path) -> Any | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def _budget(usd: float | None) -> float | None:
    if usd is not None and not (math.isfinite(usd) and usd > 0):
        raise UserError(f"--budget {usd:g} must be a number of dollars above 0")
    return usd


# --- the page

_OLD = f"* is a price over {catalog.OLD_AFTER_DAYS} days old"


def _show(name: str, shape: ModelShape, job: FineTuneJob, plan: Plan, quotas_note: str) -> None:
    screen.say(
        f"{name} on a model of {_count(shape.total_parameters)} parameters: {screen.count(job.max_steps, 'step')} of"
        f" {screen.count(job.global_batch_size, 'row')} ({'' if plan.tokens_are_exact else 'about '}"
        f"{plan.tokens_per_step:,.0f} tokens); {plan.passes:,.1f} passes"
    )
    screen.say()
    screen.console().print(_table(plan))
    screen.say("  ~ is scaled from a measured GPU; ✗ cannot run it")
    screen.say(f"  {quotas_note[0].upper()}{quotas_note[1:]}")
    if any(c.price_is_old for c in plan.considered):
        screen.say(f"  {_OLD}")
    screen.say(f"  Prices: {plan.prices_as_of}")
    if plan.candidates:
        first = plan.candidates[0]
        _paragraph("→", "green", f"{first.instance_type}: {_basis(first)}")
        if first.packing_efficiency is not None:
            _paragraph("→", "green", f"{first.instance_type}: {_packing(first)}")
    for alternative in plan.alternatives:
        _paragraph("→", "cyan", alternative[0].upper() + alternative[1:])
    for rejection in plan.rejected if plan.feasible else ():
        _paragraph("✗", "red", f"{rejection.instance_type}: {'; '.join(rejection.reasons)}")
    if plan.refusal:
        _paragraph("✗", "bold red", plan.refusal[0].upper() + plan.refusal[1:])
    for warning in plan.warnings:
        _paragraph("!", "yellow", warning)


def _basis(candidate: Candidate) -> str:
    """Where its hours are from; --explain names all files."""
    files = candidate.sources
    cited = f"{files[0]} and {len(files) - 1} more" if len(files) > 1 else "".join(files)
    return {
        "measured": f"measured ({cited})",
        "scaled": f"scaled, by peak and bandwidth, from {cited}",
        "given": "at the rate that you gave",
        "unknown": "nothing is known of its speed",
    }[candidate.confidence]


def _packing(candidate: Candidate) -> str:
    batches = screen.count(candidate.micro_batches, "micro-batch", "micro-batches")
    return (
        f"packing efficiency {candidate.packing_efficiency or 0.0:.0%}: on each GPU a step is {batches} of at most"
        f" {candidate.micro_batch_tokens:,} tokens"
    )


def _show_serving(plans: Sequence[ServingPlan]) -> None:
    first = plans[0]
    screen.say()
    adapters = screen.count(first.adapters, "adapter")
    conversations = screen.count(first.concurrency, "conversation")
    screen.say(f"  An endpoint for {conversations} of {first.max_model_len:,} tokens and {adapters}:")
    give_up = ("KV", "GiB/GPU", _awake(first), "$/h")
    screen.console().print(screen.fitted(lambda without: _serving_without(plans, without), give_up))
    if any(plan.price_is_old for plan in plans):
        screen.say(f"  {_OLD}")
    screen.say("  This app deploys bf16. The last column: an endpoint that is off by the clock")
    screen.say("  (endpoint_schedule).")
    if first.instance_type is not None:
        waits, cost = about(sum(first.cold_start_seconds.values())), screen.usd(first.usd_per_cold_start)
        screen.say(f"  Or asleep while nobody asks (endpoint_scale_to_zero): who wakes it waits {waits}")
        screen.say(f"  ({cost}), and it sleeps again {about(SCALE_IN_SECONDS)} after the last answer. Computed from")
        screen.say("  assumed rates (--assume).")
    for plan in plans:
        if plan.refusal:
            _paragraph("!", "yellow", f"The endpoint: {plan.refusal}")


def _awake(plan: ServingPlan) -> str:
    return f"at {plan.busy_hours_per_day:g} h a day"


def _serving_without(plans: Sequence[ServingPlan], without: Collection[str]) -> Table:
    columns: dict[str, Callable[[ServingPlan], str]] = {
        "as": lambda plan: plan.weight_format,
        "instance": lambda plan: f"{plan.instance_type}{'*' if plan.price_is_old else ''}",
        "GiB/GPU": lambda plan: f"{plan.gpu_memory_needed_gib:.1f} / {plan.gpu_memory_gib:.0f}",
        "KV": lambda plan: f"{plan.memory_gib['keys_and_values']:.1f}",
        "$/h": lambda plan: screen.usd(plan.usd_per_hour),
        "$/month": lambda plan: _dollars(plan.usd_per_month),
        _awake(plans[0]): lambda plan: _dollars(plan.usd_per_month_awake),
    }
    shown = {title: cell for title, cell in columns.items() if title not in without}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("", *shown):
        table.add_column(title, justify="left" if title in ("", "as", "instance") else "right", no_wrap=True)
    for plan in plans:
        if plan.instance_type is None:
            table.add_row(Text("✗", style="red"), plan.weight_format, "none", *[""] * (len(shown) - 2), style="dim")
        else:
            table.add_row("→" if plan is plans[0] else "", *(cell(plan) for cell in shown.values()))
    return table


def _dollars(value: float | None) -> str:
    return "unknown" if value is None else f"${value:,.0f}"


def _verdict(plan: Plan, candidate: Candidate) -> str:
    """In two words: what its hours are worth, or what stands in the way of it."""
    if not candidate.problems:
        return candidate.confidence + (", old price" if candidate.price_is_old else "")
    if not candidate.can_be:
        return "does not fit" if catalog.load().get(candidate.instance_type).bf16 else "no bf16"
    if (candidate.hours or 0.0) * 3600 > plan.max_runtime_seconds:
        return "too long"
    over = plan.budget_usd is not None and (candidate.usd_on_demand or 0.0) > plan.budget_usd
    return "over budget" if over else "cannot run it"


def _draw(file: Path, name: str, job: FineTuneJob, plan: Plan) -> None:
    """Hours against dollars of every instance that somebody can time, in its best mode."""
    if file.suffix != ".svg":
        raise UserError(f"--chart {file} must end in .svg")
    rejected = {(r.instance_type, r.mode) for r in plan.rejected}
    every = [*plan.candidates, *(c for c in plan.considered if (c.instance_type, c.mode) in rejected)]
    runs = [
        charts.Run(
            name=c.instance_type,
            detail=f"{c.guess}{about(c.hours * 3600)}, {c.guess}{whole_dollars(c.usd_on_demand)}"
            f"{'*' if c.price_is_old else ''} · {_verdict(plan, c)}",
            hours=c.hours,
            usd=c.usd_on_demand,
            hours_low=c.hours_low or c.hours,
            hours_high=c.hours_high or c.hours,
            fits=c in plan.candidates,
            chosen=c is plan.candidates[0] if plan.candidates else False,
        )
        for c in every
        if c.hours is not None and c.usd_on_demand
    ]
    drawn = {run.name for run in runs}
    absent = [f"{c.instance_type} ({_verdict(plan, c)})" for c in every if c.instance_type not in drawn]
    if not runs:
        raise UserError("--chart: of no instance both hours and price are known")
    svg = charts.hours_and_dollars(
        runs,
        title="Hours and dollars of this run, by instance",
        subtitle=f"{Path(name).name}: {screen.count(job.max_steps, 'step')} of {plan.tokens_per_step:,.0f} tokens"
        f" · prices {plan.prices_as_of}",
        limit_hours=plan.max_runtime_seconds / 3600,
        budget_usd=plan.budget_usd,
        absent=absent,
    )
    try:
        file.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--chart {file}: {error.strerror}") from None


def _count(parameters: int) -> str:
    """`109 B`, `4.44 M`."""
    return f"{parameters / 1e9:.3g} B" if parameters >= 1e9 else f"{parameters / 1e6:.3g} M"


def _table(plan: Plan) -> Table:
    """A row for each instance; on a narrow screen without what its name says, then without what can be spared."""
    return screen.fitted(lambda without: _table_without(plan, without), ("GPUs", "range", "GiB/GPU", "mode", "quota"))


def _table_without(plan: Plan, without: Collection[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 0))
    shown = {title: cell for title, cell in _COLUMNS.items() if title not in without}
    if not plan.use_spot:
        shown.pop("spot")
    if not plan.quotas_checked:
        shown.pop("quota", None)
    table.add_column("", no_wrap=True)
    for title in shown:
        table.add_column(title, justify="left" if title in _WORDS else "right", no_wrap=True)
    for number, candidate in enumerate(plan.candidates):
        mark = Text("→" if number == 0 else " ", style="green")
        table.add_row(mark, *(cell(candidate) for cell in shown.values()), style="bold" if number == 0 else "")
    by_mode = {(c.instance_type, c.mode): c for c in plan.considered}
    for rejection in plan.rejected:
        candidate = by_mode[rejection.instance_type, rejection.mode]
        table.add_row(Text("✗", style="red"), *(cell(candidate) for cell in shown.values()), style="dim")
    return table


_COLUMNS: Mapping[str, Callable[[Candidate], str]] = {
    "instance": lambda c: c.instance_type,
    "GPUs": lambda c: f"{c.num_gpus} {c.gpu}",
    "mode": lambda c: c.mode,
    "GiB/GPU": lambda c: f"{c.gpu_memory_needed_gib:.1f} / {c.gpu_memory_gib:.0f}",
    "time": explain.time_of,
    "range": explain.range_of,
    "price": explain.price_of,
    "spot": explain.spot_of,
    "quota": lambda c: str(c.quota),
}
_WORDS = ("instance", "GPUs", "mode")


def _paragraph(mark: str, style: str, text: str) -> None:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=3)
    grid.add_column(overflow="fold")
    grid.add_row(Text(f"  {mark}", style=style), Text(text))
    screen.console().print(grid)


def _card(*, as_json: bool) -> int:
    """The model card's claims, computed."""
    if as_json:
        print(json.dumps([asdict(claim) for claim in card_truth_table()], indent=1))
        return 0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("", "the card says", "it computes to", "how"):
        table.add_column(title, overflow="fold")
    for claim in card_truth_table():
        mark = Text("✓", style="green") if claim.holds else Text("✗", style="red")
        table.add_row(mark, claim.claim, Text(claim.computed, style="bold"), Text(claim.arithmetic, style="dim"))
    screen.console().print(table)
    return 0
