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
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

MASTER_PORT = 29_500
POLL_SECONDS = 0.2
GRACE_SECONDS = 3.0
"""For the other trainers once one has failed: they wait in a collective that will not come, and are killed."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines of a job, and which one this is."""

    num_hosts: int = 1
    host: int = 0
    master: str = "127.0.0.1"
    interface: str = "lo0" if sys.platform == "darwin" else "lo"
    """Of the network that ranks talk over."""


@dataclass(frozen=True)
class Ended:
    """How the trainers of a machine ended."""

    status: int
    """The exit status of the first to fail, or 0."""
    killed: str | None = None
    """What to say of a trainer that a signal ended: it had no time to say anything."""


def launch(arguments: Sequence[str], *, num_processes: int, cluster: Cluster) -> Ended:
    """Run `python *arguments` once for each GPU, until the first has ended well or any has failed.

    SIGTERM and SIGINT are passed on. When this machine's first process has ended well the others are ended: after
    an early stop they would wait for it for ever. On other machines than the first any end is well after that: their
    trainers wait for the first of all, which saves alone, and fail or abort when it is gone.
    """
    children: list[subprocess.Popen[bytes]] = []
    asked_to_stop = threading.Event()

    def pass_on(number: int, _frame: FrameType | None) -> None:
        asked_to_stop.set()
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    for local in range(num_processes):
        children.append(subprocess.Popen([sys.executable, *arguments], env=_variables(local, num_processes, cluster)))
    if asked_to_stop.is_set():  # when not all of them were there
        for child in children:
            child.terminate()
    ended = _wait(children, asked_to_stop)
    _end(children)
    return Ended(0) if asked_to_stop.is_set() and cluster.host > 0 else ended


def _variables(local: int, num_processes: int, cluster: Cluster) -> dict[str, str]:
    return {
        **os.environ,
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "RANK": str(cluster.host * num_processes + local),
        "WORLD_SIZE": str(cluster.num_hosts * num_processes),
        "MASTER_ADDR": cluster.master,
        "GLOO_SOCKET_IFNAME": cluster.interface,
        "NCCL_SOCKET_IFNAME": cluster.interface,
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(MASTER_PORT)),
    }


def _wait(children: Sequence[subprocess.Popen[bytes]], asked_to_stop: threading.Event) -> Ended:
    while True:
        # Asked to stop, the first one leaves its step and saves: how the others end while it does so is no matter.
        watched = children[:1] if asked_to_stop.is_set() else children
        statuses = [child.poll() for child in watched]
        if statuses[0] == 0:
            return Ended(0)
        # One that a signal ended comes first: the others fail because it is gone.
        for local, status in sorted(enumerate(statuses), key=lambda item: item[1] or 0):
            if status is not None and status < 0:
                why = f"the process of GPU {local} was ended by {signal.Signals(-status).name}"
                if status == -signal.SIGKILL:
                    why += ", as Linux does where the host's memory is full; choose an instance with more of it"
                return Ended(128 - status, why)
            if status:
                return Ended(status)
        time.sleep(POLL_SECONDS)


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()
