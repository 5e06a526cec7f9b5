"""What share of their datasheets GPUs reach in the trainer: from measurements, and nothing where there are none."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from heartbeat import memory, step_work
from heartbeat.catalog import Catalog, Instance
from heartbeat.measurements import Measurement, load
from heartbeat.scout import SCOUT

Confidence = Literal["measured", "scaled", "given", "unknown"]
"""Of a figure of time: this trainer on this GPU; by peak and bandwidth from another; the user's own; nobody's."""

LINK_SHARE = 199 / 450
"""All-gather of a layer over NVLink, measured with a prototype on 4 H200: GB/s into each GPU over the datasheet's.
Taken for PCIe too, where nothing was measured."""
HOST_SHARE = 38 / 63
"""Copies from pinned host memory to 4 H200 at once, measured with a prototype: GB/s each over the datasheet's. Where
no streamed benchmark that waits for them says otherwise."""
WAITS_FOR_COPIES = 1.15
"""A streamed step that takes this much longer than its arithmetic is taken to wait for its copies."""
WAITS_FOR_LAUNCHES = 0.8
"""A step of which launches would take this share by themselves is taken to wait for them."""
LAUNCH_SECONDS = 5e-3
"""Of the processor, to start one layer's kernels once, where no measurement says it: what those that do say is 4 to 6
(benchmarks/results, launch_seconds_per_layer). The processor is the machine's, whatever its GPU."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one GPU reaches."""

    flops_per_second: float
    memory_bytes_per_second: float
    link_bytes_per_second: float | None
    """None: unknown."""
    host_bytes_per_second: float | None
    seconds_per_launch: float
    """Of the processor, to start one layer's kernels once."""
    confidence: Confidence
    sources: tuple[str, ...]
    """Files of the measurements that they rest on."""

    def arithmetic_seconds(self, work: step_work.StepWork) -> float:
        """Of a step. Products and the traffic that does not overlap with them come one after the other."""
        memory_bytes = sum(work.memory_bytes.values())
        return sum(work.flops.values()) / self.flops_per_second + memory_bytes / self.memory_bytes_per_second

    def launch_seconds(self, work: step_work.StepWork) -> float:
        """Of the processor that starts the kernels of a step, or of a walk; the GPU waits for it where it is longer."""
        return work.launches * self.seconds_per_launch

    def movement_seconds(self, work: step_work.StepWork) -> float | None:
        """Of a step: of layers and boundaries. None where a bandwidth that it needs is unknown."""
        seconds = 0.0
        for num_bytes, rate in (
            (work.link_bytes, self.link_bytes_per_second),
            (work.host_bytes, self.host_bytes_per_second),
        ):
            if num_bytes and not rate:
                return None
            # Different ways into the GPU, used at the same time.
            seconds = max(seconds, num_bytes / rate if rate else 0.0)
        return seconds


@dataclass(frozen=True, kw_only=True)
class _Shares:
    """Of the datasheet's figures. Memory's may be above 1: part of the counted traffic stays in caches."""

    flops: float
    memory: float
    host: float | None
    are_told_apart: bool = True
    """Whether the measurements tell products from traffic; else both shares are one."""


class Calibration:
    """Rates of any GPU of a catalogue, from these measurements."""

    def __init__(self, measurements: Sequence[Measurement], catalog: Catalog) -> None:
        # Ranks that share a GPU wait for each other: what they take says nothing of a GPU.
        self._measurements = tuple(m for m in measurements if not m.shares_gpus)
        self._gpus = {instance.gpu: instance for instance in catalog}
        known = sorted({m.gpu for m in self._measurements if _has_peaks(self._gpus.get(m.gpu))})
        shares = {gpu: self._fit(gpu) for gpu in known}
        told_apart = [share for share in shares.values() if share.are_told_apart]
        self._shares = {
            gpu: self._like(gpu, _mean(told_apart), share) if told_apart and not share.are_told_apart else share
            for gpu, share in shares.items()
        }

    def rates(self, instance: Instance, mode: str) -> Rates | None:
        """What one GPU of the instance reaches in this mode; None where there is no basis to say.

        Measured: this GPU, mode and number of GPUs. Else scaled, by peak FLOP/s and bandwidths, from the same kind of
        GPU, or from all that were measured.
        """
        if not self._shares or not _has_peaks(instance):
            return None
        shares = self._shares.get(instance.gpu)
        of_gpu = [m for m in self._measurements if m.gpu == instance.gpu]
        same = [m for m in of_gpu if m.mode == mode and m.num_gpus == instance.num_gpus]
        if shares is None:
            shares = _mean(list(self._shares.values()))
        confidence: Confidence = "measured" if same else "scaled"
        sources = tuple(m.file for m in same or of_gpu or self._measurements)
        launch = self._seconds_per_launch(instance.gpu)
        return replace(_rates(instance, shares), confidence=confidence, sources=sources, seconds_per_launch=launch)

    def _seconds_per_launch(self, gpu: str) -> float:
        """As measured on machines with this GPU, or on any."""
        measured = [m for m in self._measurements if m.launch_seconds]
        found = [m.launch_seconds for m in [m for m in measured if m.gpu == gpu] or measured if m.launch_seconds]
        return statistics.median(found) if found else LAUNCH_SECONDS

    def _fit(self, gpu: str) -> _Shares:
        """The shares that make the measured steps come out with the least relative error, by least squares."""
        flops, traffic, are_told_apart = _least_squares(self._parts(gpu, _Shares(flops=1.0, memory=1.0, host=None)))
        shares = _Shares(flops=flops, memory=traffic, host=None, are_told_apart=are_told_apart)
        return replace(shares, host=self._host_share(gpu, shares))

    def _like(self, gpu: str, others: _Shares, own: _Shares) -> _Shares:
        """The shares of other GPUs, by one factor as much better or worse as this GPU's own measurements are."""
        together = [products + traffic for products, traffic in self._parts(gpu, others)]
        factor = sum(t * t for t in together) / sum(together)
        return replace(own, flops=others.flops * factor, memory=others.memory * factor)

    def _parts(self, gpu: str, shares: _Shares) -> list[tuple[float, float]]:
        """What products and traffic would take with these shares, over what each measured step took."""
        whole = [m for m in self._measurements if m.gpu == gpu]
        # A streamed step may wait for its copies, one of small micro-batches for the processor: they say what
        # arithmetic takes only where nothing else does.
        seconds_per_launch = self._seconds_per_launch(gpu)
        basis = [m for m in whole if m.mode != "streamed" and not _waits_for_launches(m, seconds_per_launch)] or whole
        rates = _rates(self._gpus[gpu], shares)
        rows = []
        for m in basis:
            work = work_of(m)
            products = sum(work.flops.values()) / rates.flops_per_second
            traffic = sum(work.memory_bytes.values()) / rates.memory_bytes_per_second
            rows.append((products / m.seconds_per_step, traffic / m.seconds_per_step))
        return rows

    def _host_share(self, gpu: str, shares: _Shares) -> float | None:
        instance, found = self._gpus[gpu], []
        for m in [m for m in self._measurements if m.gpu == gpu and m.mode == "streamed"]:
            work = work_of(m)
            arithmetic = _rates(instance, shares).arithmetic_seconds(work)
            if _waits_for_launches(m, self._seconds_per_launch(gpu)):
                continue
            if m.seconds_per_step > WAITS_FOR_COPIES * arithmetic and instance.pcie_gb_per_second:
                found.append(work.host_bytes / m.seconds_per_step / (instance.pcie_gb_per_second * 1e9))
        return statistics.median(found) if found else None


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """One measurement beside what the planner says of it, calibrated from the others."""

    measurement: Measurement
    confidence: Confidence
    predicted_seconds: float | None
    predicted_gpu_gib: float
    predicted_host_gib: float

    @property
    def seconds_error(self) -> float | None:
        """As a share: 0.1 is predicted 10% too long."""
        return self.predicted_seconds / self.measurement.seconds_per_step - 1 if self.predicted_seconds else None

    @property
    def gpu_error(self) -> float | None:
        """Of the GPU's peak memory, as a share."""
        measured = self.measurement.peak_gpu_gib
        return self.predicted_gpu_gib / measured - 1 if measured else None


def backtest(measurements: Sequence[Measurement], catalog: Catalog) -> list[Backtest]:
    """Every measurement, predicted from all others; memory rests on none of them.

    What the machine's processor takes to start kernels is taken as it was measured beside the steps, where it was.
    """
    found = []
    for m in measurements:
        others = [other for other in measurements if other is not m]
        instance = next((i for i in catalog if i.gpu == m.gpu), None)
        rates = None
        if instance is not None and not m.shares_gpus:
            link = instance.link_gb_per_second or _link_of(catalog, m.gpu)
            instance = replace(instance, num_gpus=m.num_gpus, link_gb_per_second=link)
            rates = Calibration(others, catalog).rates(instance, m.mode)
        gpu = memory.gpu_terms(SCOUT, m.job, m.work, mode=m.mode, num_gpus=m.num_gpus, layout=m.layout)
        host = memory.host_terms(SCOUT, m.work, mode=m.mode, num_gpus=m.num_gpus, layout=m.layout)
        work = work_of(m)
        movement = rates.movement_seconds(work) if rates else None
        seconds = None
        if rates and movement is not None:
            # What starting kernels takes is the machine's own matter, on that day: measured beside the steps.
            rates = replace(rates, seconds_per_launch=m.launch_seconds or rates.seconds_per_launch)
            seconds = max(rates.arithmetic_seconds(work), movement, rates.launch_seconds(work))
        found.append(
            Backtest(
                measurement=m,
                confidence=rates.confidence if rates and seconds else "unknown",
                predicted_seconds=seconds,
                # torch counts neither the context nor what fragments take.
                predicted_gpu_gib=sum(gpu.values()) - gpu["context"] - gpu["margin"],
                predicted_host_gib=sum(host.values()),
            )
        )
    return found


def work_of(measurement: Measurement) -> step_work.StepWork:
    """What the measured step had to do."""
    m = measurement
    return step_work.count(SCOUT, m.job, m.work, mode=m.mode, num_gpus=m.num_gpus, layout=m.layout)


@lru_cache(maxsize=8)
def _of(measurements: tuple[Measurement, ...], instances: tuple[Instance, ...]) -> Calibration:
    return Calibration(measurements, Catalog({instance.instance_type: instance for instance in instances}))


def stored(catalog: Catalog) -> Calibration:
    """From the stored measurements. Raises MeasurementError."""
    return _of(load(), tuple(catalog))


def _waits_for_launches(m: Measurement, seconds_per_launch: float) -> bool:
    """Whether the GPU waited for the processor, most likely: such a step does not say how fast the GPU is.

    `seconds_per_launch`: where it was not measured beside the step.
    """
    seconds = work_of(m).launches * (m.launch_seconds or seconds_per_launch)
    return seconds > WAITS_FOR_LAUNCHES * m.seconds_per_step


def _mean(shares: Sequence[_Shares]) -> _Shares:
    """Of the two that say how fast a GPU computes."""
    return _Shares(
        flops=statistics.fmean(share.flops for share in shares),
        memory=statistics.fmean(share.memory for share in shares),
        host=None,
    )


def _rates(instance: Instance, shares: _Shares) -> Rates:
    assert instance.peak_tflops is not None
    assert instance.memory_gb_per_second is not None
    link, host = instance.link_gb_per_second, instance.pcie_gb_per_second
    return Rates(
        flops_per_second=instance.peak_tflops * 1e12 * shares.flops,
        memory_bytes_per_second=instance.memory_gb_per_second * 1e9 * shares.memory,
        link_bytes_per_second=link * 1e9 * LINK_SHARE if link else None,
        host_bytes_per_second=host * 1e9 * (shares.host or HOST_SHARE) if host else None,
        seconds_per_launch=LAUNCH_SECONDS,
        confidence="unknown",
        sources=(),
    )


def _has_peaks(instance: Instance | None) -> bool:
    return bool(instance and instance.peak_tflops and instance.memory_gb_per_second)


def _link_of(catalog: Catalog, gpu: str) -> float | None:
    return next((i.link_gb_per_second for i in catalog if i.gpu == gpu and i.link_gb_per_second), None)


def _least_squares(rows: Sequence[tuple[float, float]]) -> tuple[float, float, bool]:
    """Shares (x, y) with a/x + b/y nearest to 1 over all (a, b); one share for both, and False, where the rows are too
    much alike to tell two."""
    aa, bb, ab = sum(a * a for a, _ in rows), sum(b * b for _, b in rows), sum(a * b for a, b in rows)
    a1, b1 = sum(a for a, _ in rows), sum(b for _, b in rows)
    determinant = aa * bb - ab * ab
    if determinant > 1e-6 * aa * bb:
        x, y = (a1 * bb - b1 * ab) / determinant, (b1 * aa - a1 * ab) / determinant
        if x > 0 and y > 0:
            return 1 / x, 1 / y, True
    together = [a + b for a, b in rows]
    common = sum(t * t for t in together) / sum(together)
    return common, common, False
