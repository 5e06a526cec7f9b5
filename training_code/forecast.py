"""What the planner expects of this run on this machine, to be held against what it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from heartbeat import calibration, catalog, measurements, memory, timing
from heartbeat.calibration import Confidence
from heartbeat.job import FineTuneJob
from heartbeat.scout import ModelShape
from heartbeat.workload import Workload
from training_code.placing import Arrangement


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Of one step, on each GPU."""

    gpu_gib: float
    """Most that is allocated: without CUDA's context."""
    seconds_per_step: float | None
    """None where there is no basis to say."""
    confidence: Confidence

    def describe(self) -> str:
        seconds = "unknown time" if self.seconds_per_step is None else f"{self.seconds_per_step:.1f} s"
        return f"planned: {seconds} a step ({self.confidence}), {self.gpu_gib:.1f} GiB on each GPU"

    def compare(self, seconds_per_step: float, gpu_gib: float) -> str:
        """The same beside what was measured."""
        planned = "unknown" if self.seconds_per_step is None else f"{self.seconds_per_step:.1f}"
        return (
            f"{seconds_per_step:.1f} s a step, where {planned} were planned ({self.confidence}); "
            f"{gpu_gib:.1f} GiB on the first GPU, where {self.gpu_gib:.1f} were planned"
        )


def of_run(
    job: FineTuneJob, shape: ModelShape, work: Workload, arrangement: Arrangement, *, device_name: str, num_gpus: int
) -> Forecast | None:
    """None for a GPU that the catalogue lacks. `device_name` is the driver's, such as NVIDIA H100 80GB HBM3."""
    gpu, known = measurements.catalogue_name(device_name), catalog.load()
    alike = sorted(
        (instance for instance in known if instance.gpu == gpu), key=lambda found: found.num_gpus != num_gpus
    )
    if not alike:
        return None
    placement = arrangement.placement
    layout = memory.Layout(boundaries=placement.boundaries, group_size=placement.group_size)
    work = replace(work, micro_batch_tokens=placement.micro_batch_tokens)
    terms = memory.gpu_terms(
        shape,
        job,
        work,
        mode=arrangement.mode,
        num_gpus=num_gpus,
        weight_format=arrangement.weight_format,
        layout=layout,
    )
    instance = replace(alike[0], num_gpus=num_gpus)
    time = timing.estimate(shape, job, work, instance, arrangement.mode, calibration.stored(known), layout=layout)
    return Forecast(
        gpu_gib=sum(terms.values()) - terms["context"] - terms["margin"],
        seconds_per_step=time.seconds_per_step if time else None,
        confidence=time.confidence if time else "unknown",
    )
