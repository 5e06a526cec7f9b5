"""One run on one instance: what it needs, how long it takes, what it costs, and what stands in its way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from heartbeat import memory, timing
from heartbeat.calibration import Calibration, Confidence
from heartbeat.catalog import Catalog, Instance
from heartbeat.dataset import DatasetStats
from heartbeat.durations import about
from heartbeat.job import MAX_RUNTIME_LIMIT_SECONDS, FineTuneJob
from heartbeat.scout import ModelShape
from heartbeat.timing import SCALED_MARK, Asking, Assumed, Timing
from heartbeat.workload import Workload

MODES = ("resident", "sharded", "streamed")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run on one instance in one mode. None is unknown, or means nothing: what cannot be there takes no time."""

    instance_type: str
    gpu: str
    num_gpus: int
    mode: str
    gpu_memory_needed_gib: float
    """On each GPU."""
    gpu_memory_gib: float
    host_memory_needed_gib: float
    host_memory_gib: float
    memory_gib: Mapping[str, float]
    """The terms of `gpu_memory_needed_gib`."""
    host_terms_gib: Mapping[str, float]
    """The terms of `host_memory_needed_gib`."""
    micro_batch_tokens: int
    """Most that a GPU has in work at once."""
    micro_batches: int
    """Of a step, on each GPU."""
    packing_efficiency: float | None
    """Share of those micro-batches that a typical step's conversations fill; None: lengths are not known."""
    seconds: Mapping[str, float]
    """The terms of `hours`; empty where they are unknown."""
    assumed: tuple[str, ...]
    """Those of `seconds` that rest on no measurement (`timing.Assumed`)."""
    step_seconds: Mapping[str, float]
    """What a step is made of; it takes the longest."""
    step_flops: Mapping[str, float]
    """Of one GPU in a step, by part of the model."""
    step_bytes: Mapping[str, float]
    """The same: what it moves in its own memory, and what comes from other GPUs and from the host."""
    asking: Asking | None
    """Of base and tuned model for their answers; None where unknown, or nothing is asked."""
    seconds_per_step: float | None
    hours: float | None
    hours_low: float | None
    hours_high: float | None
    usd_per_hour: float | None
    usd_on_demand: float | None
    usd_spot: float | None
    price_note: str
    price_is_old: bool
    confidence: Confidence
    sources: tuple[str, ...]
    """Measurements that the seconds rest on."""
    quota: int | None
    """Training jobs that the account may run on it at a time; None: not checked."""
    max_runtime_seconds: int
    """Where the job is stopped: the clock, or what the budget pays for, whichever comes first."""
    steps_in_time: int | None
    """Steps that end before it."""
    can_be: bool
    """Whether memory, the GPU and their number allow it. Where not, nothing is said of its seconds and dollars."""
    problems: tuple[str, ...]
    """Why it cannot be; empty where it can."""

    @property
    def guess(self) -> str:
        """What a figure of its time or dollars is marked with."""
        return SCALED_MARK if self.confidence == "scaled" else ""

    @property
    def assumed_seconds(self) -> float:
        """The part of the run that rests on no measurement, whatever its steps do."""
        return sum(self.seconds[name] for name in self.assumed)

    @property
    def memory_shortage(self) -> float:
        """By how much GPU and host memory fall short, as shares of what there is; 0 where both are enough."""
        gpu = self.gpu_memory_needed_gib / self.gpu_memory_gib - 1
        host = self.host_memory_needed_gib / (self.host_memory_gib * memory.USABLE_HOST_SHARE) - 1
        return max(gpu, 0.0) + max(host, 0.0)

    def summary(self) -> str:
        """`ml.p5.4xlarge: 7.1 h, $56`; `ml.p4d.24xlarge: ~2.3 h, ~$59` where it is scaled."""
        hours = "unknown time" if self.hours is None else self.guess + about(self.hours * 3600)
        usd = "unknown price" if self.usd_on_demand is None else self.guess + whole_dollars(self.usd_on_demand)
        return f"{self.instance_type}: {hours}, {usd}{' at an old price' if self.price_is_old else ''}"


def whole_dollars(usd: float) -> str:
    """`$1,170`, and cents where a dollar is much: `$0.42`."""
    return f"${usd:,.0f}" if usd >= 10 else f"${usd:,.2f}"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of the planner, in one piece, so that it can ask itself about a change."""

    shape: ModelShape
    stats: DatasetStats
    job: FineTuneJob
    catalog: Catalog
    max_runtime_seconds: int
    budget_usd: float | None
    spot_usd_per_hour: Mapping[str, float]
    tokens_per_second: Mapping[str, float]
    """The user's own rates, of a whole instance."""
    quotas: Mapping[str, int] | None
    calibration: Calibration
    assumed: Assumed
    today: date

    @property
    def work(self) -> Workload:
        return Workload.of(self.job, self.stats)

    def best(self, instance: Instance) -> Candidate:
        """The fastest mode that fits, or the one that comes nearest to it."""
        return min(
            self.candidates(instance),
            key=lambda c: (bool(c.problems), c.memory_shortage, len(c.problems), c.hours is None, c.hours or 0.0),
        )

    def candidates(self, instance: Instance) -> list[Candidate]:
        wanted = MODES if self.job.mode == "auto" else (self.job.mode,)
        modes = [mode for mode in wanted if mode != "sharded" or instance.num_gpus > 1]
        # A job that insists on sharding is told so, on one GPU too.
        return [_candidate(self, instance, mode) for mode in modes or wanted]


def _candidate(request: Request, instance: Instance, mode: str) -> Candidate:
    shape, job = request.shape, request.job
    fit = memory.fit(
        shape,
        job,
        request.work,
        mode=mode,
        num_gpus=instance.num_gpus,
        gpu_gib=instance.gpu_memory_gib,
        host_gib=instance.host_memory_gib * memory.USABLE_HOST_SHARE,
    )
    gpu, host = fit.gpu, fit.host
    cannot_be = _cannot_be(instance, mode, sum(gpu.values()), sum(host.values()))
    # Seconds of what cannot be there would be a guess dressed as a number.
    time = (
        None
        if cannot_be
        else timing.estimate(
            shape,
            job,
            fit.work,
            instance,
            mode,
            request.calibration,
            layout=fit.layout,
            tokens_per_second=request.tokens_per_second.get(instance.instance_type),
            assumed=request.assumed,
        )
    )
    quota = None if request.quotas is None else request.quotas.get(instance.instance_type, 0)
    price, spot = instance.usd_per_hour, request.spot_usd_per_hour.get(instance.instance_type)
    clock = float(request.max_runtime_seconds)
    if request.budget_usd is not None and price:
        clock = min(clock, request.budget_usd / price * 3600)
    hours = time.total / 3600 if time else None
    return Candidate(
        instance_type=instance.instance_type,
        gpu=instance.gpu,
        num_gpus=instance.num_gpus,
        mode=mode,
        gpu_memory_needed_gib=sum(gpu.values()),
        gpu_memory_gib=instance.gpu_memory_gib,
        host_memory_needed_gib=sum(host.values()),
        host_memory_gib=instance.host_memory_gib,
        memory_gib=gpu,
        host_terms_gib=host,
        micro_batch_tokens=fit.work.micro_batch_tokens,
        micro_batches=fit.work.micro_batches_per_gpu(instance.num_gpus),
        packing_efficiency=fit.work.packing_efficiency(instance.num_gpus),
        seconds=time.run if time else {},
        assumed=time.assumed if time else (),
        step_seconds=time.step if time else {},
        step_flops=time.work.flops if time else {},
        step_bytes=time.work.bytes if time else {},
        asking=time.asking if time else None,
        seconds_per_step=time.seconds_per_step if time else None,
        hours=hours,
        hours_low=time.low / 3600 if time else None,
        hours_high=time.high / 3600 if time else None,
        usd_per_hour=price,
        usd_on_demand=hours * price if hours is not None and price is not None else None,
        usd_spot=hours * spot if hours is not None and spot is not None else None,
        price_note=instance.price_note(request.today),
        price_is_old=price is not None and instance.price_is_old(request.today),
        confidence=time.confidence if time else "unknown",
        sources=time.sources if time else (),
        quota=quota,
        max_runtime_seconds=max(math.floor(clock), 1),
        steps_in_time=time.steps_within(clock) if time else None,
        can_be=not cannot_be,
        problems=tuple(cannot_be or _refused(request, instance, time, quota)),
    )


def _cannot_be(instance: Instance, mode: str, gpu_gib: float, host_gib: float) -> list[str]:
    """What no clock, budget or quota changes: the GPU, how many of them there are, and memory."""
    if not instance.bf16:
        return [f"has GPUs ({instance.gpu}) that do not compute in bf16, which the trainer needs"]
    found = []
    if mode == "sharded" and instance.num_gpus == 1:
        found.append("MODE=sharded needs several GPUs, and this has 1")
    if gpu_gib > instance.gpu_memory_gib:
        over = gpu_gib - instance.gpu_memory_gib
        found.append(f"needs {gpu_gib:.1f} GiB on each GPU, {over:.1f} more than its {instance.gpu_memory_gib:.1f}")
    host = instance.host_memory_gib * memory.USABLE_HOST_SHARE
    if host_gib > host:
        found.append(f"needs {host_gib:.0f} GiB of host memory, {host_gib - host:.0f} more than {host:.0f} usable")
    return found


def _refused(request: Request, instance: Instance, time: Timing | None, quota: int | None) -> list[str]:
    """What stands in the way of a run that could be there."""
    found = []
    if quota == 0:
        found.append("has a quota of 0 training jobs in this account; ask for 1 in Service Quotas")
    clock = request.max_runtime_seconds
    if time and time.total > clock:
        taken = f"{time.guess}{about(time.total)}"
        found.append(f"takes {taken}, {about(time.total - clock)} over the clock of {about(clock)}")
    if time and time.total > MAX_RUNTIME_LIMIT_SECONDS:
        found.append("SageMaker ends a job after 28 days, whatever its clock")
    if request.budget_usd is not None:
        found += _over_budget(request.budget_usd, instance.usd_per_hour, time)
    return found


def _over_budget(budget_usd: float, usd_per_hour: float | None, time: Timing | None) -> list[str]:
    if usd_per_hour is None or time is None:
        what = "price" if usd_per_hour is None else "time"
        return [f"its {what} is unknown, so the budget of ${budget_usd:,.2f} cannot be kept"]
    usd = time.total / 3600 * usd_per_hour
    if usd <= budget_usd:
        return []
    return [f"costs {time.guess}${usd:,.2f}, ${usd - budget_usd:,.2f} over the budget of ${budget_usd:,.2f}"]
