"""What the endpoint says to held-out rows, held against what the gate found of the same adapter in training.

The gate's 95% interval of a metric says where the adapter's share of right turns lies. The endpoint is refused where
its sample would be that bad by chance in less than 2.5% of deployments, all metrics together, if its share were the
interval's lower end. So a sound endpoint, whose share is likelier in the interval's middle, is hardly ever refused, and
one that is far below is. Weights in other formats (bf16 here, NF4 in training) change some answers in both directions,
which is why shares are compared and not texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heartbeat.cases import Case, expected_text
from heartbeat.persona import Persona
from heartbeat.scores import GENERAL, cut, told
from heartbeat.turn_rules import TurnRules, TurnScore

MOST_CHANCE = 0.025
"""Of refusing an endpoint whose every metric is at the lower end of its interval."""


@dataclass(frozen=True, kw_only=True)
class SampleMetric:
    """One metric of the sample beside the gate's interval of the tuned model."""

    metric: str
    turns: int
    right: int
    low: float
    high: float
    chance: float
    """Of so few right turns or fewer, if the share were `low`."""
    refused: bool

    @property
    def shown(self) -> str:
        return f"{self.metric} {self.right} of {self.turns} (the gate's interval {self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, kw_only=True)
class SampleVerdict:
    """Whether the endpoint says to held-out rows what the gate's interval lets expect."""

    turns: int
    metrics: Sequence[SampleMetric]
    failed: Sequence[Mapping[str, Any]]
    """Turns that were wrong: row, turn and problems; with transcripts where the endpoint was refused by them."""

    @property
    def failures(self) -> list[str]:
        refused = [metric.shown for metric in self.metrics if metric.refused]
        what = f"of {self.turns} held-out turns too few are right: {', '.join(refused)}"
        return [f"{what}; the endpoint answers worse than the same adapter did in training"] if refused else []

    @property
    def summary(self) -> str:
        if not self.turns:
            return "no held-out turn leaves the endpoint room for an answer, so none was asked"
        shown = ", ".join(f"{metric.metric} {metric.right} of {metric.turns}" for metric in self.metrics)
        return f"{self.turns} held-out turns are answered as in training: {shown or 'no metric counts for them'}"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast the sample was answered, one call after the other."""

    calls: int
    p50_seconds: float
    p95_seconds: float
    """Of one call, from request to answer."""
    tokens: int
    tokens_per_second: float
    """Of one answer: an endpoint that is asked more at once says more in all."""

    @property
    def summary(self) -> str:
        return (
            f"an answer takes {self.p50_seconds:.1f} s (p50), {self.p95_seconds:.1f} s (p95), "
            f"{self.tokens_per_second:,.0f} tokens/s, asked one by one"
        )


def verdict(cases: Sequence[Case], texts: Sequence[str], persona: Persona, gate: Mapping[str, Any]) -> SampleVerdict:
    """Judges what was said to the cases, one text each, by gate.json (heartbeat.quality.record) of the same run."""
    scores = [TurnRules(case, persona).score(text) for case, text in zip(cases, texts, strict=True)]
    intervals = {
        row["metric"]: row["tuned"] for row in gate.get("table") or () if row["tuned"] and row["metric"] != GENERAL
    }
    counted = {name: [score.problems[name] is None for score in scores if name in score.problems] for name in intervals}
    found = {name: right for name, right in counted.items() if right}
    metrics = [_metric(name, right, intervals[name], MOST_CHANCE / len(found)) for name, right in found.items()]
    refused = any(metric.refused for metric in metrics)
    failed = [
        _failed(case, score, text if refused else None)
        for case, score, text in zip(cases, scores, texts, strict=True)
        if any(score.problems.values())
    ]
    return SampleVerdict(turns=len(cases), metrics=metrics, failed=failed)


def speed(times: Sequence[float], tokens: Sequence[int]) -> Speed | None:
    """Of calls that took `times` in seconds, one after the other, and were answered in so many `tokens`; None where
    there was none."""
    if not times:
        return None
    ordered = sorted(times)
    return Speed(
        calls=len(ordered),
        p50_seconds=_nearest(ordered, 0.5),
        p95_seconds=_nearest(ordered, 0.95),
        tokens=sum(tokens),
        tokens_per_second=sum(tokens) / sum(times),
    )


def _metric(name: str, right: Sequence[bool], interval: Mapping[str, float], most_chance: float) -> SampleMetric:
    chance = _chance(sum(right), len(right), interval["low"])
    return SampleMetric(
        metric=name,
        turns=len(right),
        right=sum(right),
        low=interval["low"],
        high=interval["high"],
        chance=chance,
        refused=chance < most_chance,
    )


def _chance(right: int, turns: int, share: float) -> float:
    """Of at most so many right turns, each right with this chance (the binomial distribution's lower tail)."""
    return sum(math.comb(turns, k) * share**k * (1 - share) ** (turns - k) for k in range(right + 1))


def _failed(case: Case, score: TurnScore, said: str | None) -> dict[str, Any]:
    """`said` where the transcript is to be kept."""
    found: dict[str, Any] = {
        "row": case.row,
        "turn": case.turn,
        "problems": {name: problem for name, problem in score.problems.items() if problem},
    }
    if said is None:
        return found
    transcript = [told(message) for message in case.prompt]
    return {**found, "transcript": transcript, "expected": cut(expected_text(case)), "said": cut(said)}


def _nearest(ordered: Sequence[float], share: float) -> float:
    """The least value that at least this share of the values does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
