"""How a command ends: its exit status, and one line instead of a traceback."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from botocore import exceptions

from heartbeat.cli import main, plan
from heartbeat.cli.errors import Failed, explain


def client_error(code: str, message: str = "said so") -> exceptions.ClientError:
    return exceptions.ClientError({"Error": {"Code": code, "Message": message}}, "DescribeStacks")


def end_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    def run(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(plan, "run", run)
    return main(["plan", "data.jsonl"])


def test_a_missing_file_is_the_users_to_mend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "no-such.jsonl"]) == 2
    assert capsys.readouterr().err == (
        "heartbeat: there is no file no-such.jsonl; name a JSONL file, or s3://BUCKET/KEY\n"
    )


def test_a_folder_is_not_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 2
    assert "is a folder; name one JSONL file in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (Failed("the run failed"), 1, "heartbeat: the run failed\n"),
        (exceptions.NoCredentialsError(), 2, "make demo"),
        (exceptions.NoRegionError(), 2, "export AWS_REGION=us-east-1"),
        (exceptions.ProfileNotFound(profile="work"), 2, "aws configure list-profiles"),
        (exceptions.EndpointConnectionError(endpoint_url="https://sts"), 2, "cannot be reached"),
        (client_error("ExpiredToken"), 2, "aws sso login"),
        (client_error("InvalidClientTokenId"), 2, "does not know these credentials"),
        (client_error("AccessDenied", "no"), 2, "AWS denied DescribeStacks: no"),
        (client_error("Throttling", "slow down"), 2, "DescribeStacks with Throttling: slow down"),
        (RuntimeError("a bug"), 1, "unexpected RuntimeError: a bug; HEARTBEAT_DEBUG=1 shows where"),
    ],
)
def test_every_error_is_one_line(
    error: Exception,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HEARTBEAT_DEBUG", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert end_with(error, monkeypatch) == status
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTBEAT_DEBUG", "1")
    with pytest.raises(RuntimeError, match="a bug"):
        end_with(RuntimeError("a bug"), monkeypatch)


def test_an_interrupt_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "run", run)
    assert main(["plan", "data.jsonl"]) == 130
    assert capsys.readouterr().err == ""


def test_a_dead_demo_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    said = explain(exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1"))
    assert said is not None
    assert "is the demo still running?" in said
