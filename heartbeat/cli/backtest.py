"""`backtest`: each stored measurement beside what the planner says of it, knowing only the others."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.table import Table
from rich.text import Text

from heartbeat import calibration, catalog, measurements
from heartbeat.calibration import Backtest
from heartbeat.cli import screen
from heartbeat.cli.errors import UserError

SECONDS_WITHIN, MEMORY_WITHIN = 0.10, 0.05
"""What the planner is to reach."""


def run(arguments: argparse.Namespace) -> int:
    stored = measurements.read(arguments.results) if arguments.results else measurements.load()
    if not stored:
        where = arguments.results or measurements.CITED_AS
        raise UserError(f"{where} has no measurement; `python -m benchmarks.scout_step --save` on a GPU makes one")
    found = calibration.backtest(stored, catalog.load())
    if arguments.json:
        rows = [{**asdict(one), "seconds_error": one.seconds_error, "gpu_error": one.gpu_error} for one in found]
        print(json.dumps(rows, indent=1))
    else:
        _show(found)
    return 0


def _show(found: Sequence[Backtest]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    titles = ("GPUs", "mode", "tokens", "adapter", "s/step", "plan", "", "GiB", "plan", "")
    for number, title in enumerate(titles):
        least = len("attention,") if title == "adapter" else None
        table.add_column(title, justify="right" if number > 3 else "left", no_wrap=least is None, min_width=least)
    for one in found:
        m = one.measurement
        batches = m.work.micro_batches_per_gpu(m.num_gpus)
        scaled = "" if one.confidence == "measured" else "~"
        table.add_row(
            f"{m.num_gpus} {m.gpu}",
            m.mode,
            f"{batches}x{m.job.per_device_batch_size}x{m.job.max_length}",
            ", ".join(m.job.lora_targets),
            f"{m.seconds_per_step:.2f}",
            "unknown" if one.predicted_seconds is None else f"{scaled}{one.predicted_seconds:.2f}",
            _error(one.seconds_error, SECONDS_WITHIN),
            "unknown" if m.peak_gpu_gib is None else f"{m.peak_gpu_gib:.1f}",
            f"{one.predicted_gpu_gib:.1f}",
            _error(one.gpu_error, MEMORY_WITHIN),
        )
    screen.console().print(table)
    screen.say("  tokens: micro-batches on each GPU x PER_DEVICE_BATCH_SIZE x MAX_LENGTH; ~ is scaled")
    for name, errors, within in (
        ("Step time", [one.seconds_error for one in found], SECONDS_WITHIN),
        ("Peak memory", [one.gpu_error for one in found], MEMORY_WITHIN),
    ):
        known = [abs(error) for error in errors if error is not None]
        inside = sum(error <= within for error in known)
        screen.say(f"  {name}: {inside} of {screen.count(len(found), 'measurement')} within {within:.0%}")


def _error(error: float | None, within: float) -> Text:
    if error is None:
        return Text("")
    return Text(f"{error:+.1%}", style="green" if abs(error) <= within else "bold red")
