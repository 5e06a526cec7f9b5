"""A folder that one process writes to at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training_code.errors import TrainingError

PARTIAL = ".partial"
"""Ends the name of a file that is being written."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
"""Of a file system that has none, some network ones among them."""


@contextmanager
def only_process_in(folder: Path) -> Iterator[None]:
    """Make the folder, remove what a killed process left half written in it, and hold it until the end.

    Raises TrainingError where another process of this machine holds it. The lock ends with its process, however that
    ends. It knows nothing of other machines, which write through copies of their own: in the pipeline each run has a
    prefix to itself. A file system without locks is taken as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        for left_over in folder.glob("*" + PARTIAL):
            left_over.unlink()
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TrainingError(
            f"another process of this machine is writing to {folder}; wait for it, or give this one another folder"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
