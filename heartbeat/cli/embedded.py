"""The embedded AWS as a process of the demo: started, found again, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from heartbeat.cli.cdk import ROOT, tail
from heartbeat.cli.errors import Failed

ACCOUNT = "123456789012"
REGION = "us-east-1"
_START_SECONDS = 60
_STOP_SECONDS = 30
_SCRUBBED = ("AWS_", "CDK_")


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A server that runs: where, and which process."""

    url: str
    pid: int

    def is_running(self) -> bool:
        """Whether the process is still there, and still this server: process ids are used again."""
        shown = subprocess.run(["ps", "-p", str(self.pid), "-o", "args="], capture_output=True, text=True, check=False)
        return "local_aws" in shown.stdout

    def stop(self) -> None:
        """Ends the server and all that it runs: jobs, endpoints, functions."""
        if not self.is_running():
            return
        os.kill(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while self.is_running():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            if child := _CHILDREN.get(self.pid):
                child.poll()  # a child that has ended is there until it is asked for
            time.sleep(0.05)
        _forget(_CHILDREN.pop(self.pid, None))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def load(path: Path) -> Embedded | None:
    """The server that `save` wrote down, if it still runs."""
    try:
        found = Embedded(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return found if found.is_running() else None


def start(root: Path, log: Path, *, keep: bool) -> Embedded:
    """Starts a server on a free port. Unless it is to be kept, it ends with this process, however that ends.

    Raises Failed, with the end of its log.
    """
    command = [sys.executable, "-m", "local_aws", "--port", "0", "--root", str(root), "--region", REGION]
    ready = root / "ready"
    root.mkdir(parents=True)
    with log.open("w") as errors, ready.open("w") as output:
        process = subprocess.Popen(
            command if keep else [*command, "--stop-at-end-of-stdin"],
            cwd=ROOT,
            env=scrubbed(os.environ),
            stdin=subprocess.DEVNULL if keep else subprocess.PIPE,
            stdout=output,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends the server in order.
        )
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        word, _, url = ready.read_text().strip().partition(" ")
        if word == "ready" and url:
            _CHILDREN[process.pid] = process
            return Embedded(url=url, pid=process.pid)
        time.sleep(0.05)
    process.kill()
    _forget(process)
    raise Failed(f"the embedded AWS did not start. The end of its log:\n{tail(log)}\nAll of it: {log}")


_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""Servers that this process started; their standard input must stay open as long as they are to run."""


def _forget(child: subprocess.Popen[bytes] | None) -> None:
    if child:
        child.wait()
        if child.stdin:
            child.stdin.close()


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without anything that leads to a real account."""
    return {name: value for name, value in environment.items() if not name.startswith(_SCRUBBED)}


def client_environment(url: str) -> dict[str, str]:
    """What points every AWS client at the embedded AWS, and at nothing else."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": ACCOUNT,
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        # ~/.aws is neither read nor written: a profile there may name an endpoint, or an account.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
