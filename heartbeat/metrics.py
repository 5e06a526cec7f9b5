"""The training log's `key=value` metrics: one table for the trainer that writes them and SageMaker that graphs them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure of the training log: its CloudWatch name, its unit and what it means."""

    name: str
    unit: str
    meaning: str


METRICS: Mapping[str, Metric] = {
    "step": Metric(name="train:step", unit="step", meaning="optimizer steps done"),
    "loss": Metric(name="train:loss", unit="nat/token", meaning="mean loss of a supervised token in this step"),
    "heldout_loss": Metric(name="heldout:loss", unit="nat/token", meaning="held-out loss with the adapter"),
    "base_heldout_loss": Metric(name="heldout:base_loss", unit="nat/token", meaning="held-out loss without it"),
    "learning_rate": Metric(name="train:learning_rate", unit="1", meaning="learning rate of this step"),
    "tokens_per_second": Metric(name="train:tokens_per_second", unit="token/s", meaning="speed of this step"),
    "tokens": Metric(name="train:tokens", unit="token", meaning="tokens seen so far"),
    "gpu_memory_gib": Metric(name="gpu:memory", unit="GiB", meaning="peak GPU memory so far"),
    "host_memory_gib": Metric(name="host:memory", unit="GiB", meaning="peak memory of the process so far"),
    "hours_elapsed": Metric(name="train:hours_elapsed", unit="h", meaning="time since the container started"),
    "hours_remaining": Metric(name="train:hours_remaining", unit="h", meaning="estimated time to the last step"),
    "usd_so_far": Metric(name="train:usd_so_far", unit="USD", meaning="on-demand price of the time so far"),
}


BRINGING: Mapping[str, Metric] = {
    "gb_done": Metric(name="weights:gb_done", unit="GB", meaning="of the checkpoint that are in the bucket"),
    "gb_total": Metric(name="weights:gb_total", unit="GB", meaning="of the checkpoint"),
    "mb_per_second": Metric(name="weights:mb_per_second", unit="MB/s", meaning="mean speed of this job"),
}
"""Of the job that brings base weights."""


def format_line(table: Mapping[str, Metric] = METRICS, /, **values: float) -> str:
    """The log line of these figures, in the table's order: `step=3 loss=1.234`.

    Raises KeyError for a figure that the table does not know, so that no figure is written that nothing graphs.
    """
    unknown = values.keys() - table.keys()
    if unknown:
        raise KeyError(f"not in METRICS: {', '.join(sorted(unknown))}")
    return " ".join(f"{key}={_text(values[key])}" for key in table if key in values)


def parse_line(line: str) -> dict[str, float]:
    """The figures of one log line; {} where there are none."""
    found = ((key, re.search(regex(key), line)) for key in METRICS)
    return {key: float(match[1]) for key, match in found if match}


def regex(key: str) -> str:
    """The regular expression that finds `key`'s number in a log line; group 1 is the number."""
    return rf"(?:^|\s){key}=({_NUMBER})(?=\s|$)"


def definitions(table: Mapping[str, Metric] = METRICS) -> list[dict[str, str]]:
    """MetricDefinitions of CreateTrainingJob (at most 40 are allowed)."""
    return [{"Name": metric.name, "Regex": regex(key)} for key, metric in table.items()]


def _text(value: float) -> str:
    # Whole numbers stay whole; the rest keep six digits, which is more than any graph shows.
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"
