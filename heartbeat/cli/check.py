"""`check`: a dataset's findings, with their lines, and what is in it."""

from __future__ import annotations

import argparse
import json

from rich.table import Table
from rich.text import Text

from heartbeat import dataset
from heartbeat.cli import screen, source
from heartbeat.cli.errors import UserError
from heartbeat.dataset import DatasetReport, DatasetStats, Finding
from heartbeat.job import FineTuneJob


def run(arguments: argparse.Namespace) -> int:
    if arguments.max_findings < 0:
        raise UserError(f"--max-findings {arguments.max_findings} must be at least 0")
    max_length = FineTuneJob.max_length
    if arguments.max_length is not None:
        max_length = FineTuneJob(max_length=arguments.max_length).max_length  # refuses what no run takes
    found = dataset.check(
        source.lines(arguments.dataset), max_findings=max(arguments.max_findings, 1), max_length=max_length
    )
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
    else:
        show(arguments.dataset, found, arguments.max_findings)
    return 0 if found.ok else 1


def show(name: str, found: DatasetReport, max_findings: int) -> None:
    """Findings, the verdict, and the figures of what is sound."""
    # Errors first: a warning never hides one.
    shown = [*found.errors, *found.warnings][:max_findings]
    for finding in shown:
        screen.say(_finding(finding))
    hidden = found.num_errors + found.num_warnings - len(shown)
    if hidden > 0:
        screen.say(f"  … and {hidden:,} more (--max-findings shows them; --json counts them by kind)")
    if shown:
        screen.say()
    verdict = ("✓ ", "green") if found.ok else ("✗ ", "bold red")
    counts = f"{screen.count(found.num_errors, 'error')}, {screen.count(found.num_warnings, 'warning')}"
    screen.say(Text.assemble(verdict, f"{name}: {counts}"))
    screen.console().print(_figures(found.stats))


def _finding(finding: Finding) -> Text:
    style = "red" if finding.severity == "error" else "yellow"
    place = f"line {finding.line}" if finding.line else "file"
    return Text.assemble(f"  {place:<10}", (f"{finding.severity:<8}", style), f" {finding.message}")


def _figures(stats: DatasetStats) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    calls = ", ".join(f"{name} x {times}" for name, times in stats.tools.items())
    rows = {
        "rows": f"{stats.rows:,}, of which {stats.trainable_rows:,} can be trained on",
        "turns": f"{stats.turns:,}, of which {stats.assistant_turns:,} are the assistant's",
        "tokens": f"about {stats.estimated_tokens:,}; the loss is taken on {stats.estimated_supervised_tokens:,}",
        "longest row": f"about {stats.longest_row_tokens:,} tokens; MAX_LENGTH is {stats.max_length:,}",
        "tool calls": calls or "none",
        "size": f"{screen.size(stats.bytes)}, sha256 {stats.sha256[:16]}…",
    }
    for label, value in rows.items():
        table.add_row(f"  {label}", value)
    return table
