"""A run in progress: its state, and what is done with it between and within steps."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from heartbeat import metrics
from heartbeat.job import FineTuneJob
from training_code import adapter, checkpoint, lora
from training_code.checkpoint import Progress
from training_code.clock import Clock, StopReason
from training_code.data import Data, batches, rows_of_step
from training_code.errors import TrainingError
from training_code.objective import Evaluation, evaluate, num_supervised
from training_code.result import HeldOut
from training_code.schedule import learning_rate
from training_code.step import StepAbandonedError, StepResult, train_step

if TYPE_CHECKING:
    from transformers import Llama4ForCausalLM

ADAM_BETAS = (0.9, 0.999)
STEPS_BEFORE_FORECAST = 3
EVALUATION_MARGIN = 1.3
"""The last evaluation is expected to take what the base model's took times this."""

_NOT_IDENTITY = {"CHECKPOINT_MINUTES", "EVAL_EVERY_STEPS", "MAX_RUNTIME_SECONDS", "USD_PER_HOUR", "MODE"}


@dataclass(kw_only=True)
class Run:
    """Everything that a step needs. Weights, optimizer and progress change; the rest stays as it was made."""

    clock: Clock
    job: FineTuneJob
    data: Data
    base_config_sha256: str
    device: torch.device
    model: Llama4ForCausalLM
    attached: dict[str, lora.LoraLinear]
    checkpoints: Path
    progress: Progress = field(default_factory=Progress)
    tuned: tuple[int, Evaluation] | None = None
    """The last evaluation with the adapter on, and the number of steps before it."""

    def __post_init__(self) -> None:
        self.parameters = lora.parameters(self.attached)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=self.job.learning_rate, betas=ADAM_BETAS, weight_decay=0.0
        )
        self.heldout_batches = batches(self.data.heldout, self.job.per_device_batch_size)
        self._evaluation_seconds = 0.0
        self._save_seconds = 0.0
        self._saved_at = time.monotonic()

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the result depends on: a checkpoint made under other values is another run's."""
        settings = self.job.to_hyperparameters()
        return {
            **{name: value for name, value in settings.items() if name not in _NOT_IDENTITY},
            "dataset_sha256": self.data.sha256,
            "base_config_sha256": self.base_config_sha256,
        }

    # --- steps

    def train(self) -> StopReason | None:
        """Steps until the last, or until there is a reason to stop, which is returned."""
        self.model.train()
        first = self.progress.step
        while self.progress.step < self.job.max_steps:
            reason = self.clock.reason_to_stop(seconds_to_finish=self.seconds_to_finish())
            if reason:
                return reason
            try:
                self.step()
            except StepAbandonedError:
                return "sigterm"
            if self.progress.step == first + STEPS_BEFORE_FORECAST:
                print(f"expected end: {self.expected_end()}", flush=True)
            if self.progress.step < self.job.max_steps and self.progress.step % self.job.eval_every_steps == 0:
                self.evaluate_tuned()
                print(f"expected end: {self.expected_end()}", flush=True)
            if time.monotonic() - self._saved_at > self.job.checkpoint_minutes * 60:
                self.save_checkpoint()
        return None

    def step(self) -> None:
        started, number, job = time.monotonic(), self.progress.step, self.job
        rate = learning_rate(number, peak=job.learning_rate, warmup_steps=job.warmup_steps, max_steps=job.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        indices = rows_of_step(
            number, num_rows=len(self.data.training), batch_size=job.global_batch_size, seed=job.seed
        )
        result = train_step(
            self.model,
            batches([self.data.training[i] for i in indices], job.per_device_batch_size),
            self.parameters.values(),
            self.optimizer,
            seed=job.seed * 1_000_003 + number,
            device=self.device,
            clock=self.clock,
        )
        seconds = time.monotonic() - started
        self.clock.note_step(seconds)
        self._note(result, seconds, rate)

    def _note(self, result: StepResult, seconds: float, rate: float) -> None:
        progress = self.progress
        progress.step += 1
        progress.tokens += result.tokens
        progress.supervised_tokens += result.supervised_tokens
        progress.seconds += seconds
        progress.loss_curve.append((progress.step, result.loss))
        print(metrics.format_line(**self._figures(result, seconds, rate)), flush=True)

    def _figures(self, result: StepResult, seconds: float, rate: float) -> dict[str, float]:
        hours = self.clock.elapsed_seconds() / 3600
        figures = {
            "step": self.progress.step,
            "loss": result.loss,
            "learning_rate": rate,
            "tokens_per_second": result.tokens / seconds,
            "tokens": self.progress.tokens,
            "host_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "hours_elapsed": hours,
            "hours_remaining": self.seconds_to_go() / 3600,
        }
        if self.device.type == "cuda":
            figures["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if self.job.usd_per_hour is not None:
            figures["usd_so_far"] = hours * self.job.usd_per_hour
        return figures

    # --- time

    def seconds_to_finish(self) -> float:
        """To save and to evaluate for the last time."""
        return self._save_seconds + self._evaluation_seconds * EVALUATION_MARGIN

    def seconds_to_go(self) -> float:
        """To the end of the job, at the speed of the steps so far."""
        steps_left = self.job.max_steps - self.progress.step
        return steps_left * self.progress.seconds / max(1, self.progress.step) + self.seconds_to_finish()

    def expected_end(self) -> str:
        return f"{datetime.now(UTC) + timedelta(seconds=self.seconds_to_go()):%Y-%m-%d %H:%M} UTC"

    # --- held-out loss

    def evaluate_base(self) -> None:
        """Once a run, with the adapter off: the weights in memory are then the base model's."""
        if self.progress.base_heldout_loss is not None or not self.heldout_batches:
            return
        with lora.adapter_off(self.attached):
            found = self._evaluate()
        if found is None:
            return
        self._evaluation_seconds = found.seconds
        self.progress.base_heldout_loss = found.loss
        print(metrics.format_line(base_heldout_loss=found.loss), flush=True)

    def evaluate_tuned(self) -> None:
        """With the adapter on, unless it was just done or there is no time for it."""
        step = self.progress.step
        if self.tuned and self.tuned[0] == step:
            return
        if self._evaluation_seconds * EVALUATION_MARGIN > self.clock.seconds_left():
            return
        found = self._evaluate()
        if found:
            self._evaluation_seconds = found.seconds
            self.tuned = (step, found)
            print(metrics.format_line(step=step, heldout_loss=found.loss), flush=True)

    def heldout(self) -> HeldOut:
        current = self.tuned[1] if self.tuned and self.tuned[0] == self.progress.step else None
        return HeldOut(
            rows=len(self.data.heldout),
            supervised_tokens=num_supervised(self.heldout_batches),
            base_loss=self.progress.base_heldout_loss,
            tuned_loss=current.loss if current else None,
        )

    def _evaluate(self) -> Evaluation | None:
        found = evaluate(
            self.model, self.heldout_batches, self.device, out_of_time=lambda: self.clock.seconds_left() <= 0
        )
        if found and not math.isfinite(found.loss):
            raise TrainingError(
                f"the held-out loss is {found.loss}: the base model's weights are damaged, or LEARNING_RATE is too high"
            )
        return found

    # --- files

    def resume(self) -> None:
        found = checkpoint.resume(self.checkpoints, self.parameters, self.optimizer, self.identity)
        if found:
            self.progress = found

    def save_checkpoint(self) -> None:
        started = time.monotonic()
        checkpoint.save(self.checkpoints, self.progress, self.parameters, self.optimizer, self.identity)
        self._saved_at = time.monotonic()
        self._save_seconds = max(self._save_seconds, self._saved_at - started)

    def save_adapter(self, folder: Path) -> None:
        job = self.job
        adapter.save(
            folder,
            self.attached,
            targets=job.lora_targets,
            rank=job.lora_r,
            alpha=job.lora_alpha,
            dropout=job.lora_dropout,
        )

    def refuse_nothing_trained(self, reason: StopReason | None) -> None:
        if self.progress.step == 0 and reason:
            why = f"MAX_RUNTIME_SECONDS={self.job.max_runtime_seconds} left no time for one"
            why = "a request to stop came before it" if reason == "sigterm" else why
            raise TrainingError(f"not one step was trained: {why}; run it again with more time or fewer rows a step")
