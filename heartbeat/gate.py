"""The quality gate: an adapter is deployed only where it beats the base on rows that it never saw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from heartbeat import held_out_loss

_ROUNDING = 1e-6
"""The losses are means of sums that were added in another order."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What a tuned model's loss must reach: [loss] of gate.toml, which argues the values.

    Raises ValueError for a bound that would judge nothing.
    """

    max_ratio: float = 0.95
    """Held-out loss of the tuned model over that of the base, at most."""
    min_rows: int = 10
    """Held-out rows at least."""
    min_supervised_tokens: int = 200
    """Held-out tokens that the loss is a mean of, at least."""

    def __post_init__(self) -> None:
        if not 0 < self.max_ratio <= 1:
            raise ValueError(
                f"max_ratio={self.max_ratio} must be above 0 and at most 1: over 1 passes a model that is worse than"
                f" its base; leave it out for {Thresholds.max_ratio:g}"
            )
        for name in ("min_rows", "min_supervised_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1; leave it out")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a run may be deployed, why or why not in words, and the figures that decided."""

    passed: bool
    reasons: tuple[str, ...]
    figures: Mapping[str, float | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verdict(metrics: Mapping[str, Any], thresholds: Thresholds | None = None) -> Verdict:
    """Judges a run by its metrics.json. What is missing or no number fails, with a reason; never raises."""
    bounds = thresholds or Thresholds()
    heldout = metrics.get("heldout")
    heldout = heldout if isinstance(heldout, Mapping) else {}
    names = ("rows", "supervised_tokens", "base_loss", "tuned_loss")
    rows, tokens, base, tuned = (_figure(heldout.get(name)) for name in names)
    steps = _figure(metrics.get("steps_done"))
    ratio = tuned / base if tuned is not None and base else None
    low, high = ratio_interval(metrics)

    failures = [
        *_too_few("held-out rows", rows, bounds.min_rows, "raise HELD_OUT_FRACTION or add rows"),
        *_too_few("held-out supervised tokens", tokens, bounds.min_supervised_tokens, "add rows"),
        *_too_few("training steps", steps, 1, "raise MAX_STEPS or max_runtime_seconds"),
    ]
    comparison = ""
    for name, loss in (("base_loss", base), ("tuned_loss", tuned)):
        if loss is None or loss < 0:
            failures.append(f"heldout.{name} is {_shown(heldout.get(name))}, not a loss: nothing to compare")
    if base == 0:
        failures.append("the base's held-out loss is 0: there is nothing to learn from these rows")
    if ratio is not None and base is not None and tuned is not None and base > 0 and tuned >= 0:
        shown = f"held-out loss {tuned:.2f} against base {base:.2f}"
        if low is None or high is None or not low <= ratio * (1 + _ROUNDING) or not ratio <= high * (1 + _ROUNDING):
            failures.append(f"{shown}: the interval of their ratio is missing from the metrics, or does not hold it")
        else:
            comparison = (
                f"{shown} (ratio {ratio:.2f}, 95% interval {low:.2f} to {high:.2f}, needs at most "
                f"{bounds.max_ratio:g}) on {rows or 0:g} rows"
            )
            if low > bounds.max_ratio:
                failures.append(comparison)
            elif high > bounds.max_ratio:
                failures.append(f"{comparison}: not enough rows to tell; add held-out rows, or raise max_ratio")
    figures = {
        "rows": rows,
        "supervised_tokens": tokens,
        "base_loss": base,
        "tuned_loss": tuned,
        "loss_ratio": ratio,
        "loss_ratio_low": low,
        "loss_ratio_high": high,
        "max_loss_ratio": bounds.max_ratio,
        "min_rows": bounds.min_rows,
        "min_supervised_tokens": bounds.min_supervised_tokens,
    }
    return Verdict(passed=not failures, reasons=tuple(failures or [comparison]), figures=figures)


def outcome(metrics: Mapping[str, Any], thresholds: Thresholds) -> str | None:
    """Of the ratio alone, in the words of heartbeat.score_gate.Outcome; None where it was not measured."""
    low, high = ratio_interval(metrics)
    if low is None or high is None:
        return None
    if high <= thresholds.max_ratio:
        return "met"
    return "missed" if low > thresholds.max_ratio else "too few rows"


def ratio_interval(metrics: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The ends of the 95% interval of the tuned loss over the base's; None, None where there is none."""
    ratio = held_out_loss.of_metrics(metrics, "loss").get("ratio")
    found = ratio if isinstance(ratio, Mapping) else {}
    return _figure(found.get("low")), _figure(found.get("high"))


def _too_few(what: str, found: float | None, needed: int, fix: str) -> list[str]:
    if found is None:
        return [f"the number of {what} is missing from the metrics"]
    return [] if found >= needed else [f"{found:g} {what}, needs at least {needed}: {fix}"]


def _figure(value: Any) -> float | None:
    """The number, or None for anything that is not a finite one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:40]
