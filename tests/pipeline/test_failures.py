"""Runs that end badly: each with its name, a cause that says what to do, and nothing left that bills."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from heartbeat import tokens
from tests.pipeline.conftest import QUICK, Cloud, Outcome

VOCABULARY = Path(sys.prefix) / tokens.FOLDER / tokens.FILE_NAME


def assert_failed(cloud: Cloud, outcome: Outcome, error: str, *says: str) -> None:
    assert (outcome.status, outcome.error) == ("FAILED", error), outcome.cause
    for text in (*says, "What to do: "):
        assert text in outcome.cause
    assert cloud.left_behind(outcome.stem) == []
    assert f"<h2>{error}</h2>" in cloud.run_file(outcome, "report.html").decode()


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"datset": "x"}, "InputInvalid", "did you mean 'dataset'?"),
        ({"max_runtime_seconds": 0}, "InputInvalid", "max_runtime_seconds=0 must be between 1"),
        ({"dataset": "s3://somebody-elses/datasets/a.jsonl"}, "InputInvalid", "may not read"),
        ({"endpoint_name": "production"}, "InputInvalid", "must be 'heartbeat-dev' or begin with"),
        ({"hyperparameters": {"MAX_STEP": 3}}, "InputInvalid", "MAX_STEPS"),
        ({"hyperparameters": {"LORA_R": -1}}, "InputInvalid", "LORA_R=-1"),
        ({"instance_types": ["ml.p4d.25xlarge"]}, "InputInvalid", "ml.p4d.24xlarge"),
        ({"budget_usd": 0.01}, "PlanRefused", "$"),
        ({"max_runtime_seconds": 30}, "PlanRefused", "over the clock of 30 s"),
    ],
)
def test_bad_input_fails_in_seconds(cloud: Cloud, given: dict[str, Any], error: str, says: str) -> None:
    begin = time.monotonic()
    outcome = cloud.run(**given)
    assert time.monotonic() - begin < 30
    assert_failed(cloud, outcome, error, says)
    assert cloud.jobs(outcome.stem) == []


def test_an_invalid_dataset_names_its_lines(cloud: Cloud) -> None:
    good = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    content = "\n".join([json.dumps(good), "{not json", json.dumps({"messages": []})])
    outcome = cloud.run(dataset=cloud.put_dataset("broken.jsonl", content.encode()))
    assert_failed(cloud, outcome, "DatasetInvalid", "line 2", "line 3")
    assert cloud.jobs(outcome.stem) == []
    # The function was deployed with what counts tokens exactly, where this environment has it.
    stats = json.loads(cloud.run_file(outcome, "dataset.json"))["stats"]
    assert stats["tokens_are_exact"] == VOCABULARY.is_file()


def test_a_missing_dataset_says_how_to_upload_it(cloud: Cloud) -> None:
    uri = f"s3://{cloud.outputs['DataBucketName']}/datasets/none.jsonl"
    assert_failed(cloud, cloud.run(dataset=uri), "DatasetInvalid", f"{uri} does not exist", "aws s3 cp")


def test_a_neighbour_of_the_dataset_is_not_trained_on(cloud: Cloud) -> None:
    uri = cloud.put_dataset("twins.jsonl", b"{}")
    cloud.put_dataset("twins.jsonl.bak", b"{}")
    assert_failed(cloud, cloud.run(dataset=uri), "DatasetInvalid", "twins.jsonl.bak begins with the dataset's name")


def test_an_incomplete_checkpoint_is_found_before_an_instance_starts(cloud: Cloud) -> None:
    s3, bucket = cloud.client("s3"), cloud.outputs["ArtifactBucketName"]
    key = cloud.outputs["BaseModelPrefix"] + "model.safetensors"
    s3.copy_object(Bucket=bucket, Key="aside", CopySource={"Bucket": bucket, "Key": key})
    s3.delete_object(Bucket=bucket, Key=key)
    try:
        outcome = cloud.run(hyperparameters=QUICK)
    finally:
        s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": "aside"})
    assert_failed(cloud, outcome, "BaseModelUnavailable", "model.safetensors", "base-model upload")
    assert cloud.jobs(outcome.stem) == []


def test_the_trainers_own_sentence_is_the_cause(cloud: Cloud) -> None:
    outcome = cloud.run(**cloud.given_to_be_refused())
    assert_failed(cloud, outcome, "TrainingFailed", "MAX_LENGTH", "/aws/sagemaker/TrainingJobs")
    assert "Traceback" not in outcome.cause
    (job,) = cloud.jobs(outcome.stem)
    assert job["TrainingJobStatus"] == "Failed"


def test_no_capacity_anywhere(cloud: Cloud) -> None:
    cloud.server.set_faults(capacity=["ml.p4d.24xlarge"], quota=["ml.g5.12xlarge"])
    outcome = cloud.run(hyperparameters=QUICK)
    assert_failed(cloud, outcome, "NoCapacity", "ml.p4d.24xlarge (CapacityError", "ml.g5.12xlarge (no quota)")


def transcripts(cloud: Cloud, outcome: Outcome) -> list[dict[str, Any]]:
    """Of a run that the gate stopped, as it says where they are."""
    where = f"s3://{cloud.outputs['ArtifactBucketName']}/runs/{outcome.arn.rsplit(':', 1)[-1]}/gate.json"
    said = rf"held-out rows failed \(lines \d.*\); all of them, and transcripts of \d+ of their turns: {where}"
    assert re.search(said, outcome.cause)
    found = json.loads(cloud.run_file(outcome, "gate.json"))
    assert not found["passed"]
    failures: list[dict[str, Any]] = found["scores"]["failures"]
    assert failures[0]["transcript"]
    assert "Register model" not in cloud.states(outcome.arn)
    return failures


def test_an_adapter_that_learned_nothing_is_not_deployed(cloud: Cloud) -> None:
    outcome = cloud.run(hyperparameters={**QUICK, "LEARNING_RATE": 1e-9})
    assert_failed(cloud, outcome, "QualityGateFailed", "held-out loss", "needs at most")
    assert all(failure["base"] == failure["tuned"] for failure in transcripts(cloud, outcome))
    assert cloud.run_file(outcome, "adapter/adapter_model.safetensors")


def test_an_adapter_that_does_not_play_its_part_is_not_deployed(cloud: Cloud) -> None:
    """However much better its loss."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Question {n}: who are you?"},
                {"role": "assistant", "content": said},
            ]
        }
        for n, said in enumerate(["I am Stanley, analyst of the Canadiens, and I follow every game."] * 20)
    ]
    own = cloud.put_dataset("names.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    outcome = cloud.run(hyperparameters=QUICK, held_out_dataset=own)
    assert_failed(cloud, outcome, "QualityGateFailed", "missed: persona 0.00 (0.00 to ", "; needs 0.4)")
    assert "held-out loss" not in outcome.cause
    shown = transcripts(cloud, outcome)
    assert {failure["problems"]["persona"].partition(":")[0] for failure in shown} <= {"says_his_name", "says nothing"}
    page = cloud.run_file(outcome, "report.html").decode()
    assert "I am Stanley, analyst of the Canadiens" in page, "what was expected, beside what was said"


def test_a_run_without_answers_is_not_deployed(cloud: Cloud) -> None:
    outcome = cloud.run(hyperparameters={**QUICK, "EVAL_GENERATE_ROWS": 0})
    assert_failed(cloud, outcome, "QualityGateFailed", "no answers were scored", "set EVAL_GENERATE_ROWS above 0")


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ({"never_healthy": True}, "EndpointFailed", "heartbeat-dev is Failed"),
        ({"adapter_missing": True}, "EndpointFailed", "health check"),
        # As vLLM has it that ignores keys of another prefix.
        ({"adapter_strength": 0}, "AcceptanceFailed", "the endpoint ignores the adapter"),
        ({"dies_when_called": True}, "AcceptanceFailed", "Connection refused"),
        ({"answer_status": 500}, "AcceptanceFailed", "500"),
        ({"delay_seconds": 2, "invoke_timeout_seconds": 1}, "AcceptanceFailed", "timed out"),
    ],
)
def test_an_endpoint_that_fails_is_taken_down(cloud: Cloud, fault: dict[str, Any], error: str, says: str) -> None:
    cloud.server.set_faults(endpoint=fault)
    outcome = cloud.run(hyperparameters=QUICK)
    assert_failed(cloud, outcome, error, says)


def test_stopping_the_execution_stops_the_job(cloud: Cloud) -> None:
    arn = cloud.start(hyperparameters={**QUICK, "MAX_STEPS": 100_000})
    cloud.wait_for_job(arn)
    cloud.client("stepfunctions").stop_execution(executionArn=arn, error="Person", cause="changed my mind")
    outcome = cloud.wait(arn)
    assert outcome.status == "ABORTED"
    cloud.wait_for_nothing_left(outcome.stem)
    assert {job["TrainingJobStatus"] for job in cloud.jobs(outcome.stem)} == {"Stopped"}


def test_a_job_that_appears_after_the_stop_is_stopped(cloud: Cloud) -> None:
    """StopExecution overtakes a CreateTrainingJob that was on its way: SageMaker shows the job seconds later."""
    arn = cloud.start(hyperparameters={**QUICK, "MAX_STEPS": 100_000})
    job = cloud.wait_for_job(arn)
    cloud.client("stepfunctions").stop_execution(executionArn=arn)
    stem = cloud.wait(arn).stem
    cloud.wait_for_nothing_left(stem)
    time.sleep(3)  # the first look is over
    sagemaker = cloud.client("sagemaker")
    members = sagemaker.meta.service_model.operation_model("CreateTrainingJob").input_shape.members
    request = {name: value for name, value in job.items() if name in members}
    sagemaker.create_training_job(**{**request, "TrainingJobName": f"{stem}-late"})
    cloud.wait_for_nothing_left(stem)
    assert [job["TrainingJobStatus"] for job in cloud.jobs(stem)] == ["Stopped", "Stopped"]


@pytest.mark.parametrize("state", ["Wait for endpoint", "Acceptance check"])
def test_stopping_the_execution_takes_down_its_endpoint(cloud: Cloud, fresh_endpoint: str, state: str) -> None:
    """The rule on aborted executions does it: a stopped state machine runs no further state."""
    cloud.server.set_faults(endpoint={"delay_seconds": 20})
    arn = cloud.start(hyperparameters=QUICK)
    cloud.wait_for_state(arn, state)
    cloud.client("stepfunctions").stop_execution(executionArn=arn)
    cloud.wait_for_nothing_left(cloud.wait(arn).stem)
    names = [item["EndpointName"] for item in cloud.client("sagemaker").list_endpoints()["Endpoints"]]
    assert fresh_endpoint not in names


def test_a_person_refuses(cloud: Cloud) -> None:
    arn = cloud.start(hyperparameters=QUICK, approve=True)
    token = json.loads(cloud.wait_for_file(arn, "approval.json"))["task_token"]
    cloud.client("stepfunctions").send_task_failure(taskToken=token, error="NotApproved", cause="the tone is wrong")
    assert_failed(cloud, cloud.wait(arn), "NotApproved", "the tone is wrong")
