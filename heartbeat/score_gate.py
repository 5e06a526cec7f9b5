"""The gate on what the models said: thresholds that a user edits, and a verdict that chance does not pass.

`heartbeat.gate` judges by held-out loss alone; this judges by `heartbeat.scores`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heartbeat.gate import Verdict
from heartbeat.scores import GENERAL
from heartbeat.toml_settings import SettingsFile
from heartbeat.turn_rules import METRICS

FILE = Path(__file__).with_name("gate.toml")
_MISSED = "is below"
_UNTOLD = "not enough rows"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What one metric must reach; heartbeat/gate.toml describes the three."""

    at_least: float | None = None
    min_gain: float | None = None
    required: bool = True


Bounds = Mapping[str, Bound]


def load(path: Path = FILE) -> Bounds:
    """The bounds in a file, by metric. Raises SettingError that names the file, the setting and the fix."""
    return read(path.read_text(encoding="utf-8"), path.name)


def read(text: str, name: str = FILE.name) -> Bounds:
    """The same of a file's text; `name` is what messages call it."""
    file = SettingsFile(name, text)
    file.check(file.table, (*METRICS, GENERAL))
    found = {metric: _bound(file, metric, table) for metric, table in file.tables().items()}
    if not any(bound.required for bound in found.values()):
        raise file.error("required", False, "leave one metric required: a gate that demands nothing passes anything")
    return found


def verdict(scores: Mapping[str, Any], bounds: Bounds | None = None) -> Verdict:
    """Judges Scores.to_dict(), by the default bounds where none are given.

    Never raises for scores of another form: what is missing or no number fails, with a reason. The reasons of a
    failed verdict are what failed it; of a passed one, what passed and what could not be told.
    """
    metrics = scores.get("metrics")
    metrics = metrics if isinstance(metrics, Mapping) else {}
    failures: list[str] = []
    notes: list[str] = []
    figures: dict[str, float | None] = {}
    for name, bound in (load() if bounds is None else bounds).items():
        metric = metrics.get(name)
        metric = metric if isinstance(metric, Mapping) else {}
        for fails, reason in _judged(name, metric, bound):
            (failures if fails else notes).append(reason)
        for part in ("base", "tuned", "difference"):
            estimate = _estimate(metric, part)
            figures[f"{name}_{part}"] = estimate[0] if estimate else None
    return Verdict(passed=not failures, reasons=tuple(failures or notes), figures=figures)


def _judged(name: str, metric: Mapping[str, Any], bound: Bound) -> Iterator[tuple[bool, str]]:
    """Whether it fails the verdict and why, for each of the bound's sides."""
    turns = metric.get("turns")
    if not isinstance(turns, int) or isinstance(turns, bool) or turns < 0:
        yield True, f"{name} is missing from the scores"
        return
    if turns == 0:
        fix = "the general probe set was not asked" if name == GENERAL else "no held-out row tests it; add rows that do"
        yield bound.required, f"{name}: {_UNTOLD} ({fix})"
        return
    for part, what, least in (("tuned", name, bound.at_least), ("difference", f"{name} against base", bound.min_gain)):
        if least is None:
            continue
        estimate = _estimate(metric, part)
        if estimate is None:
            yield True, f"{what} is no number in the scores"
            continue
        value, low, high = estimate
        sign = "+" if part == "difference" else ""
        shown = (
            f"{value:{sign}.2f} (95% interval {low:{sign}.2f} to {high:{sign}.2f}, {turns} turns in "
            f"{metric.get('conversations')} conversations)"
        )
        if low >= least:
            yield False, f"{what} {shown}, needs {least:g}"
        elif high < least:
            yield True, f"{what} {shown} {_MISSED} {least:g}"
        else:
            fix = "add held-out rows, or lower the bound"
            yield bound.required, f"{what} {shown}: {_UNTOLD} to tell it from the {least:g} that it needs; {fix}"


def _estimate(metric: Mapping[str, Any], part: str) -> tuple[float, float, float] | None:
    found = metric.get(part)
    if not isinstance(found, Mapping):
        return None
    numbers = [found.get(name) for name in ("value", "low", "high")]
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


def _number(file: SettingsFile, at: str, value: Any, least: float, fix: str) -> float | None:
    if value is None:
        return None
    # No interval reaches 1: that all turns are right can be found, never be shown of those to come.
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1:
        raise file.error(at, value, fix)
    return float(value)
