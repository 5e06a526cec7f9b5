"""Loss and perplexity of base and tuned model on the held-out rows, with intervals: by the bootstrap of the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from heartbeat.scores import RESAMPLES, Estimate, estimate, resample

_MOST_BLOCKS = 1000
"""More rows are drawn in so many blocks of rows: the interval hardly changes, and takes a second instead of minutes."""
_LARGEST_LOSS = 700.0
"""e to much more is no number of a float."""


@dataclass(frozen=True, kw_only=True)
class LossScore:
    """Losses in natural logarithms, means over the tokens that the assistant says."""

    rows: int
    tokens: int
    base: Estimate
    tuned: Estimate
    ratio: Estimate | None
    """Tuned over base, of the same draws; None where the base's loss is 0."""

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json holds it: "loss", and "perplexity", which is e to the loss."""
        counts = {"rows": self.rows, "tokens": self.tokens}
        perplexities = {"base": asdict(_perplexity(self.base)), "tuned": asdict(_perplexity(self.tuned))}
        return {"loss": asdict(self), "perplexity": {**counts, **perplexities}}


def measure(
    base: Sequence[float],
    tuned: Sequence[float],
    tokens: Sequence[int],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> LossScore | None:
    """Of rows, each with its summed losses and its number of supervised tokens; None where no row has any.

    Raises ValueError where they are not equally many.
    """
    rows = [row for row in zip(base, tuned, tokens, strict=True) if row[2]]
    if not rows:
        return None
    blocks = [_sum(rows[start::_MOST_BLOCKS]) for start in range(min(len(rows), _MOST_BLOCKS))]
    drawn = resample(blocks, seed=seed, resamples=resamples)
    base_sum, tuned_sum, count = _sum(rows)
    ratios = [other / one for one, other in drawn if one]
    return LossScore(
        rows=len(rows),
        tokens=round(count),
        base=estimate(base_sum / count, [one for one, _ in drawn]),
        tuned=estimate(tuned_sum / count, [other for _, other in drawn]),
        ratio=estimate(tuned_sum / base_sum, ratios) if base_sum and ratios else None,
    )


def _sum(rows: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    return math.fsum(row[0] for row in rows), math.fsum(row[1] for row in rows), sum(row[2] for row in rows)


def _perplexity(loss: Estimate) -> Estimate:
    """How many tokens are as likely as the right one, on average. Its interval is the loss's: e to the x only rises."""
    value, low, high = (math.exp(min(x, _LARGEST_LOSS)) for x in (loss.value, loss.low, loss.high))
    return Estimate(value=value, low=low, high=high)


def of_metrics(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of metrics.json's `heldout`, "loss" or "perplexity"; empty where it was not measured."""
    heldout = metrics.get("heldout")
    found = heldout.get(name) if isinstance(heldout, Mapping) else None
    return found if isinstance(found, Mapping) else {}
