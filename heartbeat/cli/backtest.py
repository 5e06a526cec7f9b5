"""`backtest`: each stored measurement beside what the planner says of it, knowing only the others."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from heartbeat import calibration, catalog, measurements
from heartbeat.calibration import Backtest
from heartbeat.cli import screen
from heartbeat.cli.errors import UserError
from heartbeat.measurements import Measurement

SECONDS_WITHIN, MEMORY_WITHIN = 0.10, 0.05
"""What the planner is to reach."""
_SHORT = {"attention": "attn", "shared_expert": "shared", "routed_experts": "routed"}


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
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 0))
    titles = ("GPUs", "mode", "tokens", "adapter", "s/step", "plan", "off", "GiB", "plan", "off")
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number > 3 else "left", no_wrap=True)
    for one in found:
        m = one.measurement
        batches = m.work.micro_batches_per_gpu(m.num_gpus)
        scaled = "" if one.confidence == "measured" else "~"
        more = "+" if batches > _asked_for(m) else ""
        table.add_row(
            f"{m.num_gpus} {m.gpu.removesuffix('GB')}",
            m.mode,
            f"{batches}{more}x{m.job.per_device_batch_size}x{m.job.max_length}",
            "+".join(_SHORT[target] for target in m.job.lora_targets),
            f"{m.seconds_per_step:.2f}" + ("*" if m.shares_gpus else ""),
            "unknown" if one.predicted_seconds is None else f"{scaled}{one.predicted_seconds:.2f}",
            _error(one.seconds_error, SECONDS_WITHIN),
            "unknown" if m.peak_gpu_gib is None else f"{m.peak_gpu_gib:.1f}",
            f"{one.predicted_gpu_gib:.1f}",
            _error(one.gpu_error, MEMORY_WITHIN),
        )
    screen.console().print(table)
    for line in (
        "tokens: micro-batches on each GPU x PER_DEVICE_BATCH_SIZE x MAX_LENGTH",
        "adapter: attn is attention, shared is shared_expert, routed is routed_experts",
        "~ is scaled from another GPU or mode",
    ):
        screen.say(f"  {line}")
    for m in (one.measurement for one in found):
        batches, asked = m.work.micro_batches_per_gpu(m.num_gpus), _asked_for(m)
        if batches > asked:
            screen.say(f"  +: {asked} full micro-batches were packed into {batches} ({Path(m.file).stem})")
    if any(one.measurement.shares_gpus for one in found):
        screen.say("  *: ranks shared fewer GPUs; their memory counts, and not their time")
    for name, errors, within in (
        ("Step time", [one.seconds_error for one in found], SECONDS_WITHIN),
        ("Peak memory", [one.gpu_error for one in found], MEMORY_WITHIN),
    ):
        known = [abs(error) for error in errors if error is not None]
        inside = sum(error <= within for error in known)
        screen.say(f"  {name}: {inside} of {screen.count(len(known), 'measurement')} within {within:.0%}")


def _asked_for(m: Measurement) -> int:
    """Micro-batches of a GPU that the benchmark made conversations for; packing may have made more of them."""
    return m.job.gradient_accumulation_steps // m.num_gpus


def _error(error: float | None, within: float) -> Text:
    if error is None:
        return Text("")
    return Text(f"{error:+.1%}", style="green" if abs(error) <= within else "bold red")
