"""How long a run takes: from the trainer's measured steps, scaled where there is a basis, and unknown where not.

A step's arithmetic and the movement of its weights overlap, so it takes as long as the longer of the two; the
high end of the range adds them up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from heartbeat import asking, memory, step_work
from heartbeat.calibration import Calibration, Confidence, Rates
from heartbeat.catalog import Instance
from heartbeat.job import FineTuneJob
from heartbeat.memory import Layout
from heartbeat.scout import SCOUT, ModelShape
from heartbeat.workload import Workload

RANGES: Mapping[str, tuple[float, float]] = {
    "given": (0.9, 1.15),
    "measured": (0.9, 1.15),
    "scaled": (0.7, 1.6),
}
"""Lowest and highest over the best guess of a step's arithmetic. `scaled` is wide on purpose: how much of its
peak another GPU reaches is not known until it is measured."""

SCALED_MARK = "~"
"""Before a figure that is scaled from another GPU."""
ENDS_EARLY = 0.3
"""Of the walks that answers of the longest kind take, those that they take at best. Unverified."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What a run takes before and after its steps. Nobody has measured it: who has, gives figures of their own."""

    start_up_seconds: float = 300.0
    """Instance, image and Python."""
    download_gb_per_second: float = 1.0
    """Base weights from S3."""
    prepare_gb_per_second: float = 1.0
    """Reading, quantising and placing them."""
    upload_seconds: float = 60.0
    """The adapter, the results and the end of the job."""

    def seconds(self, weights_gb: float) -> dict[str, float]:
        """By what takes them."""
        return {
            "start_up": self.start_up_seconds,
            "download": weights_gb / self.download_gb_per_second,
            "prepare_weights": weights_gb / self.prepare_gb_per_second,
            "upload": self.upload_seconds,
        }

    def guesses(self) -> tuple[str, ...]:
        """Those of `seconds` that nobody gave."""
        ours, own = Assumed().seconds(1.0), self.seconds(1.0)
        return tuple(name for name in own if own[name] == ours[name])


ASSUMED = Assumed()


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What it takes to ask base and tuned model for their answers, if all are as long as may be."""

    prompts: int
    """Of each of the two."""
    rows_together: int
    """On each GPU."""
    walks: int
    """Through all layers, each of which says one token of every answer in a batch; of both models together."""
    seconds_per_walk: float
    seconds: float
    """The walks, and reading the prompts twice."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of a run. The terms are the best guess; `low` and `high` are of the whole run."""

    step: Mapping[str, float]
    """Of one step: arithmetic, weight_movement, launches; it takes the longest of them."""
    work: step_work.StepWork
    """What the step's seconds are computed from."""
    run: Mapping[str, float]
    """Of the run, term by term; the sum is what is paid for."""
    assumed: tuple[str, ...]
    """Those terms that are assumed rather than computed."""
    seconds_per_step: float
    one_evaluation: float
    eval_every_steps: int
    asking: Asking | None
    """None where nothing is asked."""
    low: float
    high: float
    confidence: Confidence
    sources: tuple[str, ...]
    """Files of the measurements that it rests on."""

    @property
    def guess(self) -> str:
        """What its seconds are marked with."""
        return SCALED_MARK if self.confidence == "scaled" else ""

    @property
    def total(self) -> float:
        return sum(self.run.values())

    def steps_within(self, seconds: float) -> int:
        """The most steps of a run that ends within `seconds`: more of them bring more evaluations along."""
        left = seconds - (self.total - self.run["training"] - self.run["evaluation"])
        enough, too_many = 0, max(1, math.floor(left / self.seconds_per_step) + 1)
        while too_many - enough > 1:
            middle = (enough + too_many) // 2
            evaluations = num_evaluations(middle, self.eval_every_steps) * self.one_evaluation
            if evaluations + middle * self.seconds_per_step <= left:
                enough = middle
            else:
                too_many = middle
        return enough


def num_evaluations(max_steps: int, every: int) -> int:
    """Of the held-out rows: before the first step, after every so many, and after the last."""
    return 2 + (max_steps - 1) // every


def estimate(
    shape: ModelShape,
    job: FineTuneJob,
    work: Workload,
    instance: Instance,
    mode: str,
    calibration: Calibration,
    *,
    layout: Layout = Layout(),  # noqa: B008 (frozen)
    tokens_per_second: float | None = None,
    assumed: Assumed = ASSUMED,
) -> Timing | None:
    """How long the run takes, or None where there is no basis to say.

    `tokens_per_second`: what the user says that the whole instance does; it wins over what is computed.
    """
    rates = calibration.rates(instance, mode)

    def count(of: Workload) -> step_work.StepWork:
        return step_work.count(shape, job, of, mode=mode, num_gpus=instance.num_gpus, layout=layout)

    def step_seconds(of: Workload) -> tuple[float, float]:
        """Arithmetic and movement of such a step."""
        if tokens_per_second is not None:
            return of.step_tokens / tokens_per_second, 0.0
        assert rates is not None
        return rates.arithmetic_seconds(count(of)), rates.movement_seconds(count(of)) or 0.0

    todo = count(work)
    confidence: Confidence = "given"
    sources: tuple[str, ...] = ()
    if tokens_per_second is None:
        if rates is None or rates.movement_seconds(todo) is None:
            return None
        same_trainer = shape.text_parameters == SCOUT.text_parameters
        confidence, sources = rates.confidence if same_trainer else "scaled", rates.sources
    arithmetic, movement = step_seconds(work)
    launches = 0.0 if rates is None or tokens_per_second is not None else rates.launch_seconds(todo)
    step = max(arithmetic, movement, launches)

    def forward_seconds(rows: int) -> float:
        """Forward only: a third of the arithmetic, and half of the movement."""
        of_rows = step_seconds(replace(work, step_rows=rows))
        return max(of_rows[0] / 3, of_rows[1] / 2)

    one_evaluation = forward_seconds(work.heldout_rows) if work.heldout_rows else 0.0
    asked = None
    if work.prompts:
        # Without rates a walk is taken to cost what a forward pass of one micro-batch does.
        one_pass = step / (step_work.PASSES * work.micro_batches_per_gpu(instance.num_gpus))
        reading = 2 * forward_seconds(work.prompts)
        asked = _ask(shape, job, work, instance, mode, rates, layout=layout, reading=reading, one_pass=one_pass)
    around = assumed.seconds(shape.bytes_bf16 / 1e9)
    upload = around.pop("upload")
    run = {
        **around,
        "evaluation": num_evaluations(job.max_steps, job.eval_every_steps) * one_evaluation,
        "training": job.max_steps * step,
        "answers": asked.seconds if asked else 0.0,
        "upload": upload,
    }
    least, most = RANGES[confidence]
    steps = run["training"] + run["evaluation"]
    rest = sum(run.values()) - steps - run["answers"]
    # At worst nothing overlaps, and everything outside the steps takes half as long again.
    unhidden = (arithmetic * most + movement * 1.5 + launches) / step
    return Timing(
        step={"arithmetic": arithmetic, "weight_movement": movement, "launches": launches},
        work=todo,
        run=run,
        assumed=assumed.guesses(),
        seconds_per_step=step,
        one_evaluation=one_evaluation,
        eval_every_steps=job.eval_every_steps,
        asking=asked,
        low=rest * 0.7 + (steps + run["answers"] * ENDS_EARLY) * least,
        high=rest * 1.5 + (steps + run["answers"]) * max(unhidden, 1.0),
        confidence=confidence,
        sources=sources,
    )


def _ask(
    shape: ModelShape,
    job: FineTuneJob,
    work: Workload,
    instance: Instance,
    mode: str,
    rates: Rates | None,
    *,
    layout: Layout,
    reading: float,
    one_pass: float,
) -> Asking:
    """As the trainer asks (training_code/answers.py): every prompt as long as a mean row, every answer to its end."""
    gpus = instance.num_gpus
    mine = math.ceil(work.prompts / gpus)
    reading_work = replace(work, micro_batch_tokens=min(work.micro_batch_tokens, asking.READING_TOKENS))
    needed = sum(memory.gpu_terms(shape, job, reading_work, mode=mode, num_gpus=gpus, layout=layout).values())
    most = asking.rows_together(
        free_bytes=(instance.gpu_memory_gib - needed) * memory.GIB,
        row_bytes=asking.row_bytes(shape, prompt_tokens=work.tokens_per_row, new_tokens=work.max_new_tokens),
        num_rows=mine,
    )
    # In batches of like size: more room that saves no batch must not make each of them slower.
    batches = math.ceil(mine / most)
    together = math.ceil(mine / batches)
    seconds = one_pass
    if rates is not None:
        kept = work.tokens_per_row + work.max_new_tokens / 2
        todo = step_work.walk(shape, job, mode=mode, num_gpus=gpus, rows=together, tokens_kept=kept)
        movement = rates.movement_seconds(todo) or 0.0
        seconds = max(rates.arithmetic_seconds(todo), movement, rates.launch_seconds(todo))
    walks = 2 * batches * work.max_new_tokens
    return Asking(
        prompts=work.prompts,
        rows_together=together,
        walks=walks,
        seconds_per_walk=seconds,
        seconds=walks * seconds + reading,
    )
