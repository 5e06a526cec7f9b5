"""A run in progress: its state, and what is done with it between and within steps."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from heartbeat import held_out_loss, metrics
from heartbeat.job import FineTuneJob
from heartbeat.workload import micro_batch_sizes
from training_code import adapter, checkpoint, shortage
from training_code.answers import Asking
from training_code.batches import Part, part_of
from training_code.checkpoint import Progress
from training_code.clock import STOP_REASONS, Clock, StopReason
from training_code.data import Data, rows_of_step
from training_code.errors import TrainingError
from training_code.llama import Llama
from training_code.placing import Arrangement
from training_code.ranks import Ranks
from training_code.result import HeldOut
from training_code.schedule import learning_rate
from training_code.step import StepAbandonedError, StepResult, train_step
from training_code.tokenizer import Encoded

ADAM_BETAS = (0.9, 0.999)
STEPS_BEFORE_FORECAST = 3
EVALUATION_MARGIN = 1.3
"""The last evaluation is expected to take what the base model's took times this."""

RECENT_STEPS = 8
STEP_MARGIN = 1.1
"""A step is expected to take the longest of the recent ones times this."""

SKIPPED_AT_MOST = 5
"""Steps in a row that f16's range may spoil. There is no loss scale that would be lowered meanwhile: nothing but the
rows differs from step to step, and where the rows of five steps overflow one after the other, all will."""

FINISH_SECONDS = 2.0
"""For what is written at the end beside the weights. Without the last evaluation nothing passes the gate."""

_NOT_IDENTITY = {
    *("CHECKPOINT_MINUTES", "EVAL_EVERY_STEPS", "EVAL_GENERATE_ROWS", "EVAL_MAX_NEW_TOKENS"),
    *("MAX_RUNTIME_SECONDS", "USD_PER_HOUR", "MODE"),
}


@dataclass(frozen=True)
class Evaluation:
    """Mean loss of a supervised token over the held-out rows, each row's sum, and what it took."""

    loss: float
    row_losses: list[float]
    seconds: float


@dataclass(kw_only=True)
class Run:
    """Everything that a step needs. Weights, optimizer and progress change; the rest stays as it was made."""

    clock: Clock
    job: FineTuneJob
    data: Data
    sources: Mapping[str, str]
    """Digests of what the run is made of, by name: dataset, base model, tokenizer."""
    arrangement: Arrangement
    """As the job was laid out at its start."""
    llama: Llama
    ranks: Ranks
    checkpoints: Path
    asking: Asking | None = None
    """None where nobody is to judge the run."""
    progress: Progress = field(default_factory=Progress)
    tuned: tuple[int, Evaluation] | None = None
    """The last evaluation with the adapter on, and the number of steps before it."""
    step_seconds: list[float] = field(default_factory=list)
    """Of this process's steps."""
    is_cut_off: bool = False
    """Whether this rank left what the others wait in: it may save, and compute nothing more with them."""

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            [self.llama.lora.flat],
            lr=self.job.learning_rate,
            betas=ADAM_BETAS,
            weight_decay=0.0,
            fused=True,
        )
        self.heldout_part = self._part(self.data.heldout)
        self._save_seconds = 0.0
        self._saved_at = time.monotonic()
        self._adapter_step = 0
        """Of the adapter that is saved; the base model's before the first step."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the result depends on: a checkpoint made under other values is another run's."""
        settings = self.job.to_hyperparameters()
        return {
            **{name: value for name, value in settings.items() if name not in _NOT_IDENTITY},
            **self.sources,
            "weight_format": self.arrangement.weight_format,
            "number of GPUs": self.ranks.world_size,
        }

    def _part(self, rows: list[Encoded]) -> Part:
        return part_of(
            rows,
            capacity=self.llama.placement.micro_batch_tokens,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )

    # --- steps

    def train(self) -> StopReason | None:
        """Steps until the last, or until there is a reason to stop, which is returned."""
        first = self.progress.step
        while self.progress.step < self.job.max_steps:
            reason = self._reason_to_stop()
            if reason:
                return reason
            try:
                self.step()
            except StepAbandonedError:
                self._leave_the_others()
                continue
            if self.progress.step == first + STEPS_BEFORE_FORECAST:
                self._say(f"expected end: {self.expected_end()}")
            if self.progress.step < self.job.max_steps and self.progress.step % self.job.eval_every_steps == 0:
                self.evaluate_tuned()
                self._say(f"expected end: {self.expected_end()}")
            # Each rank by its own clock: only the first writes, and none waits for another.
            if time.monotonic() - self._saved_at > self.job.checkpoint_minutes * 60:
                self.save_checkpoint()
        return None

    def _reason_to_stop(self) -> StopReason | None:
        """The first rank's, for all: no rank may begin a step that another does not."""
        mine = self.clock.reason_to_stop(seconds_needed=self.seconds_of_next_step() + self.seconds_to_finish())
        if self.is_cut_off:
            return mine
        return STOP_REASONS[self.ranks.of_first(STOP_REASONS.index(mine), self.llama.device)]

    def _leave_the_others(self) -> None:
        self.is_cut_off = self.ranks.world_size > 1

    def step(self) -> None:
        started, number, job = time.monotonic(), self.progress.step, self.job
        rate = learning_rate(number, peak=job.learning_rate, warmup_steps=job.warmup_steps, max_steps=job.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        indices = rows_of_step(
            number, num_rows=len(self.data.training), batch_size=job.global_batch_size, seed=job.seed
        )
        result = self._train_step([self.data.training[i] for i in indices], number)
        seconds = time.monotonic() - started
        self.step_seconds.append(seconds)
        self._note(result, seconds, rate)

    def _train_step(self, rows: list[Encoded], number: int) -> StepResult:
        """Where the GPU's memory runs out after all, with smaller micro-batches: the hours so far are paid for."""
        while True:
            try:
                return train_step(
                    self.llama,
                    self._part(rows),
                    self.optimizer,
                    seed=f"{self.job.seed}:{number}",
                    clock=self.clock,
                    ranks=self.ranks,
                )
            except Exception as error:
                if not shortage.is_of_gpu(error):
                    raise
                now = self.llama.placement.micro_batch_tokens
                smaller = next((size for size in micro_batch_sizes(self.job.max_length) if size < now), None)
                # Of several ranks the others wait for this one within the step.
                if self.ranks.world_size > 1 or smaller is None:
                    raise
            # Not before the exception is gone: it holds on to what the step had in memory.
            self._use_micro_batches(smaller)

    def _use_micro_batches(self, tokens: int) -> None:
        placement = self.llama.placement
        self._say(
            f"warning: out of GPU memory with micro-batches of {placement.micro_batch_tokens:,} tokens; "
            f"going on with {tokens:,}, which are slower to start"
        )
        self.llama.placement = replace(placement, micro_batch_tokens=tokens)
        self.heldout_part = self._part(self.data.heldout)
        if self.llama.device.type == "cuda":
            torch.cuda.synchronize(self.llama.device)
            torch.cuda.empty_cache()

    def _note(self, result: StepResult, seconds: float, rate: float) -> None:
        progress = self.progress
        progress.step += 1
        progress.tokens += result.tokens
        progress.supervised_tokens += result.supervised_tokens
        progress.seconds += seconds
        progress.recent_seconds = [*progress.recent_seconds, seconds][-RECENT_STEPS:]
        if math.isfinite(result.loss):
            progress.loss_curve.append((progress.step, result.loss))
        self._say(metrics.format_line(**self._figures(result, seconds, rate)))
        self._note_skipped(result)

    def _note_skipped(self, result: StepResult) -> None:
        progress = self.progress
        if not result.is_skipped:
            progress.skipped_in_a_row = 0
            return
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        self._say(f"warning: step {progress.step} passed f16's range; no weight was changed")
        if progress.skipped_in_a_row == SKIPPED_AT_MOST:
            raise TrainingError(
                f"{SKIPPED_AT_MOST} steps in a row passed f16's range: lower LEARNING_RATE={self.job.learning_rate} or "
                "choose an instance whose GPUs compute in bf16, as all since A100 do"
            )

    def _figures(self, result: StepResult, seconds: float, rate: float) -> dict[str, float]:
        hours = self.clock.elapsed_seconds() / 3600
        figures = {
            "step": self.progress.step,
            **({"loss": result.loss} if math.isfinite(result.loss) else {}),
            "learning_rate": rate,
            "tokens_per_second": result.tokens / seconds,
            "tokens": self.progress.tokens,
            "host_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "hours_elapsed": hours,
            "hours_remaining": self.seconds_to_go() / 3600,
        }
        if self.llama.device.type == "cuda":
            figures["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if self.job.usd_per_hour is not None:
            figures["usd_so_far"] = hours * self.job.usd_per_hour
        return figures

    def _say(self, line: str) -> None:
        if self.ranks.is_first:
            print(line, flush=True)

    # --- time

    def seconds_of_next_step(self) -> float:
        """0 before a run's first step, which is always tried."""
        return max(self.progress.recent_seconds, default=0.0) * STEP_MARGIN

    def seconds_to_finish(self) -> float:
        """To save adapter and checkpoint, to evaluate for the last time, and to ask the tuned model."""
        evaluation = self.progress.evaluation_seconds * EVALUATION_MARGIN
        answers = self.asking.seconds_expected() if self.asking else 0.0
        return FINISH_SECONDS + 2 * self._save_seconds + evaluation + answers

    def seconds_to_go(self) -> float:
        """To the end of the job, at the speed of the steps so far."""
        steps_left = self.job.max_steps - self.progress.step
        return steps_left * self.progress.seconds / max(1, self.progress.step) + self.seconds_to_finish()

    def expected_end(self) -> str:
        return f"{datetime.now(UTC) + timedelta(seconds=self.seconds_to_go()):%Y-%m-%d %H:%M} UTC"

    # --- held-out loss

    def evaluate_base(self) -> None:
        """Once a run, with the adapter off: the weights in memory are then the base model's."""
        if self.progress.base_row_losses is not None or not self.data.heldout:
            return
        found = self._evaluate(adapted=False)
        if found is None:
            return
        self.progress.evaluation_seconds = found.seconds
        self.progress.base_row_losses = found.row_losses
        self._say(metrics.format_line(base_heldout_loss=found.loss))

    def evaluate_tuned(self) -> None:
        """With the adapter on, unless it was just done or there is no time for it."""
        step = self.progress.step
        if self.is_cut_off or not self.data.heldout or (self.tuned and self.tuned[0] == step):
            return
        too_late = self.progress.evaluation_seconds * EVALUATION_MARGIN > self.clock.seconds_left()
        if self.ranks.of_first(int(too_late), self.llama.device):
            return
        found = self._evaluate(adapted=True)
        if found:
            self.progress.evaluation_seconds = found.seconds
            self.tuned = (step, found)
            self._say(metrics.format_line(step=step, heldout_loss=found.loss))

    def ask_base(self) -> None:
        if self.asking is not None and not self.is_cut_off:
            self.asking.ask_base()

    def ask_tuned(self) -> None:
        if self.asking is None:
            return
        if self.is_cut_off:
            self.asking.why_not = "a request to stop came in the midst of work that several GPUs share"
        else:
            self.asking.ask_tuned()

    def heldout(self) -> HeldOut:
        current = self.tuned[1] if self.tuned and self.tuned[0] == self.progress.step else None
        base, tokens = self.progress.base_row_losses, self.heldout_part.num_supervised
        score = None
        if base is not None and current:
            counts = [row.num_supervised for row in self.data.heldout]
            score = held_out_loss.measure(base, current.row_losses, counts, seed=self.job.seed)
        return HeldOut(
            rows=len(self.data.heldout),
            supervised_tokens=tokens,
            base_loss=None if base is None else math.fsum(base) / max(1, tokens),
            tuned_loss=current.loss if current else None,
            **(score.to_dict() if score else {}),
        )

    def _evaluate(self, *, adapted: bool) -> Evaluation | None:
        """None where time ran out, then on every rank, and where the first rank has to save."""
        part, device, started = self.heldout_part, self.llama.device, time.monotonic()
        counts = torch.tensor([self.data.heldout[i].num_supervised for i in part.documents], dtype=torch.int64)
        rows = torch.tensor(part.documents, dtype=torch.int64).repeat_interleave(counts)
        sums, done = torch.zeros(len(self.data.heldout), dtype=torch.float64), 0
        for losses in self.llama.losses(
            part.batches, num_batches=part.num_batches, adapted=adapted, interrupted=self._must_save_now
        ):
            if losses is None:
                self._leave_the_others()
                return None
            # On the host, where the order of a sum does not depend on chance.
            sums.index_add_(0, rows[done : done + len(losses)], losses.cpu().double())
            done += len(losses)
            if self.ranks.of_first(int(self.clock.seconds_left() <= 0), device):
                return None
        sums = sums.to(device)
        self.ranks.add_up(sums)
        row_losses = sums.tolist()
        loss = math.fsum(row_losses) / max(1, part.num_supervised)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the held-out loss is {loss}: the base model's weights are damaged, or LEARNING_RATE is too high"
            )
        return Evaluation(loss, row_losses, time.monotonic() - started)

    def _must_save_now(self) -> bool:
        """On the first rank alone, which saves: after a request to stop, steps are saved before anything is evaluated.

        When they are, what is left of the grace is the evaluation's; one group may take longer than that.
        """
        if not self.clock.signalled or not self.ranks.is_first:
            return False
        return self.progress.step > self._adapter_step or self.clock.seconds_left() <= 0

    # --- files

    def resume(self) -> None:
        found = checkpoint.resume(self.checkpoints, self.llama.lora, self.optimizer, self.identity, self.ranks)
        if found:
            self.progress = found

    def save_checkpoint(self) -> None:
        """On the first rank: the others hold the same numbers."""
        started = time.monotonic()
        if self.ranks.is_first:
            now = replace(self.arrangement, placement=self.llama.placement)
            checkpoint.save(
                self.checkpoints, self.progress, self.llama.lora, self.optimizer, self.identity, now.to_text()
            )
        self._saved_at = time.monotonic()
        self._save_seconds = max(self._save_seconds, self._saved_at - started)

    def save_adapter(self, folder: Path) -> None:
        if not self.ranks.is_first:
            return
        job = self.job
        adapter.save(
            folder,
            self.llama.lora,
            self.llama.architecture,
            targets=job.lora_targets,
            rank=job.lora_r,
            alpha=job.lora_alpha,
            dropout=job.lora_dropout,
        )
        self._adapter_step = self.progress.step

    def refuse_nothing_trained(self, reason: StopReason | None) -> None:
        if self.progress.step == 0 and reason:
            why = f"MAX_RUNTIME_SECONDS={self.job.max_runtime_seconds} left no time for one"
            why = "a request to stop came before it" if reason == "sigterm" else why
            raise TrainingError(f"not one step was trained: {why}; run it again with more time or fewer rows a step")
