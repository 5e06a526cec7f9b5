"""Charts as SVG text: no library, since a Lambda draws them, and no script, since a page shows them."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

Point = tuple[float, float]
Place = Callable[[float, float], Point]
"""From a figure's (x, y) to pixels."""

_WIDTH, _HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 150, 14, 34


def loss_curve(points: Sequence[Point], marks: Mapping[str, float]) -> str:
    """An SVG of training loss over steps, with a labelled level for each of `marks` (held-out losses).

    `points` are (step, nat a token); at least two. Colours come from the page's CSS (classes curve, mark, axis).
    """
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    levels = [y for _, y in finite] + list(marks.values())
    low, high = min(levels), max(levels)
    pad = max(0.08 * (high - low), 0.05)  # a flat curve gets a band around it
    low, high = max(0.0, low - pad), high + pad
    first, last = finite[0][0], finite[-1][0]

    def at(x: float, y: float) -> Point:
        across = (x - first) / ((last - first) or 1)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM),
        )

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in finite))
    parts = [*_grid(low, high, at, first, last), f'<polyline class="curve" points="{line}"/>']
    # Labels that would lie on each other are pushed apart; the lines stay where the figures are.
    label_y = -math.inf
    for name, value in sorted(marks.items(), key=lambda mark: -mark[1]):
        x0, y = at(first, value)
        label_y = max(y + 4, label_y + 15)
        parts.append(f'<line class="mark" x1="{x0:.1f}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 6}" y="{label_y:.1f}">{html.escape(name)} {value:.2f}</text>')
    label = "Training loss over steps, nat a supervised token"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
        f'<p class="note">{label}; the dashed lines are the held-out losses of base and tuned model.</p>'
    )


def _grid(low: float, high: float, place: Place, first: float, last: float) -> Iterator[str]:
    for value in _ticks(low, high, 5):
        _, y = place(first, value)
        yield f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" text-anchor="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{value:g}</text>'
    for value in _ticks(first, last, 6):
        x, _ = place(value, low)
        yield f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{_HEIGHT - 12}">{value:g}</text>'


def _ticks(low: float, high: float, at_most: int) -> list[float]:
    """Round values between `low` and `high`, at most so many: 1, 2 or 5 times a power of ten apart."""
    if high <= low:
        return [low]
    raw = (high - low) / at_most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    count = math.floor(high / step) - math.ceil(low / step) + 1
    return [round((math.ceil(low / step) + index) * step, 10) for index in range(count)]
