"""The dataset as token ids: read, rendered, split, and dealt out to steps."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from heartbeat import dataset, held_out, json_lines
from heartbeat.cases import Tools, known_tools, name_of
from heartbeat.chat import render, why_unservable
from heartbeat.conversation import ChatError, Row
from training_code.errors import TrainingError
from training_code.manifest import sha256_of
from training_code.tokenizer import ChatTokenizer, Encoded


@dataclass(frozen=True, kw_only=True)
class Data:
    """A job's rows, ready to train on."""

    training: list[Encoded]
    heldout: list[Encoded]
    heldout_rows: list[Row]
    """What `heldout` was made of, in the same order."""
    heldout_lines: dict[str, int]
    """Where each of these stands in the file that it is from, by heartbeat.cases.name_of; empty for several files."""
    tools: Tools
    """Those that exist in the dataset."""
    num_over_long: int
    """Rows left out, of both sides together, because they have more than MAX_LENGTH tokens."""
    num_near_repeats: int
    """Held-out rows left out because they nearly repeat a training row."""
    sha256: str
    """Of the training channel's files in the order of their names."""
    heldout_sha256: str
    """Likewise of the held-out channel's; of nothing where rows were split off."""
    warnings: list[str]


def load(
    channel: Path,
    heldout_channel: Path,
    tokenizer: ChatTokenizer,
    *,
    max_length: int,
    held_out_fraction: float,
    seed: int,
) -> Data:
    """Rows of `channel`, some of them held out unless `heldout_channel` brings its own.

    Either way a held-out row that nearly repeats a training row is left out: it could be known by heart. Raises
    TrainingError for a missing or malformed file, and where nothing is left to train on or of a held-out file.
    """
    files = _files(channel)
    if not files:
        raise TrainingError(f"{channel} holds no .jsonl file; put the dataset there, one conversation a line")
    numbered = _read(files)
    rows = [row for _, row in numbered]
    heldout_files = _files(heldout_channel)
    if heldout_files:
        numbered = _read(heldout_files)
        split = held_out.apart(rows, (row for _, row in numbered))
    else:
        split = held_out.split(rows, held_out_fraction, seed)
    training_rows, heldout_rows, left_out = split.training, split.heldout, split.left_out
    training, heldout = _encode(training_rows, tokenizer), _encode(heldout_rows, tokenizer)
    data = Data(
        training=_short_enough(training, max_length),
        heldout=_short_enough(heldout, max_length),
        heldout_rows=[row for row, ids in zip(heldout_rows, heldout, strict=True) if len(ids.ids) <= max_length],
        heldout_lines=_lines(numbered, heldout_rows) if len(heldout_files or files) == 1 else {},
        tools=known_tools([*training_rows, *heldout_rows]),
        num_over_long=sum(len(row.ids) > max_length for row in (*training, *heldout)),
        num_near_repeats=len(left_out),
        sha256=sha256_of(*files),
        heldout_sha256=sha256_of(*heldout_files),
        warnings=_warnings(training_rows, left_out),
    )
    _refuse_untrainable(data, training, max_length)
    if heldout_files and not data.heldout:
        raise TrainingError(
            f"no row of {heldout_files[0].name} is left to judge by: {len(left_out)} of {len(numbered)} nearly repeat "
            f"training rows, the others are over MAX_LENGTH={max_length}; give it rows of its own"
        )
    return data


def rows_of_step(step: int, *, num_rows: int, batch_size: int, seed: int) -> list[int]:
    """Indices of the rows of step `step` (from 0): passes over all rows, each pass in an order of its own.

    A function of its arguments alone, so that a resumed run sees what the first would have seen.
    """
    first = step * batch_size
    return [_order(index // num_rows, num_rows, seed)[index % num_rows] for index in range(first, first + batch_size)]


def _files(channel: Path) -> list[Path]:
    return sorted(channel.glob("*.jsonl")) if channel.is_dir() else []


def _read(files: Sequence[Path]) -> list[tuple[int, Row]]:
    """Rows with their lines, each file's from 1."""
    rows: list[tuple[int, Row]] = []
    for file in files:
        try:
            with file.open("rb") as opened:
                rows += dataset.read_numbered(json_lines.lines(opened))
        except (dataset.DatasetError, OSError) as error:
            raise TrainingError(f"{file.name}: {error}") from None
    return rows


def _lines(numbered: Iterable[tuple[int, Row]], rows: Sequence[Row]) -> dict[str, int]:
    """Lines of these rows, which are among the numbered ones, by name."""
    lines = {id(row): number for number, row in numbered}
    return {name_of(row): lines[id(row)] for row in reversed(rows)}  # of rows that say the same, the first


def _encode(rows: Iterable[Row], tokenizer: ChatTokenizer) -> list[Encoded]:
    try:
        return [tokenizer.encode(render(row["messages"], row.get("tools"))) for row in rows]
    except ChatError as error:
        raise TrainingError(str(error)) from None


def _short_enough(rows: Iterable[Encoded], max_length: int) -> list[Encoded]:
    # Dropped, not cut: cut from the left a row loses its persona, from the right the answer that it is there for.
    return [row for row in rows if len(row.ids) <= max_length]


def _refuse_untrainable(data: Data, before: Sequence[Encoded], max_length: int) -> None:
    if not before:
        raise TrainingError("no row is left to train on; add rows or lower HELD_OUT_FRACTION")
    if not data.training:
        shortest = min(len(row.ids) for row in before)
        raise TrainingError(
            f"every training row is longer than MAX_LENGTH={max_length} (the shortest has {shortest} tokens); "
            "raise MAX_LENGTH or shorten the rows"
        )
    if not any(row.num_supervised for row in data.training):
        raise TrainingError("no training row has an assistant turn to learn from; add answers of the assistant")


def _warnings(rows: Sequence[Row], left_out: Sequence[Row]) -> list[str]:
    found = []
    if left_out:
        found.append(f"{len(left_out)} held-out rows nearly repeat training rows, and are left out")
    problems = [problem for row in rows if (problem := why_unservable(row["messages"]))]
    if problems:
        found.append(
            f"{len(problems)} training rows teach tool calls that the endpoint cannot read, e.g. {problems[0]}"
        )
    return found


@lru_cache(maxsize=2)
def _order(epoch: int, num_rows: int, seed: int) -> tuple[int, ...]:
    order = list(range(num_rows))
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return tuple(order)
