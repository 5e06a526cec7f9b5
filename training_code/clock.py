"""The time a job may take, and the signal to stop: when a step may begin, and how long there is to save."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

StopReason = Literal["max_runtime", "sigterm"]
STOP_REASONS: tuple[StopReason | None, ...] = (None, "max_runtime", "sigterm")
"""By the number under which ranks tell each other."""

SIGTERM_GRACE_SECONDS = 120.0
"""SageMaker kills a container this long after SIGTERM (StopTrainingJob, API reference)."""
UPLOAD_SHARE = 0.05
UPLOAD_SECONDS_AT_MOST = 60.0
"""Kept free before the limit for what SageMaker does after the process ends: a share of the limit, at most this."""


@dataclass
class Clock:
    """Counts from the start of the container. Signals only set a flag: the loop looks at it between micro-batches."""

    limit_seconds: float
    now: Callable[[], float] = time.monotonic
    started: float = field(default_factory=time.monotonic)
    signalled_at: float | None = None

    @classmethod
    def of_process(cls) -> Clock:
        """Of this process since its start, without a limit yet.

        It takes SIGTERM as a request to stop; SIGINT too, for whoever runs this in a terminal.
        """
        clock = cls(limit_seconds=math.inf, started=process_start())
        signal.signal(signal.SIGTERM, clock._on_signal)
        signal.signal(signal.SIGINT, clock._on_signal)
        return clock

    @property
    def signalled(self) -> bool:
        return self.signalled_at is not None

    def elapsed_seconds(self) -> float:
        return self.now() - self.started

    def seconds_left(self) -> float:
        """Until this process must have ended: the limit's time, or the rest of the grace after SIGTERM."""
        kept_free = min(UPLOAD_SECONDS_AT_MOST, self.limit_seconds * UPLOAD_SHARE)
        left = self.limit_seconds - kept_free - self.elapsed_seconds()
        if self.signalled_at is not None:
            left = min(left, SIGTERM_GRACE_SECONDS * (1 - UPLOAD_SHARE) - (self.now() - self.signalled_at))
        return left

    def reason_to_stop(self, *, seconds_needed: float) -> StopReason | None:
        """Why no further step should begin, given what it and the end of the job after it will take."""
        if self.signalled:
            return "sigterm"
        if self.seconds_left() < seconds_needed:
            return "max_runtime"
        return None

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.signalled_at is None:
            self.signalled_at = self.now()


def process_start() -> float:
    """When this process started, on time.monotonic's clock: imports take seconds that count too."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    since_boot = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc_pid_stat(5), starttime
    return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
