"""Charts as SVG text: no library, since a Lambda draws them, and no script, since a page shows them."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
Place = Callable[[float, float], Point]
"""From a figure's (x, y) to pixels."""

_WIDTH, _HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 150, 14, 34
_SMOOTHED = 60
"""Steps from which on a curve is smoothed, over more the more there are."""


def loss_curve(points: Sequence[Point], marks: Mapping[str, float]) -> str:
    """An SVG of training loss over steps, with a labelled level for each of `marks` (held-out losses).

    `points` are (step, nat a token); at least two. Where there are many, the line is their running mean and they are
    drawn behind it. Colours come from the page's CSS (classes curve, steps, mark, axis).
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

    def line(name: str, through: Sequence[Point]) -> str:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in through))
        return f'<polyline class="{name}" points="{places}"/>'

    reach = len(finite) // _SMOOTHED
    parts = [*_grid(low, high, at, first, last)]
    parts += [line("steps", finite)] if reach else []
    parts.append(line("curve", _running_mean(finite, reach)))
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
        f'<p class="note">{label}{f" (mean of {2 * reach + 1})" if reach else ""}; the dashed lines are the held-out '
        "losses of base and tuned model.</p>"
    )


def _running_mean(points: Sequence[Point], reach: int) -> list[Point]:
    """Each with the mean of those up to `reach` places away on both sides, of fewer at the ends."""
    sums = [0.0, *itertools.accumulate(y for _, y in points)]
    found = []
    for place, (x, _) in enumerate(points):
        around = min(reach, place, len(points) - 1 - place)
        found.append((x, (sums[place + around + 1] - sums[place - around]) / (2 * around + 1)))
    return found


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


# --- hours against dollars


@dataclass(frozen=True, kw_only=True)
class Run:
    """An instance on the chart of a plan."""

    name: str
    detail: str
    """A few words below the name."""
    hours: float
    usd: float
    hours_low: float
    hours_high: float
    fits: bool
    chosen: bool = False


_PLAN_WIDTH, _PLAN_HEIGHT = 960, 560
_PLAN_LEFT, _PLAN_RIGHT, _PLAN_TOP, _PLAN_BOTTOM = 72, 40, 96, 64
_LABEL_HEIGHT = 27
_MOST_ABSENT = 4
_FAR = 5
"""A budget of more than this many times the dearest run would press all of them together."""
_STYLE = """
text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2933}
.title{font-size:19px;font-weight:650}.sub,.tick,.axis-name,.detail{fill:#616e7c}.detail{font-size:11px}
.name,.detail{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}
.name{font-weight:600}.chosen .name{fill:#0b6e4f}.no .name,.no .detail{fill:#7b8794;font-weight:400}
.grid{stroke:#e4e7eb}.frame{fill:#fff}.range{stroke:#0b6e4f;stroke-width:4;stroke-linecap:round;opacity:.13}
.yes circle{fill:#2f9e74;stroke:#fff;stroke-width:1.5}.chosen circle.dot{fill:#0b6e4f}
.chosen circle.ring{fill:none;stroke:#0b6e4f;stroke-width:2}.no circle{fill:#fff;stroke:#b8c1cc;stroke-width:1.75}
.no .range{stroke:#9aa5b1;opacity:.16}.lead{stroke:#cbd2d9}.limit{stroke:#c2410c;stroke-width:1.5;stroke-dasharray:6 4}
.limit-name{fill:#c2410c;font-weight:600}.beyond{fill:#c2410c;opacity:.05}
"""


def hours_and_dollars(
    runs: Sequence[Run],
    *,
    title: str,
    subtitle: str,
    limit_hours: float,
    budget_usd: float | None,
    absent: Sequence[str] = (),
) -> str:
    """A whole SVG: each run's hours across and dollars up, both logarithmic, with the clock and the budget.

    Filled points can be run, hollow ones cannot; a point's band is its range. At least one run, all above 0. A budget
    far above all of them is only named. `absent`: what has no place here, and why.
    """
    across = _log_scale([r.hours_low for r in runs] + [r.hours_high for r in runs] + [limit_hours])
    dollars = [r.usd / r.hours * hours for r in runs for hours in (r.hours_low, r.hours, r.hours_high)]
    is_far = budget_usd is not None and budget_usd > _FAR * max(dollars)
    up = _log_scale([*dollars, budget_usd] if budget_usd and not is_far else dollars)
    right, bottom = _PLAN_WIDTH - _PLAN_RIGHT, _PLAN_HEIGHT - _PLAN_BOTTOM

    def x(hours: float) -> float:
        return _PLAN_LEFT + across(hours) * (right - _PLAN_LEFT)

    def y(usd: float) -> float:
        return bottom - up(usd) * (bottom - _PLAN_TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_PLAN_WIDTH} {_PLAN_HEIGHT}" '
        f'width="{_PLAN_WIDTH}" height="{_PLAN_HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="frame" width="{_PLAN_WIDTH}" height="{_PLAN_HEIGHT}"/>',
        f'<text class="title" x="{_PLAN_LEFT}" y="36">{html.escape(title)}</text>',
        f'<text class="sub" x="{_PLAN_LEFT}" y="58">{html.escape(subtitle)}</text>',
    ]
    if absent:
        more = f" and {len(absent) - _MOST_ABSENT} more" if len(absent) > _MOST_ABSENT else ""
        words = f"not here: {', '.join(absent[:_MOST_ABSENT])}{more}"
        parts.append(f'<text class="sub" x="{_PLAN_LEFT}" y="{_PLAN_HEIGHT - 28}">{html.escape(words)}</text>')
    for tick in _log_ticks(across):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_PLAN_TOP}" y2="{bottom}"/>')
        words = f"{tick:g} h" if tick >= 1 else f"{tick * 60:.0f} min"
        parts.append(f'<text class="tick" text-anchor="middle" x="{x(tick):.1f}" y="{bottom + 20}">{words}</text>')
    for tick in _log_ticks(up):
        parts.append(f'<line class="grid" x1="{_PLAN_LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(
            f'<text class="tick" text-anchor="end" x="{_PLAN_LEFT - 10}" y="{y(tick) + 4:.1f}">${tick:,g}</text>'
        )
    edge, height = x(limit_hours), bottom - _PLAN_TOP
    parts.append(
        f'<rect class="beyond" x="{edge:.1f}" y="{_PLAN_TOP}" width="{right - edge:.1f}" height="{height}"/>'
        f'<line class="limit" x1="{edge:.1f}" x2="{edge:.1f}" y1="{_PLAN_TOP - 8}" y2="{bottom}"/>'
        f'<text class="limit-name" text-anchor="end" x="{edge - 6:.1f}" y="{_PLAN_TOP + 2}">'
        f"stops at {limit_hours:g} h</text>"
    )
    if budget_usd and is_far:
        parts.append(
            f'<text class="limit-name" x="{_PLAN_LEFT + 6}" y="{_PLAN_TOP + 16}">'
            f"budget ${budget_usd:,g}, above this chart</text>"
        )
    elif budget_usd:
        level = y(budget_usd)
        parts.append(
            f'<rect class="beyond" x="{_PLAN_LEFT}" y="{_PLAN_TOP}" width="{right - _PLAN_LEFT}" '
            f'height="{level - _PLAN_TOP:.1f}"/>'
            f'<line class="limit" x1="{_PLAN_LEFT}" x2="{right}" y1="{level:.1f}" y2="{level:.1f}"/>'
            f'<text class="limit-name" x="{_PLAN_LEFT + 6}" y="{level - 6:.1f}">budget ${budget_usd:,g}</text>'
        )
    placed = _place_labels([(x(r.hours), y(r.usd), _label_width(r)) for r in runs])
    for run, (left, top) in zip(runs, placed, strict=True):
        kind = "no" if not run.fits else "yes chosen" if run.chosen else "yes"
        px, py = x(run.hours), y(run.usd)
        rate = run.usd / run.hours
        parts.append(f'<g class="{kind}">')
        if run.hours_high > run.hours_low:
            parts.append(
                f'<line class="range" x1="{x(run.hours_low):.1f}" y1="{y(run.hours_low * rate):.1f}" '
                f'x2="{x(run.hours_high):.1f}" y2="{y(run.hours_high * rate):.1f}"/>'
            )
        end = left - 3 if left > px else left + _label_width(run) + 1
        if math.hypot(end - px, top + 9 - py) > 16:
            parts.append(f'<line class="lead" x1="{px:.1f}" y1="{py:.1f}" x2="{end:.1f}" y2="{top + 9:.1f}"/>')
        if run.chosen:
            parts.append(f'<circle class="ring" cx="{px:.1f}" cy="{py:.1f}" r="10"/>')
        parts.append(
            f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="6"/>'
            f'<text class="name" x="{left:.1f}" y="{top + 11:.1f}">{html.escape(run.name)}</text>'
            f'<text class="detail" x="{left:.1f}" y="{top + 24:.1f}">{html.escape(run.detail)}</text></g>'
        )
    parts.append(
        f'<text class="axis-name" text-anchor="end" x="{right}" y="{_PLAN_HEIGHT - 14}">'
        "hours from start to end; the band is the range, a hollow point cannot run it</text>"
        f'<text class="axis-name" x="{_PLAN_LEFT - 48}" y="{_PLAN_TOP - 14}">dollars, on demand</text></svg>'
    )
    return "".join(parts) + "\n"


def _label_width(run: Run) -> float:
    return max(len(run.name) * 7.2, len(run.detail) * 5.7)


@dataclass(frozen=True)
class _LogScale:
    low: float
    high: float

    def __call__(self, value: float) -> float:
        return math.log(value / self.low) / math.log(self.high / self.low)


def _log_scale(values: Sequence[float]) -> _LogScale:
    low, high = min(values), max(values)
    return _LogScale(low / 1.35, max(high, 1.5 * low) * 1.35)


def _log_ticks(scale: _LogScale) -> list[float]:
    """1, 2 and 5 times powers of ten; of hours below one, minutes as clocks have them."""
    first = math.floor(math.log10(scale.low))
    every = [factor * 10.0**power for power in range(first, first + 8) for factor in (1, 2, 5)]
    return [tick for tick in every if scale.low <= tick <= scale.high]


def _place_labels(points: Sequence[tuple[float, float, float]]) -> list[Point]:
    """Where each label's upper left corner goes, for (x, y, width): beside its point, on no other label."""
    taken = [(x - 13, y - 13, x + 13, y + 13) for x, y, _ in points]
    placed: list[Point] = []
    right, bottom = _PLAN_WIDTH - 6, _PLAN_HEIGHT - _PLAN_BOTTOM
    for x, y, width in points:
        places = [
            (x + side * (gap + (0 if side > 0 else width)), y - _LABEL_HEIGHT / 2 + shift)
            for gap in (14, 28)
            for shift in (0, -14, 14, -28, 28, -42, 42, -56, 56, -84, 84)
            for side in (1, -1)
        ]
        free = (
            (left, top)
            for left, top in places
            if _PLAN_LEFT < left < right - width
            and _PLAN_TOP < top < bottom - _LABEL_HEIGHT
            and not any(
                left < x1 and x0 < left + width and top < y1 and y0 < top + _LABEL_HEIGHT for x0, y0, x1, y1 in taken
            )
        )
        left, top = next(free, places[0])
        taken.append((left, top, left + width, top + _LABEL_HEIGHT))
        placed.append((left, top))
    return placed
