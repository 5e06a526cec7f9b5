"""The quality gate: an adapter is deployed only where it beats the base on rows that it never saw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What a tuned model must reach. Raises ValueError for a bound that would judge nothing."""

    max_loss_ratio: float = 0.95
    """Held-out loss of the tuned model over that of the base, at most.

    Both losses are of the same rows, so chance moves their ratio little; a run that learned its data's
    manner of answering moves it far more than 5%, and one that did not is not worth an endpoint.
    """
    min_rows: int = 10
    """Held-out rows at least. With fewer, one odd conversation decides; 10 is what 100 rows leave at 0.1."""
    min_supervised_tokens: int = 200
    """Held-out tokens that the loss is a mean of, at least: ten rows of one word each would say nothing."""

    def __post_init__(self) -> None:
        if not 0 < self.max_loss_ratio <= 1:
            raise ValueError(
                f"max_loss_ratio={self.max_loss_ratio} must be above 0 and at most 1: over 1 passes a model "
                "that is worse than its base; leave it out for 0.95"
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
        comparison = (
            f"held-out loss {tuned:.2f} against base {base:.2f} "
            f"(ratio {ratio:.2f}, needs at most {bounds.max_loss_ratio:g}) on {rows or 0:g} rows"
        )
        if ratio > bounds.max_loss_ratio:
            failures.append(comparison)
    figures = {
        "rows": rows,
        "supervised_tokens": tokens,
        "base_loss": base,
        "tuned_loss": tuned,
        "loss_ratio": ratio,
        "max_loss_ratio": bounds.max_loss_ratio,
        "min_rows": bounds.min_rows,
        "min_supervised_tokens": bounds.min_supervised_tokens,
    }
    return Verdict(passed=not failures, reasons=tuple(failures or [comparison]), figures=figures)


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
