"""The embedded AWS as the demo starts and ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest

from heartbeat.cli import embedded
from heartbeat.cli.errors import Failed

ROOT = Path(__file__).resolve().parents[2]


def is_open(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((str(parts.hostname), int(parts.port or 0))) == 0


def wait_until_closed(url: str) -> None:
    deadline = time.monotonic() + 20
    while is_open(url):
        assert time.monotonic() < deadline, f"{url} is still open"
        time.sleep(0.1)


def test_nothing_that_leads_to_a_real_account_is_passed_on() -> None:
    given = {
        "PATH": "/bin",
        "AWS_PROFILE": "work",
        "AWS_ACCESS_KEY_ID": "AKIAREAL",
        "AWS_ENDPOINT_URL_S3": "https://s3.amazonaws.com",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/creds",
        "CDK_DEFAULT_ACCOUNT": "111122223333",
    }
    assert embedded.scrubbed(given) == {"PATH": "/bin"}


def test_a_profile_in_the_home_folder_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[default]\nregion = eu-west-1\nendpoint_url = https://example.com\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in embedded.client_environment("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    client = boto3.Session().client("s3")
    assert client.meta.endpoint_url == "http://127.0.0.1:1"
    assert client.meta.region_name == "us-east-1"


def test_it_starts_and_ends(tmp_path: Path) -> None:
    server = embedded.start(tmp_path / "aws", tmp_path / "aws.log", keep=False)
    server.save(tmp_path / "session.json")
    assert is_open(server.url)
    assert embedded.load(tmp_path / "session.json") == server
    server.stop()
    assert not is_open(server.url)
    assert not server.is_running()
    assert embedded.load(tmp_path / "session.json") is None


def test_it_ends_with_a_demo_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\nfrom heartbeat.cli import embedded\n"
        f"root = pathlib.Path({str(tmp_path)!r})\n"
        "print(embedded.start(root / 'aws', root / 'aws.log', keep=False).url, flush=True)\ntime.sleep(60)"
    )
    demo = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    url = demo.stdout.readline().strip()
    assert is_open(url)
    demo.send_signal(signal.SIGKILL)
    demo.wait()
    demo.stdout.close()
    wait_until_closed(url)


def test_another_process_under_an_old_number_is_left_alone(tmp_path: Path) -> None:
    stale = embedded.Embedded(url="http://127.0.0.1:1", pid=os.getpid())
    stale.save(tmp_path / "session.json")
    assert embedded.load(tmp_path / "session.json") is None
    stale.stop()  # would end this very test


def test_one_that_does_not_start_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "REGION", "--no-such-option")
    with pytest.raises(Failed, match="did not start") as failed:
        embedded.start(tmp_path / "aws", tmp_path / "aws.log", keep=False)
    assert "usage:" in str(failed.value)
    assert str(tmp_path / "aws.log") in str(failed.value)
