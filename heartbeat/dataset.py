"""A dataset: JSON lines checked in one pass; findings with line numbers, statistics, a summary."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Protocol

from heartbeat import conversation, json_lines, packing, plain_rows
from heartbeat.conversation import Length, Row
from heartbeat.doubts import doubts, language
from heartbeat.held_out import is_held_out_by
from heartbeat.job import LONGEST, FineTuneJob
from heartbeat.plain_rows import Facts
from heartbeat.row_rules import Problem, Severity, problems
from heartbeat.similar import NearRows, SeenRows

_OTHER_FORMATS = {
    b"\xff\xfe": "is UTF-16; save the file as UTF-8",
    b"\xfe\xff": "is UTF-16; save the file as UTF-8",
    b"{\0": "is UTF-16; save the file as UTF-8",
    b"\0{": "is UTF-16; save the file as UTF-8",
    b"\x1f\x8b": "is gzip; upload the file unpacked",
    b"PAR1": "is Parquet; export it as JSON lines",
    b"PK\x03\x04": "is a zip archive; upload the .jsonl file in it",
}
"""How a file begins that has no lines of JSON, and what is said of it."""
_LIST_BEGINS = re.compile(rb"\s*\[\s*(?:\{|$)")
OTHER_FORMAT = "other_format"
"""The code of a file that is no JSON lines at all."""


class DatasetError(ValueError):
    """A dataset that cannot be trained on; the message gives the first finding, with its line."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or doubtful, with one line (counted from 1; 0 is the file as a whole)."""

    line: int
    severity: Severity
    code: str
    message: str
    held_out: bool = False
    """Whether the line is one of the held-out file that was given."""

    @property
    def place(self) -> str:
        """`line 3`, `held-out line 3`, `the file`."""
        if not self.line:
            return "held-out file" if self.held_out else "the file"
        return f"held-out line {self.line}" if self.held_out else f"line {self.line}"

    def __str__(self) -> str:
        return f"{self.place}: {self.severity}: {self.message}"


class Counts(Protocol):
    """What counts tokens: `heartbeat.tokens.TokenCounter`."""

    def length(self, row: Mapping[str, Any], /) -> Length: ...


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is in the sound rows of a dataset, for people."""

    histogram: Mapping[str, int]
    """Rows by length in tokens: `"65-128": 12`. From one to the longest, empty ones between them included."""
    routes: Mapping[str, int]
    """Rows by the tools that they call, names in order joined by " + "; "none" where none is called."""
    system_prompts: int
    """Different ones. Beyond _MOST_NAMES they are counted as one."""
    rows_without_system_prompt: int
    languages: Mapping[str, int]
    """The first 2,000 rows, and every tenth after them, by the language of their first question."""
    questions: Mapping[str, int]
    """Rows by the user's turns, from "1" on; the last is "9 or more"."""
    held_out_rows: int
    """Rows that the split keeps from training, with HELD_OUT_FRACTION and SEED as given."""
    held_out_strata: Mapping[str, Mapping[str, int]]
    """The same rows as `routes`, `languages` and `questions` count them: `{"routes": {"none": 12}, …}`."""
    near_duplicate_rows: int | None
    """Rows that nearly repeat an earlier one; None where nobody looked."""
    left_out_rows: int | None
    """The part of `held_out_rows` that nearly repeats a training row, found in one pass; the split leaves it out."""


@dataclass(frozen=True, kw_only=True)
class DatasetStats:
    """What the planner and the run's record need to know of a dataset."""

    rows: int
    """Lines that are not blank."""
    valid_rows: int
    """Rows without an error; every figure below is of these."""
    duplicate_rows: int
    """Rows that say the same as an earlier one."""
    over_long_rows: int
    """Rows longer than `max_length`; the trainer leaves them out."""
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
    tokens_are_exact: bool
    """Whether Llama 4's tokenizer counted; otherwise all tokens are estimates, of `conversation.length`."""
    tokens: int
    over_long_tokens: int
    """The part of `tokens` that is in over-long rows."""
    supervised_tokens: int
    """The part of `tokens` that the loss is taken on."""
    longest_row_tokens: int
    length_quantiles: Sequence[int]
    """Tokens of rows that stand for all that are not over-long (`packing.quantiles`): how well a step can be packed."""
    own_held_out_rows: int = 0
    """Sound rows of a held-out file, without those that are over-long or repeat a training row; 0 where there is none,
    and part of the dataset is held out."""
    sha256: str
    """Of the file's bytes, hexadecimal."""

    @property
    def trainable_rows(self) -> int:
        return self.valid_rows - self.over_long_rows

    @property
    def trainable_tokens(self) -> int:
        """Tokens of one pass over every row that is not over-long."""
        return self.tokens - self.over_long_tokens

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
    summary: Summary

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
            "summary": asdict(self.summary),
        }


def check(
    lines: Iterable[bytes],
    *,
    job: FineTuneJob | None = None,
    max_findings: int = 100,
    counter: Counts | None = None,
    near_duplicates: bool = False,
    held_out: Iterable[bytes] | None = None,
) -> DatasetReport:
    """Checks a dataset in one pass, and a held-out file against it; never raises for what the lines hold.

    `job` is the run that it is for (the card's where None): its MAX_LENGTH, HELD_OUT_FRACTION and SEED count.
    `lines` come with or without their ends (digest and size are of what is given: keep the ends for the file's own);
    of a file's those of `json_lines.lines`. Without a `counter` tokens are estimated. Memory does not grow with the
    dataset: 24 MiB, 132 MiB more with `near_duplicates`, the longest line some ten times over (json_lines.MOST_BYTES
    at most), and `max_findings` errors and as many warnings.
    """
    checker = _Checker(
        job=job or FineTuneJob(),
        max_findings=max_findings,
        counter=counter,
        near=NearRows() if near_duplicates else None,
    )
    for number, line in json_lines.numbered(checker.weighed(lines)):
        checker.add(number, line)
    if held_out is not None:
        checker.compare_all(held_out)
    return checker.report()


def read(lines: Iterable[bytes]) -> Iterator[Row]:
    """The rows of a dataset, one by one. Raises DatasetError at the first line with an error."""
    return (row for _, row in read_numbered(lines))


def read_numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, Row]]:
    """The same with their lines, from 1."""
    for number, line in json_lines.numbered(lines):
        if not line.strip():
            continue
        row, found = _examine(line)
        errors = [problem for problem in found if problem.severity == "error"]
        if row is None or errors:
            raise DatasetError(f"line {number}: {errors[0].message}")
        yield number, row


def _examine(line: bytes) -> tuple[Row | None, list[Problem]]:
    try:
        row = conversation.parse(line)
    except conversation.RowError as error:
        return None, [Problem(code=error.code, message=str(error))]
    return row, list(problems(row))


def _is_sound(found: Iterable[Problem]) -> bool:
    return all(problem.severity == "warning" for problem in found)


_EDGES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_BUCKETS = ("1-64", *(f"{low + 1}-{high}" for low, high in pairwise(_EDGES)), "32769-")
_MOST_NAMES = 1000
"""Different tools, routes and system prompts that are told apart: memory is not the dataset's to fill."""
_FEW_ROWS = 20
"""Below this many rows with tools nothing is said about their balance."""
_LANGUAGE_ROWS, _LANGUAGE_STEP = 2_000, 10
"""Of so many sound rows, and of every tenth after them, the language is told: shares to a point or two, and files that
are sorted by language are told as well; of all rows it would take a fifth of the time."""
_MANY_QUESTIONS = 9
_NO_ROWS = "has no rows; write one JSON object a line"
_RARE_SHARE = 0.05
"""A tool with a smaller share of all calls is called rare."""
_PLAIN_SHARE = 1 / 8
"""Where fewer of the rows call no tool, a model that always calls one is right in nearly all."""


class _Names(Counter[str]):
    """A count of names, the first _MOST_NAMES of them; the others together are "others"."""

    def note(self, name: str) -> str:
        """Returns what it was counted as."""
        counted = name if name in self or len(self) < _MOST_NAMES else "others"
        self[counted] += 1
        return counted


class _Strata:
    """Rows by one of their properties."""

    def __init__(self) -> None:
        self.rows, self.held_out = _Names(), Counter[str]()

    def note(self, stratum: str, held_out: bool) -> None:
        counted = self.rows.note(stratum)
        if held_out:
            self.held_out[counted] += 1


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _questions(count: int) -> str:
    return str(count) if count < _MANY_QUESTIONS else f"{_MANY_QUESTIONS} or more"


class _Checker:
    """The state of one pass over a dataset."""

    def __init__(
        self,
        *,
        job: FineTuneJob,
        max_findings: int,
        counter: Counts | None,
        near: NearRows | None,
    ) -> None:
        self._max_findings, self._max_length, self._near = max_findings, job.max_length, near
        self._counter = counter
        self._split = job.held_out_fraction, job.seed
        self._findings: list[Finding] = []
        self._kept: Counter[Severity] = Counter()
        self._severities: Counter[Severity] = Counter()
        self._counts: Counter[str] = Counter()
        self._seen = SeenRows()
        self._digest = hashlib.sha256()
        self._figures = dict.fromkeys((f.name for f in fields(DatasetStats)), 0)
        self._histogram = [0] * len(_BUCKETS)
        self._lengths: Counter[int] = Counter()
        self._tools, self._declared, self._systems = _Names(), _Names(), _Names()
        self._strata = {"routes": _Strata(), "languages": _Strata(), "questions": _Strata()}
        self._held_out = self._near_duplicates = self._left_out = 0
        self._is_other_format = False

    def weighed(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """The same lines, or pieces of them, once their bytes are counted."""
        figures = self._figures
        for line in lines:
            self._digest.update(line)
            figures["bytes"] += len(line)
            yield line

    def add(self, number: int, line: bytes) -> None:
        if number == 1:
            self._is_other_format = self._begins_otherwise(line)
        if self._is_other_format or not line or line.isspace():
            return
        self._figures["rows"] += 1
        plain = plain_rows.read(line)
        if plain:
            row, facts = plain
        else:
            examined, found = _examine(line)
            for problem in found:
                self._find(number, problem)
            if examined is None or not _is_sound(found):
                return
            row, facts = examined, plain_rows.facts_of(examined)
        held_out = is_held_out_by(facts.fingerprint, *self._split)
        self._count(number, row, facts, held_out)
        for problem in doubts(row, facts.said):
            self._find(number, problem)
        self._compare(number, row, facts.fingerprint, held_out)

    def compare_all(self, held_out: Iterable[bytes]) -> None:
        """A held-out file. One that leaves no row to judge by is an error."""
        rows = sound = 0
        for number, line in json_lines.numbered(held_out):
            if number == 1 and self._begins_otherwise(line, held_out=True):
                return
            if line and not line.isspace():
                rows += 1
                sound += self._compare_held_out(number, line)
        if not rows:
            self._find(0, Problem(code="empty_file", message=_NO_ROWS), held_out=True)
        elif sound and not self._figures["own_held_out_rows"]:
            fix = "give it rows that are neither too long nor trained on"
            message = f"has no row left to judge by, of {sound:,} that are sound; {fix}"
            self._find(0, Problem(code="no_held_out_row", message=message), held_out=True)

    def _compare_held_out(self, number: int, line: bytes) -> bool:
        """A line of the held-out file: its own errors, and whether it was trained on. Returns whether it is sound."""
        row, found = _examine(line)
        for problem in found:
            self._find(number, problem, held_out=True)
        if row is None or not _is_sound(found):
            return False
        tokens = (self._counter.length(row) if self._counter else conversation.length(row)).tokens
        useless = self._over_long(tokens) or self._overlap(row)
        if useless:
            self._find(number, useless, held_out=True)
        else:
            self._figures["own_held_out_rows"] += 1
        return True

    def _overlap(self, row: Row) -> Problem | None:
        same = self._seen.first(conversation.fingerprint(row), 0)
        near = None if same or self._near is None else self._near.find(row, 0, remember=False)
        if not (same or near):
            return None
        how = f"is line {same}" if same else f"nearly repeats line {(near or 0) >> 1}"
        why = "so it cannot tell what was learned and is not judged by; drop one of them"
        return Problem(code="overlap", severity="warning", message=f"{how} of the training file, {why}")

    def report(self) -> DatasetReport:
        if not self._figures["rows"] and not self._is_other_format:
            self._find(0, Problem(code="empty_file", message=_NO_ROWS))
        for problem in self._of_the_file():
            self._find(0, problem)
        stats: dict[str, Any] = {
            **self._figures,
            "max_length": self._max_length,
            "tokens_are_exact": self._counter is not None,
            "tools": dict(self._tools.most_common()),
            "length_quantiles": packing.quantiles(self._lengths),
            "sha256": self._digest.hexdigest(),
        }
        return DatasetReport(
            findings=tuple(self._findings),
            counts=dict(self._counts),
            num_errors=self._severities["error"],
            num_warnings=self._severities["warning"],
            stats=DatasetStats(**stats),
            summary=self._summary(),
        )

    def _summary(self) -> Summary:
        used = [i for i, rows in enumerate(self._histogram) if rows]
        shown = range(used[0], used[-1] + 1) if used else range(0)
        return Summary(
            histogram={_BUCKETS[i]: self._histogram[i] for i in shown},
            routes=dict(self._strata["routes"].rows.most_common()),
            system_prompts=len(self._systems),
            rows_without_system_prompt=self._figures["valid_rows"] - self._systems.total(),
            languages=dict(self._strata["languages"].rows.most_common()),
            questions=dict(sorted(self._strata["questions"].rows.items())),
            held_out_rows=self._held_out,
            held_out_strata={kind: dict(strata.held_out) for kind, strata in self._strata.items()},
            near_duplicate_rows=self._near_duplicates if self._near else None,
            left_out_rows=self._left_out if self._near else None,
        )

    def _begins_otherwise(self, first: bytes, *, held_out: bool = False) -> bool:
        """Whether a file with this first line is no JSON lines: found once, since every line of it would be wrong."""
        message = next((said for magic, said in _OTHER_FORMATS.items() if first.startswith(magic)), None)
        # A list that ends on its line may be a row in another form: the rules say what is wrong with it.
        if message is None and _LIST_BEGINS.match(first) and not first.rstrip().endswith(b"]"):
            message = conversation.LIST_OF_ROWS
        if message is not None:
            self._find(1, Problem(code=OTHER_FORMAT, message=message), held_out=held_out)
        return message is not None

    def _find(self, line: int, problem: Problem, *, held_out: bool = False) -> None:
        severity = problem.severity
        self._counts[problem.code] += 1
        self._severities[severity] += 1
        # Each severity has its own room: a file full of duplicates must not hide its one broken line.
        if self._kept[severity] < self._max_findings:
            self._kept[severity] += 1
            self._findings.append(
                Finding(line=line, severity=severity, code=problem.code, message=problem.message, held_out=held_out)
            )

    def _count(self, number: int, row: Row, facts: Facts, held_out: bool) -> None:
        figures, messages, called = self._figures, row["messages"], facts.called
        tokens, supervised_tokens = facts.tokens, facts.supervised_tokens
        if self._counter is not None:
            length = self._counter.length(row)
            tokens, supervised_tokens = length.tokens, length.supervised_tokens
        for name in called:
            self._tools.note(name)
        for tool in row.get("tools") or ():
            self._declared.note(tool["function"]["name"])
        self._strata["routes"].note(" + ".join(sorted(set(called))) if called else "none", held_out)
        self._strata["questions"].note(_questions(facts.questions), held_out)
        if messages[0]["role"] == "system":
            self._systems.note(messages[0]["content"])
        if figures["valid_rows"] < _LANGUAGE_ROWS or not figures["valid_rows"] % _LANGUAGE_STEP:
            self._strata["languages"].note(language(row), held_out)
        self._histogram[bisect_left(_EDGES, tokens)] += 1
        figures["valid_rows"] += 1
        figures["turns"] += len(messages)
        figures["assistant_turns"] += facts.assistant_turns
        figures["characters"] += facts.characters
        figures["tool_rows"] += bool(called)
        self._held_out += held_out
        figures["tokens"] += tokens
        figures["supervised_tokens"] += supervised_tokens
        figures["longest_row_tokens"] = max(figures["longest_row_tokens"], tokens)
        problem = self._over_long(tokens) if tokens > self._max_length else None
        if problem:
            figures["over_long_rows"] += 1
            figures["over_long_tokens"] += tokens
            self._find(number, problem)
        else:
            self._lengths[tokens] += 1

    def _over_long(self, tokens: int) -> Problem | None:
        if tokens <= self._max_length:
            return None
        fix = "shorten it or raise MAX_LENGTH" if tokens <= LONGEST else f"shorten it: no run takes over {LONGEST:,}"
        message = (
            f"is {'' if self._counter else 'about '}{tokens:,} tokens, over MAX_LENGTH={self._max_length}, "
            f"and would be left out; {fix}"
        )
        return Problem(code="over_long", severity="warning", message=message)

    def _compare(self, number: int, row: Row, fingerprint: bytes, held_out: bool) -> None:
        same = self._seen.first(fingerprint, number)
        if same:
            self._figures["duplicate_rows"] += 1
            message = f"says the same as line {same}; drop one of them"
            self._find(number, Problem(code="duplicate", severity="warning", message=message))
        elif self._near:
            # The last bit is the side: a pair on both sides costs the held-out side a row.
            near = self._near.find(row, number << 1 | held_out)
            if near:
                self._near_duplicates += 1
                self._left_out += (near & 1) != held_out
                message = f"nearly repeats line {near >> 1}; keep both only if the difference is worth learning"
                self._find(number, Problem(code="near_duplicate", severity="warning", message=message))

    def _of_the_file(self) -> Iterator[Problem]:
        """What only the whole dataset shows."""
        full = [
            what
            for what, table in (("duplicates", self._seen), ("near-duplicates", self._near))
            if table is not None and table.full
        ]
        for what in full:
            message = f"has more rows than the search for {what} remembers; later rows were compared with the first"
            yield Problem(code="search_bounded", severity="warning", message=f"{message} ones only")
        routes = self._strata["routes"].rows
        if not (self._declared or self._tools) or routes.total() < _FEW_ROWS:
            return
        calls = self._tools.total()
        for name, rows in self._declared.items():
            if name not in self._tools:
                message = f"declares {name!r} in {_rows(rows)} and never calls it; add rows that do, or drop the tool"
                yield Problem(code="tool_imbalance", severity="warning", message=message)
        for name, times in self._tools.items():
            if len(self._tools) > 1 and times < _RARE_SHARE * calls:
                message = f"calls {name!r} {_times(times)} of {calls:,}: too rare to learn when; add rows that do"
                yield Problem(code="tool_imbalance", severity="warning", message=message)
        if calls and not routes["none"]:
            message = "calls a tool in every row: it cannot teach when to answer without; add rows without a call"
            yield Problem(code="tool_imbalance", severity="warning", message=message)
        elif calls and routes["none"] < _PLAIN_SHARE * routes.total():
            called = routes.total() - routes["none"]
            fix = "too few without a call to learn when to answer without; add some"
            message = f"calls a tool in {called:,} of {routes.total():,} rows: {fix}"
            yield Problem(code="tool_imbalance", severity="warning", message=message)
