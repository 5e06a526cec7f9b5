"""`plan --explain`: every term that a plan's memory, seconds and dollars are the sum of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from heartbeat.candidates import Candidate
from heartbeat.cli import screen
from heartbeat.durations import about, span
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


def time_of(c: Candidate) -> str:
    """`~26 min`; - where it cannot run it, so that nobody takes it for a figure."""
    if c.hours is None:
        return "unknown" if c.can_be else "-"
    return c.guess + about(c.hours * 3600)


def range_of(c: Candidate) -> str:
    """`18-54 min`."""
    if c.hours_low is None or c.hours_high is None:
        return "" if c.can_be else "-"
    return span(c.hours_low * 3600, c.hours_high * 3600)


def price_of(c: Candidate) -> str:
    """`~$11.02`, with * where the price is old."""
    if c.usd_on_demand is None:
        return "unknown" if c.can_be else "-"
    return c.guess + screen.usd(c.usd_on_demand) + _old(c)


def spot_of(c: Candidate) -> str:
    if c.usd_spot is None:
        return "?" if c.can_be else "-"
    return c.guess + screen.usd(c.usd_spot)


def _old(c: Candidate) -> str:
    return "*" if c.price_is_old else ""


def _modes(plan: Plan) -> None:
    screen.console().print(
        screen.fitted(
            lambda without: _modes_without(plan, without), ("s/step", "host GiB", "steps", "GPU GiB", "range")
        )
    )
    for line in (
        "GiB: to spare (+) or short (-); steps: that end before clock and budget do",
        "~ is scaled from a measured GPU; without a mark: measured, or your own rate",
        "-, and dim: cannot run it",
    ):
        screen.say(f"  {line}")


def _modes_without(plan: Plan, without: Collection[str]) -> Table:
    cells: dict[str, Callable[[Candidate], str | Text]] = {
        "every mode": lambda c: c.instance_type,
        "": lambda c: c.mode,
        "GPU GiB": lambda c: _spare(c.gpu_memory_gib - c.gpu_memory_needed_gib),
        "host GiB": lambda c: _spare(c.host_memory_gib * USABLE_HOST_SHARE - c.host_memory_needed_gib),
        "s/step": lambda c: "" if c.seconds_per_step is None else f"{c.guess}{c.seconds_per_step:.2f}",
        "steps": lambda c: "" if c.steps_in_time is None else f"{c.steps_in_time:,}",
        "time": time_of,
        "range": range_of,
        "price": price_of,
        "spot": spot_of,
    }
    shown = {
        title: cell for title, cell in cells.items() if title not in without and (title != "spot" or plan.use_spot)
    }
    table = _table(*shown)
    table.padding, table.pad_edge = (0, 0, 0, 0), False
    for c in plan.considered:
        table.add_row(*(cell(c) for cell in shown.values()), style="dim" if c.problems else "")
    return table


def _spare(gib: float) -> Text:
    return Text(f"{gib:+.1f}", style="red" if gib < 0 else "")


def _model(shape: ModelShape) -> None:
    large = shape.total_parameters >= 1e9
    (many, unit), (size, of_bytes) = (("B", 1e9), ("GiB", GIB)) if large else (("M", 1e6), ("MiB", GIB / 1024))
    table = _table("the model", f"{many} parameters", f"{size} bf16", f"{size} NF4")

    def row(name: str, parameters: int, *num_bytes: float, style: str = "") -> None:
        cells = (f"{value / of_bytes:.2f}" for value in num_bytes)
        table.add_row(name, f"{parameters / unit:.3f}", *cells, style=style)

    parts, bf16, nf4 = shape.parameters, shape.bytes_by_part("bf16"), shape.bytes_by_part("nf4")
    for part, number in parts.items():
        if number:
            row(_words(part), number, bf16[part], nf4[part])
    row("together", sum(parts.values()), sum(bf16.values()), sum(nf4.values()), style="bold")
    # What a training GPU holds: its `weights` below.
    row("without vision", shape.text_parameters, shape.text_bytes("bf16"), shape.text_bytes("nf4"))
    screen.console().print(table)
    screen.say(f"  A token goes through {shape.active_parameters / unit:.1f} {many}: one routed expert of each layer")


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
    size = f"{candidate.micro_batches:,} x {candidate.micro_batch_tokens:,} tokens at most"
    full = "" if candidate.packing_efficiency is None else f", {candidate.packing_efficiency:.0%} full"
    screen.say(f"  One GPU's step: {size}{full}")
    _amounts("what it computes", candidate.step_flops, "FLOP")
    _amounts("what it moves", candidate.step_bytes, "B")
    step = _table(f"seconds of a step ({candidate.confidence})", "")
    for part, seconds in candidate.step_seconds.items():
        step.add_row(_words(part), f"{seconds:.2f}")
    step.add_row(Text("the longest of them"), f"{candidate.seconds_per_step:.2f}", style="bold")
    screen.console().print(step)
    if candidate.asking:
        _asking(candidate.asking, job)
    title = f"seconds of the run, {screen.count(job.max_steps, 'step')}"
    _terms(title, candidate.seconds, candidate.max_runtime_seconds, "it may take", assumed=candidate.assumed)
    if candidate.assumed:
        screen.say("  (assumed): nobody has measured it; --assume START_UP_SECONDS=600 takes your own")
    if candidate.usd_per_hour is not None and candidate.usd_on_demand is not None:
        hourly = f"{screen.usd(candidate.usd_per_hour)}{_old(candidate)}"
        screen.say(
            f"  {candidate.guess}{candidate.hours * 3600:,.2f} s / 3,600 x {hourly} an hour"
            f" = {price_of(candidate)}; {range_of(candidate)}; {candidate.steps_in_time:,} steps end in time"
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


_UNITS = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))


def _amounts(title: str, terms: Mapping[str, float], unit: str) -> None:
    """All in the unit that suits the largest, so that they can be compared."""
    prefix, size = next((found for found in _UNITS if max(terms.values()) >= found[1]), _UNITS[-1])
    table = _table(title, "")
    for term, value in terms.items():
        table.add_row(_words(term), f"{value / size:,.3f} {prefix}{unit}")
    screen.console().print(table)


def _terms(
    title: str, terms: Mapping[str, float], limit: float, of_limit: str, *, assumed: Collection[str] = ()
) -> None:
    table = _table(title, "")
    for term, value in terms.items():
        table.add_row(_words(term) + (" (assumed)" if term in assumed else ""), f"{value:,.2f}")
    _sum(table, f"{sum(terms.values()):,.2f}")
    table.add_row(of_limit, f"{limit:,.2f}")
    screen.console().print(table)


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 2))
    for number, title in enumerate(titles):
        right = number == len(titles) - 1 or (number and title)
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    return table


def _sum(table: Table, *values: str) -> None:
    table.add_row("together", *values, style="bold")


def _words(name: str) -> str:
    return name.replace("_", " ")
