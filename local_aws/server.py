"""Start the embedded AWS from a test or a command line, and stop it again."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_aws.faults import PATH as FAULTS_PATH
from local_aws.settings import ACCOUNT, REPOSITORY

START_SECONDS = 60
STOP_SECONDS = 15


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that runs."""

    url: str
    region: str
    process: subprocess.Popen[str]
    log: Path
    """What the server has to say about itself."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that point any AWS client at the server, as its administrator."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """A boto3 client of the administrator."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,
            region_name=self.region,
            endpoint_url=self.url,
            aws_access_key_id=ACCOUNT,
            aws_secret_access_key="local",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
        )

    def faults(self) -> dict[str, Any]:
        return self._control("GET", None)

    def set_faults(self, **faults: Any) -> dict[str, Any]:
        """Replace all faults; none means none. See `local_aws.faults.Faults`."""
        return self._control("PUT", json.dumps(faults).encode())

    def _control(self, method: str, body: bytes | None) -> dict[str, Any]:
        request = urllib.request.Request(self.url + FAULTS_PATH, data=body, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            result: dict[str, Any] = json.loads(answer.read())
        return result


@contextmanager
def start(root: Path, *, port: int = 0, region: str = "us-east-1") -> Iterator[Server]:
    """Run a server in a subprocess for the time of the `with` block.

    It dies with this process, however that ends. Raises RuntimeError, with the end of its log, when it does not
    come up.
    """
    root.mkdir(parents=True, exist_ok=True)
    log = root / "server.log"
    command = [sys.executable, "-m", "local_aws", "--port", str(port), "--root", str(root), "--region", region]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--stop-at-end-of-stdin"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
    try:
        url = _wait_until_ready(process, log)
        yield Server(url=url, region=region, process=process, log=log)
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            word, _, url = line.strip().partition(" ")
            if word == "ready":
                return url
    finally:
        watchdog.cancel()
    end = "\n".join(log.read_text().splitlines()[-20:])
    raise RuntimeError(f"the embedded AWS did not start; the end of {log}:\n{end}")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
