"""`check`: a dataset's findings, with their lines, what is in it, and a repaired copy."""

from __future__ import annotations

import argparse
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.table import Table
from rich.text import Text

from heartbeat import dataset, repair
from heartbeat.cli import screen, source, vocabulary
from heartbeat.cli.errors import UserError
from heartbeat.cli.parser import PROGRAM
from heartbeat.dataset import OTHER_FORMAT, DatasetReport, DatasetStats, Finding, Summary
from heartbeat.job import FineTuneJob
from heartbeat.tokens import TokenizerError
from heartbeat.workload import Workload

_BAR = 40
_MOST_SHOWN = 6
_BEYOND_REPAIR = frozenset({"not_json", "not_an_object", "line_too_long", OTHER_FORMAT})
"""Codes of errors that leave nothing of a row to write."""


def run(arguments: argparse.Namespace) -> int:
    if arguments.max_findings < 0:
        raise UserError(f"--max-findings {arguments.max_findings} must be at least 0")
    if arguments.fix:
        for option, given in (("--json", arguments.json), ("--held-out", arguments.held_out)):
            if given:
                raise UserError(f"--fix goes without {option}; repair the file, then check the copy with {option}")
        return fix(arguments.dataset, arguments.max_findings)
    job = FineTuneJob()
    if arguments.max_length is not None:
        job = FineTuneJob(max_length=arguments.max_length)  # refuses what no run takes
    if arguments.held_out:
        source.must_exist(arguments.held_out)
    counter, why = None, "--fast estimates them"
    if not arguments.fast:
        try:
            counter = vocabulary.counter()
        except TokenizerError as error:
            why = str(error)
    found = dataset.check(
        source.lines(arguments.dataset),
        job=job,
        max_findings=max(arguments.max_findings, 1),
        counter=counter,
        near_duplicates=not arguments.fast,
        held_out=source.lines(arguments.held_out) if arguments.held_out else None,
    )
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
    else:
        show(arguments.dataset, found, arguments.max_findings, why_estimated=why, own_held_out=arguments.held_out)
    return 0 if found.ok else 1


def show(
    name: str,
    found: DatasetReport,
    max_findings: int,
    *,
    why_estimated: str = "",
    own_held_out: str | None = None,
) -> None:
    """Findings, the verdict, and the figures of what is sound."""
    # Errors first: a warning never hides one.
    shown = [*found.errors, *found.warnings][:max_findings]
    for finding in shown:
        screen.say(_finding(finding))
    hidden = found.num_errors + found.num_warnings - len(shown)
    if hidden > 0:
        screen.say(f"  … and {hidden:,} more (--max-findings shows them). By kind, of all:")
        screen.say(f"  {', '.join(f'{kind} x {times:,}' for kind, times in Counter(found.counts).most_common())}")
    if shown:
        screen.say()
    verdict = ("✓ ", "green") if found.ok else ("✗ ", "bold red")
    counts = f"{screen.count(found.num_errors, 'error')}, {screen.count(found.num_warnings, 'warning')}"
    screen.say(Text.assemble(verdict, f"{name}: {counts}"))
    screen.console().print(_figures(found.stats, found.summary, own_held_out))
    if _leaves_a_copy(found):
        screen.say()
        command = f"{PROGRAM} check {shlex.quote(name)} --fix"
        screen.say(f"  `{command}` writes a copy: what is wrong mended, or left out.")
    if found.summary.histogram:
        screen.say()
        screen.say("  tokens of a row, and rows")
        for line in chart(found.summary.histogram):
            screen.say(line)
    if not found.stats.tokens_are_exact:
        screen.say()
        screen.say(f"  Tokens are an estimate, within some 10% for English or French chat: {why_estimated}.")


def chart(histogram: Mapping[str, int]) -> list[Text]:
    """A bar a line; the longest has _BAR characters, and none that counts a row has less than an eighth of one."""
    most = max(histogram.values())
    lines = []
    for label, rows in histogram.items():
        eighths = max(round(8 * _BAR * rows / most), 1) if rows else 0
        bar = "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]
        lines.append(Text.assemble(f"  {label:>12}  ", (bar, "cyan"), f" {rows:,}"))
    return lines


def _leaves_a_copy(found: DatasetReport) -> bool:
    """Whether --fix has something to put right, and a row to write afterwards."""
    wrong = {finding.code for finding in found.errors if finding.line and not finding.held_out}
    return bool(wrong) and (found.stats.valid_rows > 0 or bool(wrong - _BEYOND_REPAIR))


def fix(name: str, max_findings: int) -> int:
    """Writes a repaired copy beside the file, or here for one in S3; says what was changed, `max_findings` times."""
    source.must_exist(name)
    base = Path(name.rsplit("/", 1)[-1] if name.startswith("s3://") else name).expanduser()
    target = base.with_name(f"{base.stem}.fixed{base.suffix or '.jsonl'}")
    lines = source.lines(name)
    kept = dropped = changed = 0
    kinds: Counter[str] = Counter()
    first: dict[str, int] = {}
    try:
        copy = target.open("xb")
    except FileExistsError:
        raise UserError(f"{target} is there already and is not overwritten; move it away") from None
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}") from None
    try:
        with copy:
            for row in repair.repair(lines):
                kept += row.text is not None
                dropped += row.text is None
                changed += row.text is not None and bool(row.changes)
                for change in row.changes:
                    kind = f"dropped ({row.dropped})" if change.startswith(repair.DROPPED) else change
                    kinds[kind] += 1
                    first.setdefault(kind, row.line)
                    if kinds.total() <= max_findings:
                        screen.say(f"  line {row.line:<8} {change}")
                if row.text is not None:
                    copy.write(row.text)
    except BaseException:
        target.unlink()
        raise
    if kinds.total() > max_findings:
        screen.say("  … (--max-findings shows more). In all, and the line of the first:")
        for kind, times in kinds.most_common():
            screen.say(f"  {times:>9,} x  {kind}, line {first[kind]:,}")
    if not kept:
        target.unlink()
        raise UserError(f"no row of {name} can be repaired; nothing was written")
    if not (changed or dropped):
        target.unlink()
        screen.say(f"✓ {name}: nothing to repair; no copy was written")
        return 0
    screen.say(
        f"✓ wrote {target}: {screen.count(kept, 'row')}, {changed:,} of them changed; {dropped:,} dropped; {name} is"
        " as it was"
    )
    return 0


def _finding(finding: Finding) -> Text:
    style = "red" if finding.severity == "error" else "yellow"
    place = finding.place if finding.line or finding.held_out else "file"
    return Text.assemble(f"  {place:<10}", (f" {finding.severity:<8}", style), f" {finding.message}")


def _figures(stats: DatasetStats, summary: Summary, own_held_out: str | None) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    about = "" if stats.tokens_are_exact else "about "
    rows = {
        "rows": f"{stats.rows:,}, of which {stats.trainable_rows:,} can be trained on",
        "size": f"{screen.size(stats.bytes)}, sha256 {stats.sha256[:16]}…",
    }
    of_sound_rows = {
        "turns": f"{stats.turns:,}, of which {stats.assistant_turns:,} are the assistant's",
        "tokens": f"{about}{stats.tokens:,}; the loss is taken on {stats.supervised_tokens:,}",
        "longest row": f"{about}{stats.longest_row_tokens:,} tokens; MAX_LENGTH is {stats.max_length:,}",
        "packing": _packing(stats),
        "tool calls": _named(stats.tools) or "none",
        "system prompts": _system_prompts(stats, summary),
        "near-duplicates": "not looked for" if summary.near_duplicate_rows is None else _near(summary),
        "held out": _own(own_held_out, stats) if own_held_out else _held_out(stats, summary),
        **_strata(stats, summary, own_held_out),
    }
    for label, value in (rows | of_sound_rows if stats.valid_rows else rows).items():
        table.add_row(f"  {label}", value)
    return table


def _strata(stats: DatasetStats, summary: Summary, own_held_out: str | None) -> dict[str, str]:
    """Rows by tools, language and questions, with how many of each kind the split holds out."""
    found = {}
    kinds = (
        ("tools", "routes", summary.routes),
        ("language", "languages", summary.languages),
        ("questions", "questions", summary.questions),
    )
    for word, kind, counts in kinds:
        if own_held_out:
            label, value = f"rows by {word}", _named(counts)
        else:
            kept = summary.held_out_strata[kind]
            label, value = (
                f"  by {word}",
                _listed(f"{name}: {kept.get(name, 0):,} of {n:,}" for name, n in counts.items()),
            )
        looked_at = sum(counts.values())
        found[label] = value if looked_at == stats.valid_rows else f"{value}, of {looked_at:,} rows that were looked at"
    return found


def _packing(stats: DatasetStats) -> str:
    """How full a step of the card's rows is on one GPU; a plan says it of its own."""
    job = FineTuneJob(max_length=stats.max_length)
    work = Workload.of(job, stats)
    share = work.packing_efficiency(1)
    if share is None:
        return "no row can be packed"
    batches = screen.count(work.micro_batches_per_gpu(1), "micro-batch", "micro-batches")
    return f"{share:.0%}: a step of {work.step_rows} rows fills {batches} of {work.micro_batch_tokens:,} tokens so far"


def _named(counts: Mapping[str, int]) -> str:
    return _listed(f"{name} x {times:,}" for name, times in counts.items())


def _listed(entries: Iterable[str]) -> str:
    shown = list(entries)
    return ", ".join(shown if len(shown) <= _MOST_SHOWN else [*shown[:_MOST_SHOWN], f"{len(shown) - _MOST_SHOWN} more"])


def _system_prompts(stats: DatasetStats, summary: Summary) -> str:
    without = summary.rows_without_system_prompt
    rest = f"; {screen.count(without, 'row')} without" if without and stats.valid_rows else ""
    return f"{summary.system_prompts:,} different{rest}"


def _near(summary: Summary) -> str:
    if not summary.near_duplicate_rows:
        return "none"
    return f"{screen.count(summary.near_duplicate_rows, 'row')} nearly repeating an earlier one"


def _own(held_out: str, stats: DatasetStats) -> str:
    return f"{screen.count(stats.own_held_out_rows, 'row')} of {held_out}"


def _held_out(stats: DatasetStats, summary: Summary) -> str:
    fraction = f"HELD_OUT_FRACTION={FineTuneJob.held_out_fraction:g}"
    said = f"{summary.held_out_rows:,} of {screen.count(stats.valid_rows, 'row')} ({fraction})"
    if summary.left_out_rows:
        said += f", {summary.left_out_rows:,} of them left out, as they nearly repeat training rows"
    return said
