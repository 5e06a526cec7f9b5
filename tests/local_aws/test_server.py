"""The server as a process: starting, faults, and ending without leaving anything behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from local_aws.__main__ import listen
from local_aws.server import Server, start
from tests.local_aws.conftest import BUCKET, REPOSITORY, Account, wait_for

SLEEPER = """
import os, pathlib, time
print("pid", os.getpid(), flush=True)
time.sleep(300)
"""


def is_open(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) == 0


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split() if is_alive(int(line))]


def start_a_job(server: Server) -> None:
    account = Account(server)
    account.client("s3").create_bucket(Bucket=BUCKET)
    account.client("ecr").create_repository(repositoryName=REPOSITORY)
    request = account.job_request(account.image(SLEEPER))
    account.client("sagemaker").create_training_job(**request)
    wait_for(lambda: account.log_lines("/aws/sagemaker/TrainingJobs"))


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_killing_the_server_leaves_no_child(tmp_path: Path) -> None:
    with start(tmp_path / "cloud") as server:
        start_a_job(server)
        children = children_of(server.process.pid)
        assert children
        server.process.kill()
        server.process.wait()
        wait_for(lambda: not any(is_alive(child) for child in children), 5)
        assert not is_open(server.url)


def test_a_clean_stop_leaves_no_child_and_no_port(tmp_path: Path) -> None:
    with start(tmp_path / "cloud") as server:
        start_a_job(server)
        children = children_of(server.process.pid)
        assert children
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=10) == 0
        assert time.monotonic() - started < 5
        assert not any(is_alive(child) for child in children)
        assert not is_open(server.url)


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\nfrom local_aws.server import start\n"
        "with start(pathlib.Path(sys.argv[1])) as server:\n"
        "    print(server.url, server.process.pid, flush=True)\n    time.sleep(60)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "cloud")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert starter.stdout is not None
        url, pid = starter.stdout.readline().split()
    finally:
        starter.kill()
        starter.wait()
        if starter.stdout is not None:
            starter.stdout.close()
    wait_for(lambda: not is_alive(int(pid)), 10)
    assert not is_open(url)


def test_it_listens_on_loopback_only(server: Server) -> None:
    found = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip("there is no ss here")
    own = [line.split()[3] for line in found.stdout.splitlines() if f"pid={server.process.pid}," in line]
    assert own
    assert all(address.startswith("127.0.0.1:") for address in own)


def test_a_port_that_is_taken_is_said_in_one_line(server: Server, tmp_path: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    again = subprocess.run(
        [sys.executable, "-m", "local_aws", "--port", port, "--root", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1
    assert again.stderr.startswith(f"--port {port} is not free")
    assert "Traceback" not in again.stderr


def test_nobody_is_refused_between_ready_and_the_first_answer() -> None:
    """The socket takes connections before anything serves them; they wait."""
    with listen(0) as listener:
        assert is_open(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(OSError, match="in use"):
            listen(listener.getsockname()[1])


def test_faults_are_replaced_and_read(server: Server) -> None:
    set_to = server.set_faults(capacity=["ml.p4d.24xlarge"], endpoint={"answer_status": 500})
    assert set_to["capacity"] == ["ml.p4d.24xlarge"]
    assert set_to["endpoint"]["answer_status"] == 500
    assert server.faults() == set_to
    assert server.set_faults()["capacity"] == []


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"capacities": []}, "unknown fault capacities"),
        ({"endpoint": {"crash": True}}, "unknown fault crash"),
        ({"runtime_scale": 0}, "runtime_scale=0 must be above 0"),
    ],
)
def test_wrong_faults_are_refused(server: Server, faults: dict[str, object], message: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.set_faults(**faults)
    with refused.value as answer:
        assert answer.code == 400
        assert message in json.loads(answer.read())["error"]


def test_a_request_without_credentials_is_denied(server: Server) -> None:
    request = urllib.request.Request(server.url + "/", data=b"Action=ListRoles&Version=2010-05-08", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=5)
    with refused.value as answer:
        assert answer.code == 403


def test_the_environment_points_a_client_at_the_server(server: Server) -> None:
    program = "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], **server.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "arn:aws:iam::123456789012:root"
