"""Starts one trainer for each GPU of this machine and ends them together.

torchrun would do, but for its end: its agent kills the workers 30 seconds after SIGTERM, where SageMaker gives 120,
and it waits for every worker where here the first one's end is the job's. The variables are torchrun's, so a trainer
that torchrun starts works as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

MASTER_PORT = 29_500
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
"""For the other trainers once one has failed: they wait in a collective that will not come, and are killed."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines of a job, and which one this is."""

    num_hosts: int = 1
    host: int = 0
    master: str = "127.0.0.1"


def launch(arguments: Sequence[str], *, num_processes: int, cluster: Cluster) -> int:
    """Run `python *arguments` once for each GPU; the exit status of the first to fail, or of the job's first rank.

    SIGTERM and SIGINT are passed on. When this machine's first process has ended well the others are ended: after
    an early stop they would wait for it for ever.
    """
    children = [
        subprocess.Popen([sys.executable, *arguments], env=_variables(local, num_processes, cluster))
        for local in range(num_processes)
    ]

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    status = _wait(children)
    _end(children)
    return status


def _variables(local: int, num_processes: int, cluster: Cluster) -> dict[str, str]:
    return {
        **os.environ,
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "RANK": str(cluster.host * num_processes + local),
        "WORLD_SIZE": str(cluster.num_hosts * num_processes),
        "MASTER_ADDR": cluster.master,
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(MASTER_PORT)),
    }


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        statuses = [child.poll() for child in children]
        for status in statuses:
            if status:  # a signal's number is negative: a shell would show 128 more than it
                return status if status > 0 else 128 - status
        if statuses[0] == 0:
            return 0
        time.sleep(POLL_SECONDS)


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()
