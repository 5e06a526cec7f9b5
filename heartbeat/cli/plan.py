"""`plan`: what a run needs, takes and costs on each instance, before it is paid for."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from heartbeat import catalog, dataset
from heartbeat.candidates import THIS_TRAINER, Candidate, Trainer
from heartbeat.card import card_truth_table
from heartbeat.cli import screen, source
from heartbeat.cli.errors import UserError
from heartbeat.durations import about
from heartbeat.execution import MAX_RUNTIME_SECONDS
from heartbeat.job import FineTuneJob, resolve
from heartbeat.plan import Plan, plan_run, plan_serving
from heartbeat.scout import SCOUT, ModelShape
from heartbeat.serving_plan import ServingPlan

_OTHER_TRAINER = (
    "Planned for weights that lie whole, in bf16, on one GPU: the trainer's 4-bit modes have not run on GPUs yet."
    " --trainer nf4 plans for them, from prototypes' measurements."
)


def run(arguments: argparse.Namespace) -> int:
    if arguments.card:
        return _card()
    if not arguments.dataset:
        raise UserError("name a dataset, such as examples/stanley/stanley.jsonl, or ask for --card")
    shape, defaults = _base_model(arguments.base_model)
    job, _ = _job(arguments, defaults)
    found = dataset.check(source.lines(arguments.dataset), max_length=job.max_length)
    if not found.ok:
        raise UserError(f"{arguments.dataset} cannot be trained on: {found.describe(limit=2)}; `check` shows all")
    known = catalog.load()

    def on(instance_types: Sequence[str] | None) -> Plan:
        return plan_run(
            shape=shape,
            stats=found.stats,
            job=job,
            catalog=known,
            instance_types=instance_types,
            max_runtime_seconds=job.max_runtime_seconds,
            budget_usd=_budget(arguments.budget),
            use_spot=arguments.spot,
            trainer=THIS_TRAINER if arguments.trainer == "this" else Trainer(),
        )

    plan = on(_by_price(on(list(known.instances)))) if _all(arguments) else on(source.instances(arguments.instances))
    serving = plan_serving(shape=shape, catalog=known)
    if arguments.json:
        record = {**plan.to_dict(), "hyperparameters": job.to_hyperparameters(), "serving": serving.to_dict()}
        print(json.dumps(record, indent=1))
    else:
        _show(arguments.dataset, shape, job, plan, serving)
        if not plan.feasible and arguments.trainer == "this":
            _paragraph("!", "yellow", _OTHER_TRAINER)
    return 0 if plan.feasible else 1


def _job(arguments: argparse.Namespace, defaults: Mapping[str, Any]) -> tuple[FineTuneJob, Mapping[str, str]]:
    given: dict[str, object] = dict(source.settings(arguments.settings))
    if arguments.max_runtime_seconds is not None:
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


def _all(arguments: argparse.Namespace) -> bool:
    if arguments.all_instances and arguments.instances:
        raise UserError("--instances and --all-instances contradict each other; give one")
    return bool(arguments.all_instances)


def _by_price(plan: Plan) -> list[str]:
    """The plan's instances by what the run costs on them: nobody has said which are preferred."""
    candidates = sorted(plan.candidates, key=lambda c: math.inf if c.usd_on_demand is None else c.usd_on_demand)
    return [*(c.instance_type for c in candidates), *(r.instance_type for r in plan.rejected)]


def _budget(usd: float | None) -> float | None:
    if usd is not None and not (math.isfinite(usd) and usd > 0):
        raise UserError(f"--budget {usd:g} must be a number of dollars above 0")
    return usd


# --- the page


def _show(name: str, shape: ModelShape, job: FineTuneJob, plan: Plan, serving: ServingPlan) -> None:
    tokens = f"{plan.tokens_per_step:,.0f} tokens"
    screen.say(
        f"{name} on a model of {_count(shape.total_parameters)} parameters: {job.max_steps} steps of"
        f" {job.global_batch_size} rows, about {tokens} each; {plan.passes:,.1f} passes"
    )
    screen.say()
    screen.console().print(_table(plan))
    screen.say("  ~ is scaled from a measured GPU; ✗ cannot run it")
    for rejection in plan.rejected if plan.feasible else ():
        _paragraph("✗", "red", f"{rejection.instance_type}: {'; '.join(rejection.reasons)}")
    if plan.refusal:
        _paragraph("✗", "bold red", plan.refusal[0].upper() + plan.refusal[1:])
    for warning in plan.warnings:
        _paragraph("!", "yellow", warning)
    if serving.refusal:
        _paragraph("!", "yellow", f"The endpoint: {serving.refusal}")
    else:
        cost = f"{screen.usd(serving.usd_per_hour)} an hour, {screen.usd(serving.usd_per_month)} a month"
        screen.say(f"  The endpoint then needs {serving.instance_type} ({serving.weight_format}): {cost}")


def _count(parameters: int) -> str:
    """`109 B`, `4.44 M`."""
    return f"{parameters / 1e9:.3g} B" if parameters >= 1e9 else f"{parameters / 1e6:.3g} M"


def _table(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title, justify in _COLUMNS:
        table.add_column(title, justify="right" if justify else "left", no_wrap=True)
    for number, candidate in enumerate(plan.candidates):
        chosen = number == 0
        mark = Text("→" if chosen else " ", style="green")
        table.add_row(mark, *_cells(candidate), style="bold" if chosen else "")
    by_type = {rejection.instance_type: rejection for rejection in plan.rejected}
    for candidate in plan.considered:
        rejection = by_type.get(candidate.instance_type)
        if rejection and rejection.mode == candidate.mode:
            table.add_row(Text("✗", style="red"), *_cells(candidate), style="dim")
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


def _cells(candidate: Candidate) -> list[str]:
    guess = "~" if candidate.confidence == "scaled" else ""
    hours = "unknown" if candidate.hours is None else guess + about(candidate.hours * 3600)
    return [
        candidate.instance_type,
        f"{candidate.num_gpus} {candidate.gpu}",
        candidate.mode,
        f"{candidate.gpu_memory_needed_gib:.1f} / {candidate.gpu_memory_gib:.0f}",
        hours,
        screen.usd(candidate.usd_on_demand),
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
