"""What commands share on a terminal: the console, one line for each phase, and how figures are written."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from heartbeat import durations

TITLE_WIDTH = 24
_PATIENCE_SECONDS = 2.0
DONE, WENT_ON, BROKEN = "✓", "↷", "✗"
STYLES = {DONE: "green", WENT_ON: "yellow", BROKEN: "bold red"}


@functools.cache
def console() -> Console:
    """Standard output. It knows by itself whether it is a terminal, and whether colours are wanted."""
    return Console(highlight=False, emoji=False)


@functools.cache
def errors() -> Console:
    """Standard error, for what is not the answer that a script reads."""
    return Console(highlight=False, emoji=False, stderr=True)


def say(text: str | Text = "", to: Console | None = None) -> None:
    """One line, as it is: never wrapped, never read as markup."""
    (to or console()).print(text if isinstance(text, Text) else Text(text), soft_wrap=True)


def line(mark: str, title: str, seconds: float | None, detail: str = "") -> Text:
    """`  ✓ cdk deploy          12.3 s  4 stacks`."""
    style = STYLES.get(mark, "cyan")
    took = "" if seconds is None else duration(seconds)
    parts = [("  ", ""), (mark, style), (f" {title:<{TITLE_WIDTH}}", ""), (f"{took:>10}", "dim")]
    return Text.assemble(*parts, (f"  {detail}" if detail else "", ""))


@dataclass
class Phase:
    """A phase in progress. `detail` is shown beside it, and stays when it is done."""

    title: str
    detail: str = ""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def __rich__(self) -> Table:
        return running(line(" ", self.title, self.seconds, self.detail))


def running(text: Text) -> Table:
    """The line of something that goes on: a spinner in the place of its mark."""
    grid = Table.grid()
    grid.add_column(width=2)
    grid.add_column(width=1)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    # One spinner a moment, so that every redraw shows the same turn of it.
    grid.add_row("", Text(_SPINNER.frames[int(time.monotonic() * 10) % len(_SPINNER.frames)], style="cyan"), text[3:])
    return grid


_SPINNER = Spinner("dots")


@contextmanager
def phase(title: str, on: Console | None = None) -> Iterator[Phase]:
    """Shows that something goes on, and how long it took; on standard output where `on` names no other console."""
    current, on = Phase(title), on or console()
    # Without a terminal to redraw on: a line, but only about what takes longer than one waits for.
    begun = threading.Timer(_PATIENCE_SECONDS, lambda: say(f"  … {title}", on))
    try:
        if on.is_terminal:
            with Live(current, console=on, transient=True, refresh_per_second=10):
                yield current
        else:
            begun.start()
            yield current
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        say(line(BROKEN, title, current.seconds, "stopped" if stopped else current.detail), on)
        raise
    finally:
        begun.cancel()
    say(line(DONE, title, current.seconds, current.detail), on)


def fitted(build: Callable[[Collection[str]], Table], give_up: Sequence[str]) -> Table:
    """The table that `build` makes without these columns: without the first of `give_up` that it is too wide with.

    Its cells are whole: what is cut short is a figure that nobody can read.
    """
    on = console()
    wide = on.options.update(width=1000)
    for count in range(len(give_up) + 1):
        table = build(give_up[:count])
        if on.measure(table, options=wide).maximum <= on.width:
            break
    return table


def duration(seconds: float) -> str:
    """`0.4 s`, `2 min 03 s`, `7 h 24 min`."""
    return f"{seconds:.1f} s" if seconds < 59.95 else durations.exactly(round(seconds))


def usd(value: float | None) -> str:
    return "unknown" if value is None else f"${value:,.2f}"


def size(num_bytes: float) -> str:
    """`8.5 MiB`, `202.1 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} bytes" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 row`, `2,400 rows`, `3 batches`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
