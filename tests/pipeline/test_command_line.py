"""The command line against the deployed app: every command that calls AWS, as a person types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from heartbeat.cli import account, main
from heartbeat.execution import run_id
from tests.pipeline.conftest import QUICK, Cloud
from tests.signing import sign_in
from tests.training import tiny

SETTINGS = [f"{name}={value}" for name, value in QUICK.items()]


@pytest.fixture(autouse=True)
def _signed_in(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    sign_in(cloud.server, monkeypatch)
    monkeypatch.setenv("COLUMNS", "160")
    account.client.cache_clear()
    yield
    account.client.cache_clear()


def test_a_run_from_a_file_to_an_answer_and_its_end(
    cloud: Cloud, fresh_endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = tmp_path / "own.jsonl"
    dataset.write_text("\n".join(json.dumps(row) for row in tiny.conversations(80)))

    assert main(["run", "--dataset", str(dataset), "--name", "typed", "--approve", "--no-watch", *SETTINGS]) == 0
    arn = f"{cloud.outputs['StateMachineArn'].replace(':stateMachine:', ':execution:')}:typed"
    cloud.wait_for_file(arn, "approval.json")
    assert main(["status"]) == 0
    assert "typed" in capsys.readouterr().out

    assert main(["approve", "typed"]) == 0
    assert main(["watch", "typed"]) == 0
    shown = capsys.readouterr().out
    assert "✓ Quality gate" in shown
    assert "2 of 2 metrics met their bounds" in shown
    (row,) = [line.split() for line in shown.splitlines() if line.startswith(" persona ")]
    assert row[-1] == "met", "the table of what was judged"
    assert "step 8/8" in shown
    assert f"{fresh_endpoint} answers." in shown

    assert main(["chat", "--once", "Who are you?", "--model", "both", "--max-tokens", "8"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[:2]] == ["stanley", "base"]

    assert main(["report", "--output", str(tmp_path / "report.html")]) == 0  # the latest run is meant
    assert "typed" in (tmp_path / "report.html").read_text()

    capsys.readouterr()
    assert main(["status", "--json"]) == 0
    (running,) = json.loads(capsys.readouterr().out)["running"]
    assert (running["name"], running["status"]) == (fresh_endpoint, "InService")

    assert main(["approve", "typed"]) == 2
    assert "no longer waits" in capsys.readouterr().err
    assert main(["run", "--name", "typed", *SETTINGS]) == 2
    assert "--name typed" in capsys.readouterr().err

    assert main(["destroy"]) == 2  # there is no terminal to ask
    assert cloud.client("sagemaker").list_endpoints()["Endpoints"]
    assert main(["destroy", "--yes"]) == 0
    assert f"endpoint {fresh_endpoint} ended" in capsys.readouterr().out
    assert not cloud.left_behind(run_id("dev", arn))
    assert main(["status"]) == 0
    assert "Nothing of environment dev bills" in capsys.readouterr().out


def test_destroy_ends_a_run_in_progress_first(
    cloud: Cloud, fresh_endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arn = cloud.start(hyperparameters={**QUICK, "MAX_STEPS": 5000})
    cloud.wait_for_state(arn, "Train")
    assert main(["destroy", "--yes"]) == 0
    assert "✓ run " in capsys.readouterr().out
    assert cloud.wait(arn).status == "ABORTED"
    assert not [job for job in cloud.jobs(run_id("dev", arn)) if job["TrainingJobStatus"] == "InProgress"]
    assert fresh_endpoint not in str(cloud.client("sagemaker").list_endpoints()["Endpoints"])


def test_a_refused_run_is_explained_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--instances", "ml.p3.8xlarge", *SETTINGS]) == 1
    shown = capsys.readouterr().out
    assert "✗ Plan" in shown
    assert "PlanRefused after" in shown
    assert "What to do:" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["watch", "nobody"], "there is no run 'nobody'; the latest are:"),
        (["status", "--environment", "prod"], "there is no stack HeartBeat-prod-Pipeline"),
        (["run", "MAX_STEPS=0"], "MAX_STEPS=0 must be at least 1"),
        (["run", "--endpoint", "theirs"], "endpoint_name='theirs' must be 'heartbeat-dev'"),
        (["chat", "--endpoint", "heartbeat-dev-none", "--once", "x"], "there is no endpoint heartbeat-dev-none"),
        (["check", "s3://no-such-bucket-here/x.jsonl"], "there is no bucket no-such-bucket-here; check the name"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
