"""Scores of base and tuned model on the held-out rows: each metric with its count and its interval, and what failed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from heartbeat.cases import Case, expected_text
from heartbeat.doubts import language_of
from heartbeat.persona import Persona
from heartbeat.tool_calls import write_calls
from heartbeat.turn_rules import METRICS, NO_TOOL, TurnRules, TurnScore

GENERAL = "general"
"""The metric of the general probe set, whose rows are not the dataset's."""

RESAMPLES = 1000
"""Leaves 25 beyond each end of a 95% interval: the ends move by less than a hundredth from seed to seed."""
_TAIL = 0.025
MAX_FAILURES = 20
_SHOWN_CHARACTERS = 1500
_MANY_QUESTIONS = 3

_IMAGINED = ((1, 1), (1, 0), (0, 1), (0, 0))
"""Conversations, right in (base, tuned), that a sample is given for its interval.

A sample without a failure resamples to itself: the plain bootstrap would say of three right answers in three that the
model is right in 100% to 100%. Two imagined successes and two failures (what Agresti and Coull, 1998, add for an
interval of a proportion) widen it to 43% to 100%, and hardly change it where there are hundreds.
"""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A share of turns, 0 to 1 (of a difference -1 to 1), and its 95% interval, which holds the value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. The estimates are None where no turn counts for it; `difference` is tuned less base, paired."""

    turns: int
    conversations: int
    base: Estimate | None
    tuned: Estimate | None
    difference: Estimate | None


Strata = Mapping[str, Mapping[str, Mapping[str, Sequence[int]]]]
"""What turns are told apart by -> which of them -> metric -> [turns, right by the base, right by the tuned model]."""

AFTER_RESULTS = "(answer after results)"
"""The stratum of such turns among the routes."""


class Probe(NamedTuple):
    """A question of the general probe set: its name, and whether base and tuned answered it rightly."""

    name: str
    base: bool
    tuned: bool


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A turn that the tuned model failed: which row, what was wrong by metric, what was said. Long texts are cut."""

    row: str
    """Beginning of the row's fingerprint."""
    conversation: int
    """Which of the held-out rows, counted from 0."""
    turn: int
    problems: Mapping[str, str]
    transcript: Sequence[str]
    """The messages before the turn, one text each: "user: …"."""
    expected: str
    base: str
    tuned: str


@dataclass(frozen=True, kw_only=True)
class FailedRow:
    """A held-out row of which the tuned model failed a turn."""

    row: str
    """As Failure names it."""
    line: int | None
    """Where it stands in the file that it is from, counted from 1; None where nobody said."""
    metrics: Sequence[str]
    """Those that it failed."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the gate decides on."""

    metrics: Mapping[str, Metric]
    confusion: Mapping[str, Mapping[str, Mapping[str, int]]]
    """"base" and "tuned" -> the row's route -> the route taken -> turns. The diagonal is what is right."""
    strata: Strata
    """By route, by language of the user, and by how many questions there were."""
    failures: Sequence[Failure]
    """Of the tuned model, at most the number asked for, every failed metric among them."""
    failed_rows: Sequence[FailedRow]
    """All rows with a failed turn, shown or not, in the order of the cases."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def unscored(why: str, *, turned_off: bool = False) -> dict[str, Any]:
    """In place of Scores.to_dict() where there are no answers to score: why not, and whether that was asked for."""
    return {"unscored": why, "turned_off": turned_off}


class _Tally(NamedTuple):
    """One conversation's turns of one metric."""

    base: float
    tuned: float
    turns: float


def measure(
    cases: Sequence[Case],
    base: Sequence[str],
    tuned: Sequence[str],
    persona: Persona,
    *,
    general: Iterable[Probe] = (),
    lines: Mapping[str, int] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    max_failures: int = MAX_FAILURES,
) -> Scores:
    """Scores of what the models said to the cases, text by text in the same order.

    `lines` says where a row stands, by `Case.row`.
    Raises ValueError where texts and cases are not equally many.
    """
    if not len(cases) == len(base) == len(tuned):
        raise ValueError(f"{len(cases)} cases, but {len(base)} texts of the base and {len(tuned)} of the tuned model")
    rules = [TurnRules(case, persona) for case in cases]
    base_scores = [rule.score(text) for rule, text in zip(rules, base, strict=True)]
    tuned_scores = [rule.score(text) for rule, text in zip(rules, tuned, strict=True)]
    metrics = {
        name: summarise(_tallies(name, cases, base_scores, tuned_scores), seed=seed, resamples=resamples)
        for name in METRICS
    }
    probes = [_Tally(probe.base, probe.tuned, 1) for probe in general]
    metrics[GENERAL] = summarise(probes, seed=seed, resamples=resamples)
    failed = [i for i, score in enumerate(tuned_scores) if any(score.problems.values())]
    return Scores(
        metrics=metrics,
        confusion={"base": _confusion(base_scores), "tuned": _confusion(tuned_scores)},
        strata=_strata(cases, base_scores, tuned_scores),
        failures=[
            _failure(cases[i], tuned_scores[i], base[i], tuned[i]) for i in _shown(failed, tuned_scores, max_failures)
        ],
        failed_rows=_failed_rows(cases, tuned_scores, lines or {}),
    )


def summarise(tallies: Sequence[tuple[float, float, float]], *, seed: int = 0, resamples: int = RESAMPLES) -> Metric:
    """Shares and intervals of conversations, each (right turns of the base, right turns of the tuned, turns).

    The bootstrap draws conversations, not turns: the turns of one share its player, its season and its language, and
    are right or wrong together, so intervals that took them for independent would be too narrow. Base and tuned are
    drawn together, so that what is hard for both does not blur their difference. The draws depend on the seed and the
    number of conversations alone: on the same rows, no end of an interval is lower for a tuned model that does better.
    """
    turns = sum(tally[2] for tally in tallies)
    if not turns:
        return Metric(turns=0, conversations=0, base=None, tuned=None, difference=None)
    mean = turns / len(tallies)
    sample = [*tallies, *((right_base * mean, right_tuned * mean, mean) for right_base, right_tuned in _IMAGINED)]
    drawn = resample(sample, seed=seed, resamples=resamples)
    base, tuned = (sum(tally[i] for tally in tallies) / turns for i in (0, 1))
    return Metric(
        turns=round(turns),
        conversations=len(tallies),
        base=estimate(base, [one for one, _ in drawn]),
        tuned=estimate(tuned, [other for _, other in drawn]),
        difference=estimate(tuned - base, [other - one for one, other in drawn]),
    )


def resample(sample: Sequence[tuple[float, float, float]], *, seed: int, resamples: int) -> list[tuple[float, float]]:
    """Means of base and tuned model in so many samples drawn from this one, whose entries are (sum, sum, count).

    No count may be 0.
    """
    draw = random.Random(f"{seed}:{len(sample)}")
    drawn: list[tuple[float, float]] = []
    for _ in range(resamples):
        some = draw.choices(sample, k=len(sample))
        count = sum(tally[2] for tally in some)
        drawn.append((sum(tally[0] for tally in some) / count, sum(tally[1] for tally in some) / count))
    return drawn


def estimate(value: float, drawn: list[float]) -> Estimate:
    """The value with the interval of what was drawn."""
    drawn.sort()
    beyond = int(_TAIL * len(drawn))
    # What was imagined pulls the interval to the middle; it must still hold what was found.
    return Estimate(value=value, low=min(value, drawn[beyond]), high=max(value, drawn[-1 - beyond]))


def _tallies(name: str, cases: Sequence[Case], base: Sequence[TurnScore], tuned: Sequence[TurnScore]) -> list[_Tally]:
    found: dict[int, _Tally] = {}
    for case, base_score, tuned_score in zip(cases, base, tuned, strict=True):
        if name in base_score.problems:
            right, tuned_right, turns = found.get(case.conversation, (0, 0, 0))
            right += base_score.problems[name] is None
            tuned_right += tuned_score.problems[name] is None
            found[case.conversation] = _Tally(right, tuned_right, turns + 1)
    return list(found.values())


def _confusion(scores: Iterable[TurnScore]) -> dict[str, dict[str, int]]:
    counts = Counter((s.expected_route, s.route) for s in scores if "routing" in s.problems)
    found: dict[str, dict[str, int]] = {}
    for (expected, route), count in sorted(counts.items()):
        found.setdefault(expected, {})[route] = count
    return found


def _strata(cases: Sequence[Case], base: Sequence[TurnScore], tuned: Sequence[TurnScore]) -> Strata:
    found: dict[str, dict[str, dict[str, list[int]]]] = {}
    for case, base_score, tuned_score in zip(cases, base, tuned, strict=True):
        for kind, stratum in _strata_of(case).items():
            counts = found.setdefault(kind, {}).setdefault(stratum, {})
            for name, problem in tuned_score.problems.items():
                count = counts.setdefault(name, [0, 0, 0])
                right = (1, base_score.problems[name] is None, problem is None)
                counts[name] = [old + int(new) for old, new in zip(count, right, strict=True)]
    return {kind: dict(sorted(strata.items())) for kind, strata in found.items()}


def _strata_of(case: Case) -> dict[str, str]:
    asked = [message.get("content") or "" for message in case.prompt if message["role"] == "user"]
    called = " + ".join(sorted({call.name for call in case.accepted[0]})) if case.accepted else NO_TOOL
    told = (found for text in reversed(asked) if (found := language_of(text)) != "unknown")
    return {
        "route": AFTER_RESULTS if case.is_answer and case.follows_results else called,
        "language": next(told, "unknown"),
        "questions so far": str(len(asked)) if len(asked) < _MANY_QUESTIONS else f"{_MANY_QUESTIONS} or more",
    }


def _shown(failed: Sequence[int], scores: Sequence[TurnScore], limit: int) -> list[int]:
    """Some of the failed turns, in order: metrics take turns to name one, so that none hides behind a commoner one."""
    chosen: dict[int, None] = {}
    queues = [iter([i for i in failed if scores[i].problems.get(name)]) for name in METRICS]
    while queues and len(chosen) < limit:
        going: list[Iterator[int]] = []
        for queue in queues:
            found = next((i for i in queue if i not in chosen), None)
            if found is not None:
                going.append(queue)
                if len(chosen) < limit:
                    chosen[found] = None
        queues = going
    return sorted(chosen)


def _failed_rows(cases: Sequence[Case], scores: Sequence[TurnScore], lines: Mapping[str, int]) -> Sequence[FailedRow]:
    failed: dict[int, set[str]] = {}
    names: dict[int, str] = {}
    for case, score in zip(cases, scores, strict=True):
        problems = {name for name, problem in score.problems.items() if problem}
        if problems:
            failed.setdefault(case.conversation, set()).update(problems)
            names[case.conversation] = case.row
    return [
        FailedRow(row=names[i], line=lines.get(names[i]), metrics=[name for name in METRICS if name in problems])
        for i, problems in failed.items()
    ]


def _failure(case: Case, score: TurnScore, base: str, tuned: str) -> Failure:
    return Failure(
        row=case.row,
        conversation=case.conversation,
        turn=case.turn,
        problems={name: problem for name, problem in score.problems.items() if problem},
        transcript=[told(message) for message in case.prompt],
        expected=cut(expected_text(case)),
        base=cut(base),
        tuned=cut(tuned),
    )


def told(message: Mapping[str, Any]) -> str:
    """A message of a transcript: "user: …"."""
    calls = message.get("tool_calls")
    said = write_calls(calls) if calls else message.get("content") or ""
    return cut(f"{message['role']}: {said}")


def cut(text: str) -> str:
    """A text as a record of failures shows it."""
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
