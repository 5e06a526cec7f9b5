"""Weights held to their manifest while a job starts: one flipped byte trains nonsense, and nothing else would tell.

A file is hashed right after it was read, from the operating system's cache, in threads: Python's hashlib lets the
others run. The job looks at the verdict before it writes anything that rests on the weights.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue

from training_code.errors import TrainingError
from training_code.manifest import MANIFEST, FileRecord, sha256_of

THREADS = min(4, os.cpu_count() or 1)
"""Of each rank: some 1.5 GB/s each, which together is what a fast disk reads."""


class Digests:
    """Of a folder's files, those of `records`; of any other nothing is known, and nothing said."""

    def __init__(self, folder: Path, records: Mapping[str, FileRecord]) -> None:
        self._folder, self._records = folder, records
        self._found: dict[str, Future[str]] = {}
        self._names: SimpleQueue[str | None] = SimpleQueue()
        self._num_threads = THREADS if records else 0
        for _ in range(self._num_threads):
            # Daemons: a job that fails for another reason does not wait for them.
            threading.Thread(target=self._work, name="sha256", daemon=True).start()

    def begin(self, name: str) -> None:
        """Hash this file, in the background and once."""
        if name in self._records and name not in self._found:
            self._found[name] = Future()
            self._names.put(name)

    def require_whole(self) -> None:
        """Wait for all that were begun. Raises TrainingError for a file whose bytes are not those that were written."""
        for _ in range(self._num_threads):
            self._names.put(None)
        for name, found in self._found.items():
            if found.result() != self._records[name].sha256:
                raise TrainingError(
                    f"{self._folder / name} is damaged: its SHA-256 is not the one in {MANIFEST}; copy the file "
                    f"again, or run `python -m training_code.quantize --verify {self._folder}` where it was made"
                )

    def _work(self) -> None:
        while (name := self._names.get()) is not None:
            try:
                self._found[name].set_result(sha256_of(self._folder / name))
            except OSError as error:
                self._found[name].set_exception(
                    TrainingError(f"{self._folder / name} cannot be read: {error.strerror}; copy it again")
                )
