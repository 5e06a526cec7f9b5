"""How much there is to compute: a job's settings met with a dataset's statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass

from heartbeat import packing, probes
from heartbeat.dataset import DatasetStats
from heartbeat.job import FineTuneJob

MICRO_BATCH_TOKENS = 8192
"""Enough to keep a GPU busy: with 4,096 an H100's kernels take about as long as starting them
(`step_work.LAUNCH_SECONDS`, docs/performance.md)."""


def micro_batch_sizes(max_length: int) -> list[int]:
    """Tokens that a GPU may be given at once, the most first, each half of the one before: whole sequences."""
    most = max(1, MICRO_BATCH_TOKENS // max_length)
    return [(most >> halvings) * max_length for halvings in range(most.bit_length())]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a job does with a dataset. Tokens are estimates, as the dataset's are."""

    training_rows: int
    heldout_rows: int
    tokens_per_row: float
    """Mean of the rows that are not over-long."""
    step_rows: int
    """Rows of an optimizer step, over all GPUs together."""
    micro_batch_tokens: int
    """Most tokens that a GPU has in work at once. Not PER_DEVICE_BATCH_SIZE sequences of MAX_LENGTH: conversations are
    packed without padding, so what a step sums up does not depend on it (`memory.fit` chooses)."""
    max_length: int
    max_steps: int
    supervised_share: float = 1.0
    """Of the tokens, those that the loss is taken on."""
    prompts: int = 0
    """That base and tuned model are asked to answer: turns of held-out rows, and the general probe set."""
    max_new_tokens: int = 0
    """Of such an answer."""
    lengths: tuple[int, ...] = ()
    """Quantiles of a row's tokens, by which a typical step is packed. Empty: as if micro-batches could be filled."""
    counted_micro_batches: int | None = None
    """Of a step on one GPU, where they were counted. None: of a typical step."""

    @classmethod
    def of(cls, job: FineTuneJob, stats: DatasetStats) -> Workload:
        """Raises ValueError for statistics that were counted for another MAX_LENGTH, which leaves out other rows."""
        if stats.max_length != job.max_length and stats.longest_row_tokens > min(stats.max_length, job.max_length):
            raise ValueError(
                f"the dataset was checked for MAX_LENGTH={stats.max_length}, and the job has {job.max_length}: check it"
                " again for this job"
            )
        rows = stats.trainable_rows
        # A held-out file of its own takes no row from the dataset.
        own = stats.own_held_out_rows
        heldout = own or round(rows * job.held_out_fraction)
        supervised = stats.supervised_tokens
        mean = min(stats.trainable_tokens / rows, float(job.max_length)) if rows else 0.0
        return cls(
            training_rows=rows if own else rows - heldout,
            heldout_rows=heldout,
            tokens_per_row=mean,
            step_rows=job.global_batch_size,
            micro_batch_tokens=micro_batch_sizes(job.max_length)[0],
            max_length=job.max_length,
            max_steps=job.max_steps,
            supervised_share=supervised / stats.tokens if stats.tokens else 1.0,
            prompts=_prompts(job, stats, heldout),
            max_new_tokens=job.eval_max_new_tokens,
            lengths=tuple(stats.length_quantiles),
        )

    @property
    def passes(self) -> float:
        """How often each training row is seen."""
        return self.max_steps * self.step_rows / self.training_rows if self.training_rows else 0.0

    @property
    def step_tokens(self) -> float:
        return self.step_rows * self.tokens_per_row

    @property
    def total_tokens(self) -> float:
        return self.max_steps * self.step_tokens

    @property
    def heldout_tokens(self) -> float:
        return self.heldout_rows * self.tokens_per_row

    def gpus_used(self, num_gpus: int) -> int:
        """A GPU without a row of the step would idle."""
        return min(num_gpus, self.step_rows)

    def step_tokens_per_gpu(self, num_gpus: int) -> float:
        """Of the GPU that has the most rows: all wait for it."""
        return math.ceil(self.step_rows / self.gpus_used(num_gpus)) * self.tokens_per_row

    def micro_batch_tokens_per_gpu(self, num_gpus: int) -> float:
        return min(float(self.micro_batch_tokens), self.step_tokens_per_gpu(num_gpus))

    def micro_batches_per_gpu(self, num_gpus: int) -> int:
        """Packed micro-batches of a step on one GPU."""
        if self.counted_micro_batches:
            return self.counted_micro_batches
        full = max(1, math.ceil(self.step_tokens_per_gpu(num_gpus) / self.micro_batch_tokens))
        if not self.lengths:
            return full
        rows = math.ceil(self.step_rows / self.gpus_used(num_gpus))
        return max(full, packing.typical_rows(self.lengths, rows, self.micro_batch_tokens))

    def packing_efficiency(self, num_gpus: int) -> float | None:
        """Share of a step's micro-batches that conversations fill; None where their lengths are not known."""
        room = self.micro_batches_per_gpu(num_gpus) * self.micro_batch_tokens
        return self.step_tokens_per_gpu(num_gpus) / room if self.lengths or self.counted_micro_batches else None


def _prompts(job: FineTuneJob, stats: DatasetStats, heldout_rows: int) -> int:
    asked = min(job.eval_generate_rows, heldout_rows)
    turns = asked * stats.assistant_turns / stats.valid_rows if asked and stats.valid_rows else 0.0
    # A base model may bring probes of its own, of like number.
    return math.ceil(turns) + len(probes.bundled()) if asked else 0
