"""Two ways to show a run: redrawn in a terminal, or line by line everywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
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

_BAR_WIDTH, _NARROWEST_BAR = 24, 6
_PLAIN_SECONDS = 10.0
_PATIENCE_SECONDS = 5.0
_REDRAW_SECONDS = 0.1


class Run(Protocol):
    """What a view looks at."""

    @property
    def name(self) -> str: ...
    @property
    def history(self) -> History: ...
    @property
    def notes(self) -> Mapping[str, str]: ...
    @property
    def training(self) -> TrainingLog: ...


class View:
    """A context in which a run is shown: a line for each state that is over, and what goes on below them."""

    def __init__(self) -> None:
        self._num_shown = 0

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, run: Run, now: datetime, *, ended: bool) -> None:
        """The lines of states that are over by now; then the state that goes on."""
        rows = run.history.rows
        # The last state may go on (a loop of states is one row): it is over when another follows.
        num_over = len(rows) if ended else max(0, len(rows) - 1)
        for row in rows[self._num_shown : num_over]:
            screen.say(state_line(row, now, note(row, run)))
            if row.name == "Train" and row is run.history.row("Train") and run.training.progress.step:
                screen.say(Text(f"      {training_text(run.training.progress)}", style="dim"))
        self._num_shown = max(self._num_shown, num_over)
        self.show_current(rows[-1] if rows and not ended else None, run, now)

    def show_current(self, row: Row | None, run: Run, now: datetime) -> None:
        raise NotImplementedError

    def wait(self, seconds: float, run: Run) -> None:
        raise NotImplementedError


class LiveView(View):
    """Redraws the state that goes on in place. What is over scrolls up: any height of terminal will do."""

    def __enter__(self) -> View:
        self._live = Live(console=screen.console(), auto_refresh=False, transient=True)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show_current(self, row: Row | None, run: Run, now: datetime) -> None:
        parts: list[RenderableType] = []
        if row:
            parts.append(screen.running(state_line(row, now, note(row, run))))
            if row.name == "Train" and run.training.progress.job:
                parts.append(_training(run.training.progress))
        self._live.update(Group(*parts), refresh=True)

    def wait(self, seconds: float, run: Run) -> None:
        # Clocks and spinners go on between two looks.
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(_REDRAW_SECONDS)
            self.show(run, datetime.now(UTC), ended=False)


class PlainView(View):
    """Lines only: one now and then about the training."""

    def __init__(self) -> None:
        super().__init__()
        self._said = ""
        self._said_at = -_PLAIN_SECONDS

    def show_current(self, row: Row | None, run: Run, now: datetime) -> None:
        # Only of what one has to wait for.
        if row is None or not row.running or row.seconds(now) < _PATIENCE_SECONDS:
            return
        about = training_text(run.training.progress) if row.name == "Train" else note(row, run)
        text = f"  … {row.name}  {about}".rstrip()
        if text != self._said and time.monotonic() - self._said_at >= _PLAIN_SECONDS:
            self._said, self._said_at = text, time.monotonic()
            screen.say(text)

    def wait(self, seconds: float, run: Run) -> None:  # noqa: ARG002
        time.sleep(seconds)


def state_line(row: Row, now: datetime, said: str) -> Text:
    """One state: how it went, how long it took, what it found."""
    mark = screen.BROKEN if row.fatal else screen.WENT_ON if row.error else screen.DONE
    return screen.line(mark, row.name, row.seconds(now), said)


def note(row: Row, run: Run) -> str:
    """What is said beside a state."""
    if row.name == "Train" and row is run.history.row("Train"):
        return run.training.progress.instance_type
    if row.name == "Wait for approval" and row.running:
        return f"to decide: python -m heartbeat approve {run.name} [--reject]"
    parts = [run.notes.get(row.name, "")]
    if row.error and not row.running and not parts[0]:
        parts = [short(row.error) or row.why]
    if row.tries > 1 and row.name not in {"Claim endpoint", "Wait for endpoint"}:
        parts.append(f"{row.tries} tries")
    return ", ".join(part for part in parts if part)


def _training(progress: Progress) -> RenderableType:
    """Steps as a bar, and the figures beside it."""
    text = Text(training_text(progress))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=3)
    # The figures come first where there is not room for both.
    width = min(_BAR_WIDTH, screen.console().width - text.cell_len - 6)
    if not progress.step or width < _NARROWEST_BAR:
        grid.add_row("", text)
    else:
        grid.add_row("", ProgressBar(total=progress.max_steps, completed=progress.step, width=width), text)
    return grid


def training_text(progress: Progress) -> str:
    """`step 28/60  loss 2.91  held-out 3.40 (base 4.12)  4,812 tok/s  19.0 s left`."""
    figures = progress.figures
    if not progress.step:
        return progress.said or progress.status
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
    if progress.said.startswith("answers of "):
        parts.append(progress.said)
    if "usd_so_far" in figures and not is_local():
        parts.append(f"{screen.usd(figures['usd_so_far'])} so far")
    return "  ".join(parts)
