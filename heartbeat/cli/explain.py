"""`plan --explain`: every term that a plan's memory, seconds and dollars are the sum of."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from heartbeat.candidates import Candidate
from heartbeat.cli import screen
from heartbeat.durations import about
from heartbeat.job import FineTuneJob
from heartbeat.memory import GIB, USABLE_HOST_SHARE
from heartbeat.plan import Plan
from heartbeat.scout import ModelShape
from heartbeat.timing import Asking


def show(shape: ModelShape, job: FineTuneJob, plan: Plan) -> None:
    """Every instance in every mode, the model by part, and of the first instance that can run it every term.

    Where none can, of the one that comes nearest.
    """
    _modes(plan)
    _model(shape)
    nearest = {(r.instance_type, r.mode) for r in plan.rejected[:1]}
    shown = plan.candidates[:1] or [c for c in plan.considered if (c.instance_type, c.mode) in nearest][:1]
    for candidate in shown:
        _candidate(candidate, job)


def _modes(plan: Plan) -> None:
    table = _table("every mode", "", "GPU GiB", "host GiB", "s/step", "steps", "time", "price")
    table.padding, table.pad_edge = (0, 0, 0, 1), False  # eight columns in 80 characters
    for c in plan.considered:
        known = c.seconds_per_step is not None and c.hours is not None
        table.add_row(
            c.instance_type,
            c.mode,
            _spare(c.gpu_memory_gib - c.gpu_memory_needed_gib),
            _spare(c.host_memory_gib * USABLE_HOST_SHARE - c.host_memory_needed_gib),
            f"{c.seconds_per_step:.2f}" if known else "unknown",
            str(c.steps_in_time) if known else "",
            about((c.hours or 0.0) * 3600) if known else "",
            screen.usd(c.usd_on_demand) if known else "",
            style="dim" if c.problems else "",
        )
    screen.console().print(table)
    screen.say(
        "  GiB: to spare (+) or short (-); steps: that end before the clock and the budget do; dim: cannot run it"
    )


def _spare(gib: float) -> Text:
    return Text(f"{gib:+.1f}", style="red" if gib < 0 else "")


def _model(shape: ModelShape) -> None:
    table = _table("the model", "B parameters", "GiB bf16", "GiB NF4")
    parts, bf16, nf4 = shape.parameters, shape.bytes_by_part("bf16"), shape.bytes_by_part("nf4")
    for part, number in parts.items():
        if number:
            table.add_row(_words(part), f"{number / 1e9:.3f}", f"{bf16[part] / GIB:.2f}", f"{nf4[part] / GIB:.2f}")
    _sum(table, f"{sum(parts.values()) / 1e9:.3f}", *(f"{sum(b.values()) / GIB:.2f}" for b in (bf16, nf4)))
    screen.console().print(table)
    screen.say(f"  A token goes through {shape.active_parameters / 1e9:.1f} B: one routed expert of each layer")


def _candidate(candidate: Candidate, job: FineTuneJob) -> None:
    usable = candidate.host_memory_gib * USABLE_HOST_SHARE
    name = f"{candidate.instance_type}, {candidate.mode}"
    for title, terms, limit in (
        (f"GiB of each GPU, {name}", candidate.memory_gib, candidate.gpu_memory_gib),
        ("GiB of the host", candidate.host_terms_gib, usable),
    ):
        _terms(title, terms, limit, "there are")
    if candidate.hours is None or candidate.seconds_per_step is None:
        screen.say("  Nothing is known of its speed.")
        return
    size = f"{candidate.micro_batches} x {candidate.micro_batch_tokens:,} tokens at most"
    work = _table(f"one GPU's step, {size}", "")
    for part, flops in candidate.step_flops.items():
        work.add_row(_words(part), f"{flops / 1e15:.3f} PFLOP")
    for part, num_bytes in candidate.step_bytes.items():
        work.add_row(_words(part), f"{num_bytes / 1e9:,.1f} GB")
    screen.console().print(work)
    step = _table("seconds of a step", "")
    for part, seconds in candidate.step_seconds.items():
        step.add_row(_words(part), f"{seconds:.2f}")
    step.add_row(Text("the longest of them"), f"{candidate.seconds_per_step:.2f}", style="bold")
    screen.console().print(step)
    if candidate.asking:
        _asking(candidate.asking, job)
    title = f"seconds of the run, {job.max_steps} steps"
    _terms(title, candidate.seconds, candidate.max_runtime_seconds, "it may take")
    if candidate.usd_per_hour is not None and candidate.usd_on_demand is not None:
        screen.say(
            f"  {candidate.hours:.2f} h ({about((candidate.hours_low or 0) * 3600)} to"
            f" {about((candidate.hours_high or 0) * 3600)}) x ${candidate.usd_per_hour:g} an hour"
            f" = {screen.usd(candidate.usd_on_demand)}; {candidate.steps_in_time} steps end in time"
        )
    for file in candidate.sources:
        screen.say(f"  from {file}")


def _asking(asked: Asking, job: FineTuneJob) -> None:
    table = _table("answers of base and tuned model", "")
    table.add_row("prompts of each", f"{asked.prompts:,}")
    table.add_row("of them together on a GPU", f"{asked.rows_together:,}")
    table.add_row(f"walks, if all say {job.eval_max_new_tokens} tokens", f"{asked.walks:,}")
    table.add_row("seconds of a walk", f"{asked.seconds_per_walk:.2f}")
    screen.console().print(table)


def _terms(title: str, terms: Mapping[str, float], limit: float, of_limit: str) -> None:
    table = _table(title, "")
    for term, value in terms.items():
        table.add_row(_words(term), f"{value:,.2f}")
    _sum(table, f"{sum(terms.values()):,.2f}")
    table.add_row(of_limit, f"{limit:,.2f}")
    screen.console().print(table)


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 2))
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number and title else "left", no_wrap=True)
    return table


def _sum(table: Table, *values: str) -> None:
    table.add_row("together", *values, style="bold")


def _words(name: str) -> str:
    return name.replace("_", " ")
