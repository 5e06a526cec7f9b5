"""The gate on what the models said: thresholds that a user edits, and a verdict that chance does not pass.

`heartbeat.gate` judges by held-out loss alone; this judges by `heartbeat.scores`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from heartbeat.gate import Thresholds, Verdict
from heartbeat.job import SettingError
from heartbeat.scores import GENERAL
from heartbeat.toml_settings import SettingsFile
from heartbeat.turn_rules import METRICS

FILE = Path(__file__).with_name("gate.toml")
_LOSS_ALONE, _LOSS = "loss_alone", "loss"
_UNTOLD = "not enough rows"
_PARTS = ("value", "low", "high")

Outcome = Literal["met", "too few rows", "missed"]
"""Of a bound, from the best to the worst."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What one metric must reach; heartbeat/gate.toml describes the three."""

    at_least: float | None = None
    min_gain: float | None = None
    required: bool = True


Bounds = Mapping[str, Bound]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """A gate file: the bounds by metric, those of the loss, and whether a run that asks for no answers may pass by its
    loss alone."""

    bounds: Bounds
    loss: Thresholds = field(default_factory=Thresholds)
    loss_alone: bool = False


class Finding(NamedTuple):
    """One side of a bound, held against the scores."""

    outcome: Outcome
    fails: bool
    reason: str


def load(path: Path = FILE) -> Rules:
    """The rules in a file. Raises SettingError that names the file, the setting and the fix."""
    return read(path.read_text(encoding="utf-8"), path.name)


def read(text: str, name: str = FILE.name) -> Rules:
    """The same of a file's text; `name` is what messages call it."""
    file = SettingsFile(name, text)
    file.check(file.table, (_LOSS_ALONE, _LOSS, *METRICS, GENERAL))
    loss_alone = file.table.get(_LOSS_ALONE, False)
    if not isinstance(loss_alone, bool):
        raise file.error(_LOSS_ALONE, loss_alone, "write true or false")
    tables = file.tables(besides=(_LOSS_ALONE,))
    found = {metric: _bound(file, metric, table) for metric, table in tables.items() if metric != _LOSS}
    if not any(bound.required for bound in found.values()):
        raise file.error("required", False, "leave one metric required: a gate that demands nothing passes anything")
    return Rules(bounds=found, loss=_thresholds(file, tables.get(_LOSS, {})), loss_alone=loss_alone)


def verdict(scores: Mapping[str, Any], rules: Rules | None = None) -> Verdict:
    """Judges Scores.to_dict() (or scores.unscored), by the default rules where none are given.

    Never raises for scores of another form: what is missing or no number fails, with a reason. The reasons of a
    failed verdict are what failed it; of a passed one, what passed and what could not be told.
    """
    rules = rules or load()
    if "unscored" in scores:
        return _unscored(scores, rules)
    failures: list[str] = []
    notes: list[str] = []
    figures: dict[str, float | None] = {}
    for name, bound in rules.bounds.items():
        metric = _metric(scores, name)
        for finding in _judged(name, metric, bound):
            (failures if finding.fails else notes).append(finding.reason)
        for part in ("base", "tuned", "difference"):
            estimate = _estimate(metric, part)
            figures[f"{name}_{part}"] = estimate[0] if estimate else None
    return Verdict(passed=not failures, reasons=tuple(failures or notes), figures=figures)


def table(scores: Mapping[str, Any], rules: Rules | None = None) -> list[dict[str, Any]]:
    """One row for each metric that is judged: figures, bounds, and the worse of their outcomes. As JSON holds it."""
    if "unscored" in scores:
        return []
    rows = []
    for name, bound in (rules or load()).bounds.items():
        metric, worst = _metric(scores, name), -1
        for finding in _judged(name, metric, bound):
            worst = max(worst, get_args(Outcome).index(finding.outcome))
        estimates = {part: _estimate(metric, part) for part in ("base", "tuned", "difference")}
        rows.append(
            {
                "metric": name,
                "turns": metric.get("turns"),
                "conversations": metric.get("conversations"),
                **{part: dict(zip(_PARTS, found, strict=True)) if found else None for part, found in estimates.items()},
                **asdict(bound),
                "outcome": get_args(Outcome)[worst],
            }
        )
    return rows


def _unscored(scores: Mapping[str, Any], rules: Rules) -> Verdict:
    why = str(scores["unscored"])
    if scores.get("turned_off") is not True:
        return Verdict(passed=False, reasons=(f"no answers were scored: {why}",))
    if rules.loss_alone:
        return Verdict(passed=True, reasons=(f"judged by the held-out loss alone, as the gate file allows: {why}",))
    fix = f"set EVAL_GENERATE_ROWS above 0, or {_LOSS_ALONE} = true in the gate file to judge by the loss alone"
    return Verdict(passed=False, reasons=(f"no answers were scored: {why}; {fix}",))


def _metric(scores: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    metrics = scores.get("metrics")
    metric = metrics.get(name) if isinstance(metrics, Mapping) else None
    return metric if isinstance(metric, Mapping) else {}


def _judged(name: str, metric: Mapping[str, Any], bound: Bound) -> Iterator[Finding]:
    """Each of the bound's sides."""
    turns = metric.get("turns")
    if not isinstance(turns, int) or isinstance(turns, bool) or turns < 0:
        yield Finding("missed", True, f"{name} is missing from the scores")
        return
    if turns == 0:
        fix = "the general probe set was not asked" if name == GENERAL else "no held-out row tests it; add rows that do"
        yield Finding("too few rows", bound.required, f"{name}: {_UNTOLD} ({fix})")
        return
    for part, what, least in (("tuned", name, bound.at_least), ("difference", f"{name} against base", bound.min_gain)):
        if least is None:
            continue
        estimate = _estimate(metric, part)
        if estimate is None:
            yield Finding("missed", True, f"{what} is no number in the scores")
            continue
        value, low, high = estimate
        sign = "+" if part == "difference" else ""
        shown = (
            f"{value:{sign}.2f} (95% interval {low:{sign}.2f} to {high:{sign}.2f}, {turns} turns in "
            f"{metric.get('conversations')} conversations)"
        )
        if low >= least:
            yield Finding("met", False, f"{what} {shown}, needs {least:g}")
        elif high < least:
            yield Finding("missed", True, f"{what} {shown} is below {least:g}")
        else:
            fix = "add held-out rows, or lower the bound"
            untold = f"{what} {shown}: {_UNTOLD} to tell it from the {least:g} that it needs; {fix}"
            yield Finding("too few rows", bound.required, untold)


def _estimate(metric: Mapping[str, Any], part: str) -> tuple[float, float, float] | None:
    found = metric.get(part)
    if not isinstance(found, Mapping):
        return None
    numbers = [found.get(name) for name in _PARTS]
    if any(isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one) for one in numbers):
        return None
    value, low, high = (float(one) for one in numbers if one is not None)
    return (value, low, high) if low <= value <= high else None


def _bound(file: SettingsFile, metric: str, table: Mapping[str, Any]) -> Bound:
    file.check(table, ("at_least", "min_gain", "required"), metric)
    if "at_least" not in table and "min_gain" not in table:
        raise file.error(metric, table, "give it at_least or min_gain, or drop the table")
    at_least = _number(file, f"{metric}.at_least", table.get("at_least"), 0, "write a share such as 0.8, under 1")
    min_gain = _number(file, f"{metric}.min_gain", table.get("min_gain"), -1, "write a difference such as -0.1")
    required = table.get("required", True)
    if not isinstance(required, bool):
        raise file.error(f"{metric}.required", required, "write true or false")
    if metric == GENERAL and at_least is not None and min_gain is None:
        raise file.error(f"{metric}.at_least", at_least, "give min_gain: the general set is there to see a fall")
    return Bound(at_least=at_least, min_gain=min_gain, required=required)


def _thresholds(file: SettingsFile, table: Mapping[str, Any]) -> Thresholds:
    file.check(table, [one.name for one in fields(Thresholds)], _LOSS)
    for name, value in table.items():
        kind, fix = ((int, float), "a number") if name == "max_ratio" else (int, "a whole number")
        if isinstance(value, bool) or not isinstance(value, kind):
            raise file.error(f"{_LOSS}.{name}", value, f"write {fix}")
    try:
        return Thresholds(**table)
    except ValueError as error:
        raise SettingError(f"{file.name}: {_LOSS}.{error}") from None


def _number(file: SettingsFile, at: str, value: Any, least: float, fix: str) -> float | None:
    if value is None:
        return None
    # No interval reaches 1: that all turns are right can be found, never be shown of those to come.
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1:
        raise file.error(at, value, fix)
    return float(value)
