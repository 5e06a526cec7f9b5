"""What the tools on checkpoints share: progress, room on the disk, errors without a traceback."""

from __future__ import annotations

import errno
import shutil
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO

import torch

from training_code import shortage
from training_code.errors import TrainingError

GB = 10**9
INTERRUPTED = 130
"""Exit status of a shell's command that was ended by Ctrl-C."""

_BAR_WIDTH = 30
COPIED = ("*.json", "*.jsonl", "*.jinja", "*.model", "*.txt", "*.md", "LICENSE*", "USE_POLICY*")
"""What a checkpoint has beside its weights"""


class Files:
    """Where a tool's source and result lie: in folders of this machine, so that there is nothing to do."""

    def num_bytes(self, parts: Sequence[tuple[Collection[Path], int]]) -> int:
        """Room that the disk needs for making parts, each of files that it reads and of bytes that it writes."""
        return sum(made for _, made in parts)

    def reading(self, files: Collection[Path]) -> AbstractContextManager[None]:
        """The bodies of these files of the source can be read."""
        del files
        return nullcontext()

    def finished(self, path: Path) -> None:
        """The file of the result is whole. What was written before it is, too."""


LOCAL = Files()


class Progress:
    """A line for each file that is finished; on a terminal one line that changes."""

    def __init__(self, total_bytes: int, *, stream: TextIO | None = None) -> None:
        self._total, self._done, self._skipped = total_bytes, 0, 0
        self._stream = stream or sys.stdout
        self._started = time.monotonic()
        self._width = 0

    def skip(self, num_bytes: int) -> None:
        """Done by an earlier run: counts for the share, not for the rate."""
        self._done += num_bytes
        self._skipped += num_bytes

    def advance(self, num_bytes: int, what: str) -> None:
        self._done += num_bytes
        self._say(describe(self._done, self._total, self._done - self._skipped, time.monotonic() - self._started, what))

    def _say(self, line: str) -> None:
        is_terminal = self._stream.isatty()
        padded = line.ljust(self._width) if is_terminal else line
        self._width = len(line)
        ends_line = not is_terminal or self._done >= self._total
        print("\r" * is_terminal + padded, end="\n" if ends_line else "", file=self._stream, flush=True)


def describe(done: int, total: int, done_now: int, seconds: float, what: str) -> str:
    """`[####....]  40%  0.52 GB/s  3 min 05 s left  layer-007`: bytes done of all, and in this run's seconds."""
    share = done / total if total else 1.0
    bar = "#" * int(share * _BAR_WIDTH)
    rate = done_now / seconds if seconds else 0.0
    left = duration((total - done) / rate) if rate else "unknown time"
    return f"[{bar:.<{_BAR_WIDTH}}] {int(share * 100):3}%  {rate / GB:.2f} GB/s  {left} left  {what}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def refuse_too_small_a_disk(folder: Path, num_bytes: int) -> None:
    """Raises TrainingError where so many bytes more do not fit."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise TrainingError(
            f"{folder} needs {num_bytes / GB:.1f} GB more, and its disk has {free / GB:.1f} GB free; make room, or "
            "give a folder on a larger disk"
        )


def small_files(source: Path) -> list[Path]:
    """Config, tokenizer, chat template, probes, licence: what a checkpoint has but weights and an index of them."""
    found = {file for pattern in COPIED for file in source.glob(pattern) if file.is_file()}
    return sorted(file for file in found if not file.name.endswith(".index.json"))


def device(name: str | None) -> torch.device:
    """The device of this name, or for None the best there is. Raises TrainingError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: this machine has no GPU that torch can use; leave --device out")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def run(command: Callable[[], None]) -> int:
    """The exit status; a mistake of the user's is one sentence on stderr."""
    try:
        command()
    except TrainingError as error:
        return _fail(str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(f"the disk is full ({error.filename or 'while writing'}); make room, and run this again")
        return _fail(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}")
    except (RuntimeError, MemoryError) as error:
        if shortage.is_of_gpu(error):
            return _fail("the GPU's memory is full; end what else runs on it, or give --device cpu")
        if shortage.is_of_host(error):
            return _fail(f"this machine's memory is full; end what else runs on it ({error})")
        raise
    except KeyboardInterrupt:
        print("\ninterrupted; run this again, and it goes on where it stopped", file=sys.stderr)
        return INTERRUPTED
    return 0


def _fail(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 1
