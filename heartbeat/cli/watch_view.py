"""Two ways to show a run: redrawn in a terminal, or line by line everywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from heartbeat.cli import screen
from heartbeat.cli.account import is_local
from heartbeat.cli.history import History, Row, short
from heartbeat.cli.training_log import Progress, TrainingLog

BAR_WIDTH = 32
_PLAIN_TRAINING_SECONDS = 5.0
_REDRAW_SECONDS = 0.1


class Run(Protocol):
    """What a view looks at."""

    @property
    def history(self) -> History: ...
    @property
    def notes(self) -> Mapping[str, str]: ...
    @property
    def training(self) -> TrainingLog: ...


class View:
    """A context in which a run is shown."""

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, run: Run, now: datetime, *, ended: bool) -> None:
        raise NotImplementedError

    def wait(self, seconds: float, run: Run) -> None:
        raise NotImplementedError


class LiveView(View):
    """Redraws all rows in place; at the end they stay."""

    def __enter__(self) -> View:
        self._live = Live(console=screen.console(), auto_refresh=False, vertical_overflow="visible")
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, run: Run, now: datetime, *, ended: bool) -> None:
        self._live.update(Group(*_lines(run, now, ended=ended)), refresh=True)

    def wait(self, seconds: float, run: Run) -> None:
        # Clocks and spinners go on between two looks.
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(_REDRAW_SECONDS)
            self.show(run, datetime.now(UTC), ended=False)


class PlainView(View):
    """A line for each state that is over, and one now and then about the training."""

    def __init__(self) -> None:
        self._num_shown = 0
        self._said_training = ""
        self._training_at = 0.0

    def show(self, run: Run, now: datetime, *, ended: bool) -> None:
        rows = run.history.rows
        # The last row may go on (a loop of states is one row): it is over when another follows.
        over = len(rows) if ended else max(0, len(rows) - 1)
        for row in rows[self._num_shown : over]:
            screen.say(state_line(row, now, note(row, run)))
        self._num_shown = max(self._num_shown, over)
        if rows and not ended and rows[-1].name == "Train" and rows[-1].running:
            self._show_training(run.training.progress)

    def wait(self, seconds: float, run: Run) -> None:  # noqa: ARG002
        time.sleep(seconds)

    def _show_training(self, progress: Progress) -> None:
        text = training_text(progress)
        if text == self._said_training or time.monotonic() - self._training_at < _PLAIN_TRAINING_SECONDS:
            return
        if not self._said_training:
            screen.say("  … Train")
        self._said_training, self._training_at = text, time.monotonic()
        screen.say(f"      {text}")


def _lines(run: Run, now: datetime, *, ended: bool) -> Iterator[RenderableType]:
    for row in run.history.rows:
        text = state_line(row, now, note(row, run))
        yield screen.running(text) if row.running and not ended else text
        if row.name == "Train" and row is run.history.row("Train") and run.training.progress.job:
            yield _training_bar(run.training.progress, running=row.running)


def state_line(row: Row, now: datetime, said: str) -> Text:
    """One state: how it went, how long it took, what it found."""
    mark = screen.BROKEN if row.fatal else screen.WENT_ON if row.error else screen.DONE
    return screen.line(mark, row.name, row.seconds(now), said)


def note(row: Row, run: Run) -> str:
    """What is said beside a state."""
    if row.name == "Train" and row is run.history.row("Train"):
        return run.training.progress.instance_type
    parts = [run.notes.get(row.name, "")]
    if row.error and not row.running:
        parts.append(short(row.error))
    if row.tries > 1 and row.name != "Wait for endpoint":
        parts.append(f"{row.tries} tries")
    return ", ".join(part for part in parts if part)


def _training_bar(progress: Progress, *, running: bool) -> RenderableType:
    """The bar while it trains; afterwards only what it came to."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=6)
    if running and progress.step:
        grid.add_column(width=BAR_WIDTH)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=progress.max_steps, completed=progress.step, width=BAR_WIDTH)
        grid.add_row("", bar, Text(training_text(progress)))
    else:
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_row("", Text(training_text(progress), style="dim"))
    return grid


def training_text(progress: Progress) -> str:
    """`step 28/60  loss 2.91  held-out 3.40 (base 4.12)  4,812 tok/s  19.0 s left`."""
    figures = progress.figures
    if not progress.step:
        return f"{progress.status}: {progress.said}" if progress.said else progress.status
    parts = [f"step {progress.step}/{progress.max_steps}"]
    if "loss" in figures:
        parts.append(f"loss {figures['loss']:.3f}")
    if "base_heldout_loss" in figures:
        tuned = f"{figures['heldout_loss']:.3f}" if "heldout_loss" in figures else "…"
        parts.append(f"held-out {tuned} (base {figures['base_heldout_loss']:.3f})")
    if "tokens_per_second" in figures:
        parts.append(f"{figures['tokens_per_second']:,.0f} tok/s")
    if progress.step < progress.max_steps and "hours_remaining" in figures:
        parts.append(f"{screen.duration(figures['hours_remaining'] * 3600)} left")
    if "usd_so_far" in figures and not is_local():
        parts.append(f"{screen.usd(figures['usd_so_far'])} so far")
    return "  ".join(parts)
