from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat import failures
from heartbeat.failures import Name

_JOB = {"TrainingJobName": "hb-dev-1", "TrainingJobStatus": "Failed"}


def job_cause(reason: str) -> str:
    return json.dumps({**_JOB, "FailureReason": reason})


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("States.TaskFailed", job_cause("CapacityError: Unable to provision requested ML compute capacity. Retry.")),
        (
            "SageMaker.ResourceLimitExceededException",
            "The account-level service limit 'ml.p4d.24xlarge' is 0 Instances",
        ),
        ("SageMaker.AmazonSageMakerException", "… (Error Code: ResourceLimitExceeded; Request ID: 1)"),
        ("States.TaskFailed", job_cause("InsufficientInstanceCapacity")),
    ],
)
def test_capacity_and_quota_move_on(error: str, cause: str) -> None:
    assert failures.is_capacity(error, cause)
    assert failures.why_not(error, cause)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("States.TaskFailed", job_cause("AlgorithmError: loss is NaN at step 3, exit code: 1")),
        ("States.Timeout", None),
        ("", None),
        ("SageMaker.AmazonSageMakerException", "User is not authorized to perform: sagemaker:CreateTrainingJob"),
    ],
)
def test_other_failures_do_not(error: str, cause: str | None) -> None:
    assert not failures.is_capacity(error, cause)


def test_the_trainers_sentence_comes_through() -> None:
    cause = job_cause("AlgorithmError: the loss is NaN at step 3; lower LEARNING_RATE, exit code: 1")
    failure = failures.explain(step="Train", error="States.TaskFailed", cause=cause, log="a log")
    assert failure.error is Name.TRAINING_FAILED
    assert failure.what == "Train: the loss is NaN at step 3; lower LEARNING_RATE"
    assert failure.cause.endswith("Log: a log")
    assert "What to do: " in failure.cause


def test_a_region_that_does_not_scale_to_zero_is_told_from_another_failure() -> None:
    said = "Min instance count needs to be greater than 0 for enabled managed instance scaling"
    cause = json.dumps({"errorMessage": f"An error occurred (ValidationException): {said}", "errorType": "ClientError"})
    failure = failures.explain(step="Host model", error="ClientError", cause=cause)
    assert failure.error is Name.ENDPOINT_FAILED
    assert said in failure.what
    assert "set endpoint_scale_to_zero to false in cdk.json, or choose another Region" in failure.advice
    other = failures.explain(step="Host model", error="ClientError", cause=cause.replace("greater", "less"))
    assert other.advice == failures.advice(Name.ENDPOINT_FAILED)


@pytest.mark.parametrize("error", ["EndpointFailed", "RolledBack"])
def test_what_became_of_a_component_is_said_by_its_handler(error: str) -> None:
    cause = json.dumps({"errorMessage": "inference component heartbeat-dev failed: no capacity", "errorType": error})
    failure = failures.explain(step="Host model", error=error, cause=cause)
    assert (failure.error, failure.what) == (error, "inference component heartbeat-dev failed: no capacity")
    assert failure.advice == failures.advice(Name(error))


def test_a_nested_executions_failure_is_told_once() -> None:
    told = failures.explain(step="Bring weights", error="States.TaskFailed", cause=job_cause("no"), log="its log")
    nested = {"ExecutionArn": "arn", "Status": "FAILED", "Error": "PermissionMissing", "Cause": told.cause}
    failure = failures.explain(
        step="Bring base weights", error="States.TaskFailed", cause=json.dumps(nested), log="own"
    )
    assert failure.error is Name.PERMISSION_MISSING
    assert (failure.what, failure.log) == (told.what, "its log")
    assert failure.cause.count("What to do: ") == 1
    stopped = json.dumps({"ExecutionArn": "arn", "Status": "ABORTED"})
    assert failures.explain(step="Bring base weights", error="States.TaskFailed", cause=stopped).error is (
        Name.BASE_MODEL_UNAVAILABLE
    )


def test_a_silent_trainer_is_named() -> None:
    failure = failures.explain(
        step="Train", error="States.TaskFailed", cause=job_cause("AlgorithmError: , exit code: 137")
    )
    assert "exit code 137" in failure.what


@pytest.mark.parametrize("name", list(Name))
def test_every_name_has_advice(name: Name) -> None:
    assert failures.advice(name)


def test_a_handlers_own_error_keeps_its_name() -> None:
    cause = json.dumps({"errorMessage": "line 3: not JSON", "errorType": "DatasetInvalid"})
    failure = failures.explain(step="Check dataset", error="DatasetInvalid", cause=cause)
    assert (failure.error, failure.what) == (Name.DATASET_INVALID, "line 3: not JSON")


@pytest.mark.parametrize(
    "said",
    [
        "User: arn:aws:sts::1:assumed-role/r is not authorized to perform: s3:PutObject on resource: arn:aws:s3:::b/k",
        "An error occurred (AccessDenied) when calling the PutObject operation: User: x is not authorized to perform:"
        " s3:PutObject on resource: y",
    ],
)
def test_a_denied_action_is_named(said: str) -> None:
    failure = failures.explain(step="Plan", error="ClientError", cause=json.dumps({"errorMessage": said}))
    assert failure.error is Name.PERMISSION_MISSING
    assert failure.what.startswith("Plan: s3:PutObject was denied.")


def test_a_failed_build_names_its_phase() -> None:
    build = {
        "Build": {
            "BuildStatus": "FAILED",
            "Phases": [
                {"PhaseType": "INSTALL", "PhaseStatus": "SUCCEEDED"},
                {
                    "PhaseType": "BUILD",
                    "PhaseStatus": "FAILED",
                    "Contexts": [{"Message": "docker build: exit status 1"}],
                },
            ],
        }
    }
    failure = failures.explain(step="Build image", error="States.TaskFailed", cause=json.dumps(build))
    assert failure.error is Name.IMAGE_BUILD_FAILED
    assert "the image build failed in BUILD. docker build: exit status 1" in failure.what


@given(step=st.text(), error=st.text(), cause=st.none() | st.text() | st.builds(json.dumps, st.integers()))
def test_never_raises_and_fits_a_fail_state(step: str, error: str, cause: str | None) -> None:
    failure = failures.explain(step=step, error=error, cause=cause)
    assert failure.error in set(Name)
    assert len(failure.cause) < 2500
    failures.is_capacity(error, cause)
    failures.why_not(error, cause)
