"""What a run looks like, from the histories that runs of the demo left (tests/cli/recorded)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heartbeat.cli.history import History, said, short
from heartbeat.cli.training_log import Progress
from heartbeat.cli.watch import conclusion
from heartbeat.cli.watch_view import LiveView, PlainView, View, training_text

RECORDED = Path(__file__).parent / "recorded"
RUNS = ("first_run", "approved_run", "failed_run")


def recorded(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(DescribeExecution, events of GetExecutionHistory) as boto3 gives them."""
    found = json.loads((RECORDED / f"{name}.json").read_text())
    outcome = {key: _time(value) if key.endswith("Date") else value for key, value in found["outcome"].items()}
    return outcome, [{**event, "timestamp": _time(event["timestamp"])} for event in found["events"]]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def history(name: str) -> History:
    found = History()
    found.add(recorded(name)[1])
    return found


def show(view: View, run: Any, now: datetime, *, ended: bool) -> None:
    with view:
        view.show(run, now, ended=ended)


# --- the rows


def test_a_first_run_builds_its_image_and_creates_its_endpoint() -> None:
    rows = history("first_run").rows
    names = [row.name for row in rows]
    assert names[:6] == ["Check dataset", "Plan", "Ensure image", "Build image", "Ensure base weights", "Train"]
    assert names[-4:] == ["Create endpoint", "Wait for endpoint", "Acceptance check", "Report"]
    assert len(set(names)) == len(names)  # the endpoint's many looks are one row
    assert not any(row.running or row.fatal for row in rows)
    assert {row.name for row in rows if row.error} == {"Ensure image", "Find endpoint"}


def test_the_loop_around_the_endpoint_takes_from_its_first_look_to_its_last() -> None:
    row = history("first_run").row("Wait for endpoint")
    assert row is not None
    after = history("first_run").row("Acceptance check")
    assert after is not None
    assert row.exited is not None
    assert 0 <= (after.entered - row.exited).total_seconds() < 5
    assert row.seconds(row.entered) > 10


def test_the_loop_around_a_component_is_one_row_too() -> None:
    found, now = History(), datetime(2026, 11, 23, tzinfo=UTC)
    loop = [("Host model", "Task"), ("Wait for endpoint", "Wait"), ("Host model", "Task"), ("Acceptance check", "Task")]
    for number, (name, kind) in enumerate(loop, start=1):
        entered = {"type": f"{kind}StateEntered", "stateEnteredEventDetails": {"name": name}}
        exited = {"type": f"{kind}StateExited", "stateExitedEventDetails": {"name": name}}
        found.add([{"id": 2 * number, "timestamp": now, **entered}, {"id": 2 * number + 1, "timestamp": now, **exited}])
    assert [row.name for row in found.rows] == ["Wait for endpoint", "Acceptance check"]
    assert not any(row.running for row in found.rows)


def test_a_failed_run_ends_at_the_state_that_failed() -> None:
    rows = history("failed_run").rows
    assert [(row.name, row.fatal) for row in rows] == [("Check dataset", True), ("Explain failure", False)]
    assert rows[0].error == "InputInvalid"
    assert rows[0].why.startswith("dataset='s3://nope/x.jsonl' is in a bucket")


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("size", [1, 7])
def test_events_in_pieces_or_twice_make_the_same_rows(name: str, size: int) -> None:
    events = recorded(name)[1]
    found = History()
    for start in range(0, len(events), size):
        found.add(events[max(0, start - 3) : start + size])
    assert found.rows == history(name).rows


def test_an_aborted_run_is_not_running() -> None:
    events = recorded("first_run")[1]
    train = next(event["id"] for event in events if event.get("stateEnteredEventDetails", {}).get("name") == "Train")
    found = History()
    found.add([event for event in events if event["id"] <= train])
    assert [row.name for row in found.rows if row.running] == ["Train"]
    found.add([{"id": train + 1, "type": "ExecutionAborted", "timestamp": events[-1]["timestamp"]}])
    assert not any(row.running for row in found.rows)
    assert found.rows[-1].fatal


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("Ecr.ImageNotFoundException", "image not found"),
        ("States.Timeout", "timeout"),
        ("PlanRefused", "plan refused"),
        ("SageMaker.SageMakerException", ""),
        ("SageMaker.AmazonSageMakerException", ""),
        ("States.TaskFailed", ""),
    ],
)
def test_an_error_is_named_in_words_where_its_name_says_something(error: str, words: str) -> None:
    assert short(error) == words


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        ("Could not find endpoint x. (Service: SageMaker, Status Code: 400)", "Could not find endpoint x."),
        ('{"FailureReason": "CapacityError: no capacity"}', "CapacityError: no capacity"),
        ('{"errorMessage": "broken\\nhere", "stackTrace": []}', "broken"),
        ('{"Build": {}}', ""),
        (None, ""),
    ],
)
def test_a_cause_is_cut_to_what_it_says(cause: str | None, text: str) -> None:
    assert said(cause) == text


# --- the screen


def run_of(name: str, progress: Progress | None = None, **notes: str) -> Any:
    return SimpleNamespace(
        name=name, history=history(name), notes=notes, training=SimpleNamespace(progress=progress or Progress())
    )


def test_without_a_terminal_each_state_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    outcome, _ = recorded("first_run")
    progress = Progress(job="job", instance_type="ml.p4d.24xlarge", max_steps=60)
    progress.read("step=60 loss=4.451 tokens_per_second=2772")
    run = run_of("first_run", progress, Plan="ml.p4d.24xlarge, resident")
    show(PlainView(), run, outcome["stopDate"], ended=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(run.history.rows) + 1
    assert lines[1].split()[:2] == ["✓", "Plan"]
    assert lines[1].endswith("  ml.p4d.24xlarge, resident")
    assert lines[2].split()[:3] == ["↷", "Ensure", "image"]
    assert lines[2].endswith("image not found")
    assert lines[6].strip() == "step 60/60  loss 4.451  2,772 tok/s"


def test_a_state_is_shown_once_however_often_one_looks(capsys: pytest.CaptureFixture[str]) -> None:
    outcome, events = recorded("first_run")
    run, view = run_of("first_run"), PlainView()
    run.history = History()
    for event in events:
        run.history.add([event])
        view.show(run, event["timestamp"], ended=False)
    view.show(run, outcome["stopDate"], ended=True)
    over = [line[4:].split("  ")[0] for line in capsys.readouterr().out.splitlines() if line[2] in "✓↷✗"]
    assert over == [row.name for row in run.history.rows]


def test_a_failure_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    outcome, _ = recorded("failed_run")
    show(PlainView(), run_of("failed_run"), outcome["stopDate"], ended=True)
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["✗", "Check", "dataset"]


def test_a_wait_for_approval_says_how_to_answer(capsys: pytest.CaptureFixture[str]) -> None:
    events = recorded("approved_run")[1]
    wait = next(
        event["id"] for event in events if event.get("stateEnteredEventDetails", {}).get("name") == "Wait for approval"
    )
    run = run_of("approved_run")
    run.history = History()
    run.history.add([event for event in events if event["id"] <= wait])
    show(PlainView(), run, datetime.now(UTC), ended=False)
    assert "python -m heartbeat approve approved_run" in capsys.readouterr().out


def test_a_live_view_leaves_the_same_lines(capsys: pytest.CaptureFixture[str]) -> None:
    outcome, _ = recorded("approved_run")
    show(PlainView(), run_of("approved_run"), outcome["stopDate"], ended=True)
    plain = capsys.readouterr().out
    show(LiveView(), run_of("approved_run"), outcome["stopDate"], ended=True)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()] == plain.splitlines()


# --- the training


def test_the_log_is_read_figure_by_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    progress = Progress(job="job", status="Training", max_steps=60)
    assert training_text(progress) == "Training"
    progress.read("== loading the base model ==")
    assert training_text(progress) == "loading the base model"
    progress.read("base_heldout_loss=4.1201")
    progress.read("step=28 loss=2.9134 tokens_per_second=4812.3 hours_remaining=0.0125 usd_so_far=0.4")
    assert training_text(progress) == (
        "step 28/60  loss 2.913  held-out … (base 4.120)  4,812 tok/s  45.0 s left  $0.40 so far"
    )
    progress.read("step=28 heldout_loss=3.4")
    assert "held-out 3.400 (base 4.120)" in training_text(progress)


def test_what_runs_here_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    progress = Progress(job="job", max_steps=60)
    progress.read("step=28 usd_so_far=0.4")
    assert training_text(progress) == "step 28/60"


# --- the end


def test_the_end_says_what_can_be_done_now() -> None:
    outcome, _ = recorded("first_run")
    lines = conclusion(outcome)
    assert lines[0].startswith("Done in ")
    assert lines[0].endswith(": heartbeat-dev answers.")
    assert "  python -m heartbeat report demo --open" in lines
    assert len(conclusion(outcome, hints=False)) == 1


def test_the_end_of_a_failed_run_is_its_explanation() -> None:
    outcome, _ = recorded("failed_run")
    lines = conclusion(outcome)
    assert lines[0].startswith("InputInvalid after ")
    assert any(line.startswith("  What to do: ") for line in lines)


def test_an_execution_ended_from_outside_has_no_error_of_its_own() -> None:
    outcome, _ = recorded("first_run")
    ended = {**outcome, "status": "TIMED_OUT"}
    assert conclusion(ended)[0].startswith("Timed out after ")
