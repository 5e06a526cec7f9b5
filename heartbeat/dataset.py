"""A dataset: JSON lines checked in one pass, findings with line numbers, statistics, the held-out split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from heartbeat import conversation
from heartbeat.conversation import Row
from heartbeat.job import FineTuneJob
from heartbeat.row_rules import Problem, Severity, problems

R = TypeVar("R", bound=Mapping[str, Any])

_UTF8_BOM = b"\xef\xbb\xbf"
_OTHER_FORMATS = {
    b"\xff\xfe": "is UTF-16; save the file as UTF-8",
    b"\xfe\xff": "is UTF-16; save the file as UTF-8",
    b"\x1f\x8b": "is gzip; upload the file unpacked",
    b"PAR1": "is Parquet; export it as JSON lines",
    b"PK\x03\x04": "is a zip archive; upload the .jsonl file in it",
}


class DatasetError(ValueError):
    """A dataset that cannot be trained on; the message gives the first finding, with its line."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or doubtful, with one line (counted from 1; 0 is the file as a whole)."""

    line: int
    severity: Severity
    code: str
    message: str

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line else "the file"
        return f"{place}: {self.severity}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class DatasetStats:
    """What the planner and the run's record need to know of a dataset. Token counts are estimates."""

    rows: int
    """Lines that are not blank."""
    valid_rows: int
    """Rows without an error; every figure below is of these."""
    duplicate_rows: int
    """Rows that say the same as an earlier one."""
    over_long_rows: int
    """Rows whose estimated length is over `max_length`; the trainer leaves them out."""
    max_length: int
    """The MAX_LENGTH, in tokens, that `over_long_rows` was counted with."""
    turns: int
    """Messages of any role."""
    assistant_turns: int
    tool_rows: int
    """Rows with a tool call."""
    tools: Mapping[str, int]
    """Calls of each tool."""
    characters: int
    """Of all messages' content."""
    bytes: int
    """Of the whole file, bad and blank lines included."""
    estimated_tokens: int
    estimated_over_long_tokens: int
    """The part of `estimated_tokens` that is in over-long rows."""
    estimated_supervised_tokens: int
    """The part of `estimated_tokens` that the loss is taken on."""
    longest_row_tokens: int
    sha256: str
    """Of the file's bytes, hexadecimal."""

    @property
    def trainable_rows(self) -> int:
        return self.valid_rows - self.over_long_rows

    @property
    def trainable_tokens(self) -> int:
        """Estimated tokens of one pass over every row that is not over-long."""
        return self.estimated_tokens - self.estimated_over_long_tokens

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DatasetStats:
        """The reverse of `to_dict`; further keys are ignored. Raises ValueError naming what is missing."""
        names = [f.name for f in fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f"dataset statistics lack {', '.join(missing)}; check the dataset again")
        return cls(**{name: values[name] for name in names})


@dataclass(frozen=True, kw_only=True)
class DatasetReport:
    """The verdict on a dataset. `findings` has the first of each severity, `counts` all of them by code."""

    findings: Sequence[Finding]
    counts: Mapping[str, int]
    num_errors: int
    num_warnings: int
    stats: DatasetStats

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def ok(self) -> bool:
        return self.num_errors == 0

    def describe(self, limit: int = 5) -> str:
        """One paragraph for a person: how many errors, and the first `limit` of them."""
        if self.ok:
            return f"{self.stats.rows} rows, no errors, {self.num_warnings} warning(s)"
        more = self.num_errors - len(self.errors[:limit])
        rest = f"; and {more} more" if more else ""
        first = "; ".join(str(finding) for finding in self.errors[:limit])
        return f"{self.num_errors} error(s) in {self.stats.rows} rows: {first}{rest}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON: findings, counts, `ok` and the statistics."""
        return {
            "ok": self.ok,
            "num_errors": self.num_errors,
            "num_warnings": self.num_warnings,
            "counts": dict(self.counts),
            "findings": [asdict(finding) for finding in self.findings],
            "stats": self.stats.to_dict(),
        }


def check(
    lines: Iterable[bytes], *, max_findings: int = 100, max_length: int = FineTuneJob.max_length
) -> DatasetReport:
    """Checks a dataset in one pass; never raises for what the lines hold.

    `lines` come with or without their ends (digest and size are of what is given: keep the ends for the
    file's own). Memory: `max_findings` errors, as many warnings, and 150 bytes a row to tell duplicates.
    """
    checker = _Checker(max_findings=max_findings, max_length=max_length)
    for number, line in enumerate(lines, start=1):
        checker.add(number, line)
    return checker.report()


def read(lines: Iterable[bytes]) -> Iterator[Row]:
    """The rows of a dataset, one by one. Raises DatasetError at the first line with an error."""
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(_UTF8_BOM) if number == 1 else line
        if not text.strip():
            continue
        row, found = _examine(text)
        errors = [problem for problem in found if problem.severity == "error"]
        if row is None or errors:
            raise DatasetError(f"line {number}: {errors[0].message}")
        yield row


def is_held_out(row: Mapping[str, Any], fraction: float, seed: int = 0) -> bool:
    """Whether a row is kept from training: by its content alone, so that no other row can move it."""
    digest = hashlib.sha256(f"{seed}:".encode() + conversation.fingerprint(row)).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def split(rows: Iterable[R], fraction: float, seed: int = 0) -> tuple[list[R], list[R]]:
    """(training, held out), each in the given order.

    About `fraction` of the rows are held out. The choice is each row's own, so adding rows moves none across,
    and a repeated row never lies on both sides. With few rows either side may be empty.
    """
    training: list[R] = []
    heldout: list[R] = []
    for row in rows:
        (heldout if is_held_out(row, fraction, seed) else training).append(row)
    return training, heldout


def _examine(line: bytes) -> tuple[Row | None, list[Problem]]:
    try:
        row = conversation.parse(line)
    except conversation.RowError as error:
        return None, [Problem(code=error.code, message=str(error))]
    return row, list(problems(row))


@dataclass(kw_only=True)
class _Checker:
    """The state of one pass over a dataset."""

    max_findings: int
    max_length: int
    findings: list[Finding] = field(default_factory=list)
    kept: Counter[Severity] = field(default_factory=Counter)
    severities: Counter[Severity] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    first_lines: dict[bytes, int] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)
    figures: Counter[str] = field(default_factory=Counter)
    tools: Counter[str] = field(default_factory=Counter)

    def add(self, number: int, line: bytes) -> None:
        self.digest.update(line)
        self.figures["bytes"] += len(line)
        text = line
        if number == 1:
            for magic, message in _OTHER_FORMATS.items():
                if line.startswith(magic):
                    self._find(number, Problem(code="encoding", message=message))
            if line.startswith(_UTF8_BOM):
                message = "starts with a byte-order mark; save the file as UTF-8 without BOM"
                self._find(number, Problem(code="encoding", message=message))
                text = line.removeprefix(_UTF8_BOM)
        if not text.strip():
            return
        self.figures["rows"] += 1
        row, found = _examine(text)
        for problem in found:
            self._find(number, problem)
        if row is not None and not any(problem.severity == "error" for problem in found):
            self._count(number, row)

    def report(self) -> DatasetReport:
        if not self.figures["rows"]:
            message = "has no rows; write one JSON object a line"
            self._find(0, Problem(code="empty_file", message=message))
        names = [f.name for f in fields(DatasetStats)]
        figures = {name: self.figures[name] for name in names}
        stats: dict[str, Any] = {
            **figures,
            "max_length": self.max_length,
            "tools": dict(self.tools.most_common()),
            "sha256": self.digest.hexdigest(),
        }
        return DatasetReport(
            findings=tuple(self.findings),
            counts=dict(self.counts),
            num_errors=self.severities["error"],
            num_warnings=self.severities["warning"],
            stats=DatasetStats(**stats),
        )

    def _find(self, line: int, problem: Problem) -> None:
        self.counts[problem.code] += 1
        self.severities[problem.severity] += 1
        # Each severity has its own room: a file full of duplicates must not hide its one broken line.
        if self.kept[problem.severity] < self.max_findings:
            self.kept[problem.severity] += 1
            self.findings.append(
                Finding(line=line, severity=problem.severity, code=problem.code, message=problem.message)
            )

    def _count(self, number: int, row: Row) -> None:
        messages = row["messages"]
        length = conversation.length(row)
        called = Counter(call["function"]["name"] for m in messages for call in conversation.tool_calls(m))
        over_long = length.tokens > self.max_length
        self.tools.update(called)
        self.figures.update(
            valid_rows=1,
            turns=len(messages),
            assistant_turns=sum(message["role"] == "assistant" for message in messages),
            tool_rows=bool(called),
            characters=sum(len(message.get("content") or "") for message in messages),
            estimated_tokens=length.tokens,
            estimated_supervised_tokens=length.supervised_tokens,
            over_long_rows=over_long,
            estimated_over_long_tokens=length.tokens if over_long else 0,
        )
        self.figures["longest_row_tokens"] = max(self.figures["longest_row_tokens"], length.tokens)
        if over_long:
            message = (
                f"is about {length.tokens:,} tokens, over MAX_LENGTH={self.max_length}, and would be "
                "left out; shorten it or raise MAX_LENGTH"
            )
            self._find(number, Problem(code="over_long", severity="warning", message=message))
        key = conversation.fingerprint(row)[:12]
        first = self.first_lines.setdefault(key, number)
        if first != number:
            self.figures["duplicate_rows"] += 1
            message = f"says the same as line {first}; drop one of them"
            self._find(number, Problem(code="duplicate", severity="warning", message=message))
