"""Durations in words, as a person says them."""

from __future__ import annotations


def about(seconds: float) -> str:
    """`7.4 h`, `6 min`, `30 s`: an estimate, in the unit that suits it."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def span(low: float, high: float) -> str:
    """`18-54 min`, `38 min-1.7 h`: from one to the other, as `about` says them."""
    first, last = about(low), about(high)
    number, _, unit = first.rpartition(" ")
    return f"{number if last.endswith(f' {unit}') else first}-{last}"


def exactly(seconds: float) -> str:
    """`7 h 24 min`, `6 min 03 s`: what was measured."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02} min" if hours else f"{rest // 60} min {rest % 60:02} s"
