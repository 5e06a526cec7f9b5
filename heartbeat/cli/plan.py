"""`plan`: what a run needs, takes and costs on each instance, before it is paid for."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from heartbeat import catalog, charts, dataset
from heartbeat.candidates import Candidate
from heartbeat.card import card_truth_table
from heartbeat.catalog import Catalog
from heartbeat.cli import explain, quotas, screen, source, vocabulary
from heartbeat.cli.errors import UserError
from heartbeat.cli.errors import explain as explain_error
from heartbeat.durations import about
from heartbeat.execution import MAX_RUNTIME_SECONDS
from heartbeat.job import FineTuneJob, resolve
from heartbeat.plan import Plan, Rank, plan_run, plan_serving
from heartbeat.requests import SCALE_IN_SECONDS
from heartbeat.scout import SCOUT, ModelShape
from heartbeat.serving_plan import SERVED_FORMATS, ServingPlan


def run(arguments: argparse.Namespace) -> int:
    if arguments.card:
        return _card()
    if not arguments.dataset:
        raise UserError("name a dataset, such as examples/stanley/stanley.jsonl, or ask for --card")
    shape, defaults = _base_model(arguments.base_model)
    job, _ = _job(arguments, defaults)
    counter = vocabulary.counter_if_any()
    found = dataset.check(source.lines(arguments.dataset), job=job, counter=counter)
    if not found.ok:
        raise UserError(f"{arguments.dataset} cannot be trained on: {found.describe(limit=2)}; `check` shows all")
    known = catalog.load().with_prices(_pairs("--price", arguments.price))
    allowed, quotas_note = _quotas(arguments)

    def planned(budget_usd: float | None, rank: Rank) -> Plan:
        return plan_run(
            shape=shape,
            stats=found.stats,
            job=job,
            catalog=known,
            instance_types=source.instances(arguments.instances),
            max_runtime_seconds=job.max_runtime_seconds,
            budget_usd=budget_usd,
            use_spot=arguments.spot,
            spot_usd_per_hour=_known(known, _pairs("--spot-price", arguments.spot_price)),
            tokens_per_second=_pairs("--rate", arguments.rate),
            quotas=allowed,
            rank=rank,
        )

    budget = _budget(arguments.budget)
    plan = planned(budget, arguments.rank or "preference")
    if budget is not None and not plan.feasible:
        _require_budget(budget, planned(None, "cost"))
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


def _require_budget(budget_usd: float, free: Plan) -> None:
    """Raises UserError where even the cheapest run is over the budget: then the budget is the mistake."""
    cheapest = free.candidates[0] if free.candidates else None
    if cheapest and cheapest.usd_on_demand is not None and cheapest.usd_on_demand > budget_usd:
        raise UserError(
            f"--budget {budget_usd:g} is under the cheapest run, {cheapest.summary()}: raise it to"
            f" {math.ceil(cheapest.usd_on_demand)}, or lower MAX_STEPS"
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


def _show(name: str, shape: ModelShape, job: FineTuneJob, plan: Plan, quotas_note: str) -> None:
    screen.say(
        f"{name} on a model of {_count(shape.total_parameters)} parameters: {job.max_steps} steps of"
        f" {job.global_batch_size} rows (about {plan.tokens_per_step:,.0f} tokens); {plan.passes:,.1f} passes"
    )
    screen.say()
    screen.console().print(_table(plan))
    notes = ["~ is scaled from a measured GPU", "✗ cannot run it"]
    if any(c.price_is_old for c in plan.considered):
        notes.append("* is a price over 90 days old")
    screen.say(f"  {'; '.join(notes)}; {quotas_note}")
    screen.say(f"  Prices: {plan.prices_as_of}")
    if plan.candidates:
        first = plan.candidates[0]
        _paragraph("→", "green", f"{first.instance_type}: {_basis(first)}")
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


def _show_serving(plans: Sequence[ServingPlan]) -> None:
    first = plans[0]
    screen.say()
    adapters = screen.count(first.adapters, "adapter")
    conversations = screen.count(first.concurrency, "conversation")
    screen.say(f"  An endpoint for {conversations} of {first.max_model_len:,} tokens and {adapters}:")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    awake = f"at {first.busy_hours_per_day:g} h a day"
    for number, title in enumerate(("", "as", "instance", "GiB/GPU", "KV", "$/h", "$/month", awake)):
        table.add_column(title, justify="right" if number > 2 else "left", no_wrap=True)
    for plan in plans:
        if plan.instance_type is None:
            table.add_row(Text("✗", style="red"), plan.weight_format, "none", *[""] * 5, style="dim")
            continue
        table.add_row(
            "→" if plan is first else "",
            plan.weight_format,
            f"{plan.instance_type}{'*' if plan.price_is_old else ''}",
            f"{plan.gpu_memory_needed_gib:.1f} / {plan.gpu_memory_gib:.0f}",
            f"{plan.memory_gib['keys_and_values']:.1f}",
            screen.usd(plan.usd_per_hour),
            _dollars(plan.usd_per_month),
            _dollars(plan.usd_per_month_awake),
        )
    screen.console().print(table)
    screen.say("  This app deploys bf16. The last column: an endpoint that is off by the clock (endpoint_schedule).")
    if first.instance_type is not None:
        waits, cost = about(sum(first.cold_start_seconds.values())), screen.usd(first.usd_per_cold_start)
        screen.say(
            f"  Or asleep while nobody asks (endpoint_scale_to_zero): who wakes it waits {waits} ({cost}), and it"
        )
        screen.say(f"  sleeps again {about(SCALE_IN_SECONDS)} after the last answer. Computed from assumed rates.")
    for plan in plans:
        if plan.refusal:
            _paragraph("!", "yellow", f"The endpoint: {plan.refusal}")


def _dollars(value: float | None) -> str:
    return "unknown" if value is None else f"${value:,.0f}"


def _verdict(plan: Plan, candidate: Candidate) -> str:
    """In two words: what its hours are worth, or what stands in the way of it."""
    if not candidate.problems:
        return candidate.confidence + (", old price" if candidate.price_is_old else "")
    if candidate.memory_shortage:
        return "does not fit"
    if (candidate.hours or 0.0) * 3600 > plan.max_runtime_seconds:
        return "too long"
    over = plan.budget_usd is not None and (candidate.usd_on_demand or 0.0) > plan.budget_usd
    return "over budget" if over else "cannot run it"


def _draw(file: Path, name: str, job: FineTuneJob, plan: Plan) -> None:
    """Hours against dollars of every instance that somebody can time, in its best mode."""
    if file.suffix != ".svg":
        raise UserError(f"--chart {file} must end in .svg")
    rejected = {(r.instance_type, r.mode) for r in plan.rejected}
    runs = [
        charts.Run(
            name=c.instance_type,
            detail=f"{about(c.hours * 3600)}, ${c.usd_on_demand:,.0f} · {_verdict(plan, c)}",
            hours=c.hours,
            usd=c.usd_on_demand,
            hours_low=c.hours_low or c.hours,
            hours_high=c.hours_high or c.hours,
            fits=c in plan.candidates,
            chosen=c is plan.candidates[0] if plan.candidates else False,
        )
        for c in [*plan.candidates, *(c for c in plan.considered if (c.instance_type, c.mode) in rejected)]
        if c.hours is not None and c.usd_on_demand
    ]
    if not runs:
        raise UserError("--chart: of no instance both hours and price are known")
    svg = charts.hours_and_dollars(
        runs,
        title="Hours and dollars of this run, by instance",
        subtitle=f"{Path(name).name}: {job.max_steps} steps of {plan.tokens_per_step:,.0f} tokens · prices "
        f"{plan.prices_as_of}",
        limit_hours=plan.max_runtime_seconds / 3600,
        budget_usd=plan.budget_usd,
    )
    try:
        file.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--chart {file}: {error.strerror}") from None


def _count(parameters: int) -> str:
    """`109 B`, `4.44 M`."""
    return f"{parameters / 1e9:.3g} B" if parameters >= 1e9 else f"{parameters / 1e6:.3g} M"


def _table(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    more = [*([("spot", True)] if plan.use_spot else []), *([("quota", True)] if plan.quotas_checked else [])]
    for title, justify in (*_COLUMNS, *more):
        table.add_column(title, justify="right" if justify else "left", no_wrap=True)
    for number, candidate in enumerate(plan.candidates):
        chosen = number == 0
        mark = Text("→" if chosen else " ", style="green")
        table.add_row(mark, *_cells(plan, candidate), style="bold" if chosen else "")
    by_type = {rejection.instance_type: rejection for rejection in plan.rejected}
    for candidate in plan.considered:
        rejection = by_type.get(candidate.instance_type)
        if rejection and rejection.mode == candidate.mode:
            table.add_row(Text("✗", style="red"), *_cells(plan, candidate), style="dim")
    return table


_COLUMNS: Sequence[tuple[str, bool]] = (
    ("", False),
    ("instance", False),
    ("GPUs", False),
    ("mode", False),
    ("GiB/GPU", True),
    ("time", True),
    ("price", True),
)


def _cells(plan: Plan, candidate: Candidate) -> list[str]:
    guess = "~" if candidate.confidence == "scaled" else ""
    hours = "unknown" if candidate.hours is None else guess + about(candidate.hours * 3600)
    return [
        candidate.instance_type,
        f"{candidate.num_gpus} {candidate.gpu}",
        candidate.mode,
        f"{candidate.gpu_memory_needed_gib:.1f} / {candidate.gpu_memory_gib:.0f}",
        hours,
        screen.usd(candidate.usd_on_demand) + ("*" if candidate.price_is_old else ""),
        *([screen.usd(candidate.usd_spot)] if plan.use_spot else []),
        *([str(candidate.quota)] if plan.quotas_checked else []),
    ]


def _paragraph(mark: str, style: str, text: str) -> None:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=3)
    grid.add_column(overflow="fold")
    grid.add_row(Text(f"  {mark}", style=style), Text(text))
    screen.console().print(grid)


def _card() -> int:
    """The model card's claims, computed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("", "the card says", "it computes to", "how"):
        table.add_column(title, overflow="fold")
    for claim in card_truth_table():
        mark = Text("✓", style="green") if claim.holds else Text("✗", style="red")
        table.add_row(mark, claim.claim, Text(claim.computed, style="bold"), Text(claim.arithmetic, style="dim"))
    screen.console().print(table)
    return 0
