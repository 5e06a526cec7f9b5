"""Run a long command and show that it lives: what it does, for how long, and where its log is when it fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

_TICK_SECONDS = 0.2
_PLAIN_SECONDS = 20.0
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_WIDTH = 27
_NOISE = ("WARNING:", "npm warn", "[notice]")


class StepError(Exception):
    """A step failed; the text is for a person and names the log."""


def run_step(
    title: str,
    command: Sequence[str],
    log: Path,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    hint: str = "",
    output: TextIO | None = None,
) -> None:
    """Run `command`, its output in `log` (appended), one line about it in `output` (default: standard output).

    `hint` is shown until the command says something.

    Raises StepError with the end of the log when it fails, or cannot be started.
    """
    line = _StatusLine(title, hint, output or sys.stdout)
    with log.open("a", encoding="utf-8") as written:
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise StepError(f"{title}: {command[0]} could not be started: {error}") from None
        assert process.stdout is not None
        with process, line:
            try:
                for text in process.stdout:
                    written.write(text)
                    if text.strip() and not text.startswith(_NOISE):
                        line.said = text.strip()
                line.ok = process.wait() == 0
            except BaseException:
                process.terminate()
                process.wait()
                raise
    if not line.ok:
        end = "\n".join(f"    {text}" for text in tail(log, 15))
        raise StepError(f"{title}: failed (exit status {process.returncode}). The end of its log:\n{end}\nAll: {log}")


def tail(log: Path, num_lines: int) -> list[str]:
    """The last lines of a log."""
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:]


class _StatusLine:
    """One line that is redrawn in a terminal; elsewhere, a line now and then."""

    def __init__(self, title: str, hint: str, output: TextIO) -> None:
        self.said, self.ok = hint, False
        self._title, self._output = title, output
        self._started = time.monotonic()
        self._live = output.isatty()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._redraw, daemon=True)

    def __enter__(self) -> None:
        if not self._live:
            self._print(f"  … {self._title:<{_WIDTH}} {self.said}".rstrip())
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        mark = "✓" if self.ok else "✗"
        self._print(f"{self._erase()}  {mark} {self._title:<{_WIDTH}} {self._seconds():>8}")

    def _redraw(self) -> None:
        turn = 0
        while not self._end.wait(_TICK_SECONDS if self._live else _PLAIN_SECONDS):
            text = f"{self._title:<{_WIDTH}} {self._seconds():>8}  {self.said}"
            if self._live:
                turn += 1
                # A line that wraps could not be erased.
                line = f"  {_SPINNER[turn % len(_SPINNER)]} {text}"[: shutil.get_terminal_size().columns - 1]
                self._print(f"{self._erase()}{line}", end="")
            else:
                self._print(f"  … {text[:116]}")

    def _erase(self) -> str:
        return "\r\x1b[2K" if self._live else ""

    def _seconds(self) -> str:
        seconds = time.monotonic() - self._started
        return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02} s"

    def _print(self, text: str, end: str = "\n") -> None:
        try:
            self._output.write(text + end)
        except UnicodeEncodeError:  # a terminal that knows ASCII only
            self._output.write(text.encode("ascii", "replace").decode() + end)
        self._output.flush()
