"""Steps of the trainer that were measured on GPUs: what `benchmarks/scout_step.py` printed, one file each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from heartbeat.job import FineTuneJob
from heartbeat.memory import Layout
from heartbeat.scout import SCOUT
from heartbeat.workload import Workload

_HERE = Path(__file__).resolve().parent
_FOLDERS = (_HERE / "measured", _HERE.parent / "benchmarks" / "results")
"""Where a bundle has them (`stacks.bundling`), and where the repository has them."""
CITED_AS = "benchmarks/results"
CHAT_TOKENS = 600
"""Mean tokens of a conversation in a benchmark with `--lengths chat`."""

DEVICES: Mapping[str, str] = {
    "A100-SXM4-40GB": "A100-40GB",
    "A100-SXM4-80GB": "A100-80GB",
    "V100-SXM2-16GB": "V100-16GB",
    "A10G": "A10G",
    "L40S": "L40S",
    "L4": "L4",
    "RTX PRO 6000": "RTX-PRO-6000",
    "H100 80GB": "H100-80GB",
    "H200": "H200-141GB",
}
"""Part of the name that a driver gives a GPU -> its name in the catalogue; the first that is part of it counts."""


class MeasurementError(ValueError):
    """A file of results that cannot be read; the message names the file and what is wrong."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One step of the whole of Scout, with NF4 weights."""

    file: str
    """As it is cited."""
    gpu: str
    """As the catalogue names it."""
    num_gpus: int
    mode: str
    job: FineTuneJob
    work: Workload
    layout: Layout
    seconds_per_step: float
    peak_gpu_gib: float | None
    """Most that was allocated on a GPU, without CUDA's context."""
    peak_host_gib: float | None
    """Of one process."""
    launch_seconds: float | None
    """Of the processor, to start the kernels of one layer once; None where that was not measured."""
    shares_gpus: bool
    """Whether ranks shared GPUs, to stand for more of them: its time then says nothing."""
    date: str
    code_version: str


def load() -> tuple[Measurement, ...]:
    """All stored measurements that a plan can rest on, by file name. Raises MeasurementError."""
    return _load(next((folder for folder in _FOLDERS if folder.is_dir()), None))


@lru_cache(maxsize=4)
def _load(folder: Path | None) -> tuple[Measurement, ...]:
    return read(folder) if folder else ()


def read(folder: Path) -> tuple[Measurement, ...]:
    """The measurements of a folder. Raises MeasurementError.

    Left out: other than the whole model, CPUs, and runs with `--dequantise-each-time`, which the trainer does not use.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            measurement = _measurement(f"{CITED_AS}/{path.name}", values)
        except (ValueError, TypeError, KeyError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise MeasurementError(
                f"{path}: {what}; keep only what `python -m benchmarks.scout_step --save` writes"
            ) from None
        if measurement is not None:
            found.append(measurement)
    return tuple(found)


def catalogue_name(device_name: str) -> str | None:
    """Of a GPU by its driver's name; None for one that the catalogue lacks."""
    return next((name for part, name in DEVICES.items() if part in device_name), None)


def _measurement(file: str, values: Mapping[str, Any]) -> Measurement | None:
    settings = values["settings"]
    if values["gpu"] == "CPU" or settings["tiny"] or settings["dequantise_each_time"]:
        return None
    if settings["layers"] not in (None, SCOUT.num_layers):
        return None
    gpu = catalogue_name(values["gpu"])
    if gpu is None:
        raise ValueError(f"gpu={values['gpu']!r} is none of {', '.join(DEVICES)}")
    if not values["seconds_per_step"] > 0:
        raise ValueError(f"seconds_per_step={values['seconds_per_step']!r} must be above 0")
    batch, length, num_gpus = settings["batch"], settings["max_length"], values["num_gpus"]
    tokens_per_row = float(min(length, CHAT_TOKENS if settings["lengths"] == "chat" else length))
    job = FineTuneJob(
        per_device_batch_size=batch,
        gradient_accumulation_steps=settings["micro_batches"] * num_gpus,
        max_length=length,
        lora_r=settings["lora_r"],
        lora_targets=tuple(settings["lora_targets"].split(",")),
    )
    rows = values["tokens_per_step"] / tokens_per_row
    return Measurement(
        file=file,
        gpu=gpu,
        num_gpus=num_gpus,
        mode=values["mode"],
        job=job,
        work=Workload(
            training_rows=round(rows),
            heldout_rows=0,
            tokens_per_row=values["tokens_per_step"] / max(1, round(rows)),
            step_rows=max(1, round(rows)),
            micro_batch_tokens=batch * length,
            max_length=length,
            max_steps=job.max_steps,
            supervised_share=values["supervised_share"],
            counted_micro_batches=values["micro_batches_per_gpu"],
        ),
        layout=Layout(boundaries=settings["boundaries"], group_size=settings["group"]),
        seconds_per_step=values["seconds_per_step"],
        peak_gpu_gib=values["peak_gpu_gib"],
        peak_host_gib=values["peak_host_gib"],
        launch_seconds=values.get("launch_seconds_per_layer"),
        shares_gpus=settings.get("ranks_per_gpu", 1) > 1,
        date=values["date"],
        code_version=values["code_version"],
    )
