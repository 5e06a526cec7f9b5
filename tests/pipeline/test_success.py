"""Runs that end well, through the deployed state machine."""

from __future__ import annotations

import json

from tests.pipeline.conftest import NUM_ROWS, QUICK, Cloud
from tests.training import tiny


def test_what_a_run_writes_is_encrypted_with_the_apps_key(cloud: Cloud) -> None:
    outcome = cloud.run(hyperparameters=QUICK, deploy=False)
    assert outcome.status == "SUCCEEDED", outcome.cause
    assert outcome.output["endpoint_name"] is None
    s3, bucket = cloud.client("s3"), cloud.outputs["ArtifactBucketName"]
    keys = [
        item["Key"]
        for item in s3.list_objects_v2(Bucket=bucket, Prefix=f"runs/{outcome.arn.split(':')[-1]}/")["Contents"]
    ]
    names = {key.rsplit("/", 1)[-1] for key in keys}
    assert {
        "plan.json",
        "dataset.json",
        "gate.json",
        "metrics.json",
        "scores.json",
        "report.html",
        "adapter_model.safetensors",
    } <= names
    # The check counts for the run's own settings, as the trainer does.
    assert json.loads(cloud.run_file(outcome, "dataset.json"))["stats"]["max_length"] == int(
        tiny.HYPERPARAMETERS["MAX_LENGTH"]
    )
    heads = [s3.head_object(Bucket=bucket, Key=key) for key in keys]
    assert {head["ServerSideEncryption"] for head in heads} == {"aws:kms"}
    assert len({head["SSEKMSKeyId"] for head in heads}) == 1


def test_rows_of_ones_own_to_judge_by(cloud: Cloud) -> None:
    rows = tiny.conversations(NUM_ROWS + 30)[NUM_ROWS:]
    broken = cloud.put_dataset("own-broken.jsonl", b"{}\n")
    outcome = cloud.run(hyperparameters=QUICK, deploy=False, held_out_dataset=broken)
    assert outcome.error == "DatasetInvalid"
    assert "held-out line 1" in outcome.cause
    own = cloud.put_dataset("own.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    outcome = cloud.run(hyperparameters=QUICK, deploy=False, held_out_dataset=own)
    assert outcome.status == "SUCCEEDED", outcome.cause
    counted = json.loads(cloud.run_file(outcome, "metrics.json"))["rows"]
    trained_on = json.loads(cloud.run_file(outcome, "dataset.json"))["stats"]
    assert counted == {"training": trained_on["rows"], "heldout": 27, "over_long": 0, "near_repeats": 3}
    assert trained_on["own_held_out_rows"] == 27, "the check counts what the trainer judges by"


def test_no_capacity_then_the_next_instance(cloud: Cloud) -> None:
    cloud.server.set_faults(capacity=["ml.p4d.24xlarge"], quota=["ml.g5.48xlarge"])
    instances = ["ml.p4d.24xlarge", "ml.g5.48xlarge", "ml.g5.12xlarge"]
    outcome = cloud.run(hyperparameters=QUICK, deploy=False, instance_types=instances)
    assert outcome.status == "SUCCEEDED", outcome.cause
    assert outcome.output["instance_type"] == "ml.g5.12xlarge"
    states = cloud.states(outcome.arn)
    assert states.count("Train") == 3
    jobs = cloud.jobs(outcome.stem)  # the one without quota was refused before it became a job
    assert [job["ResourceConfig"]["InstanceType"] for job in jobs] == ["ml.p4d.24xlarge", "ml.g5.12xlarge"]
    assert len({job["TrainingJobName"] for job in jobs}) == 2


def test_throttling_is_retried(cloud: Cloud) -> None:
    cloud.server.set_faults(throttle={"CreateTrainingJob": 2})
    outcome = cloud.run(hyperparameters=QUICK, deploy=False)
    assert outcome.status == "SUCCEEDED", outcome.cause
    assert len(cloud.jobs(outcome.stem)) == 1


def test_the_stop_leaves_a_usable_adapter(cloud: Cloud) -> None:
    """The 8-hour stop, 1,500 times faster: SageMaker sends SIGTERM, the trainer saves, the run goes on."""
    cloud.server.set_faults(runtime_scale=20 / 28800)
    endless = {**QUICK, "MAX_STEPS": 100_000}
    outcome = cloud.run(hyperparameters=endless, deploy=False)
    assert outcome.status == "SUCCEEDED", outcome.cause
    assert outcome.output["stopped_early"]
    (job,) = cloud.jobs(outcome.stem)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert job["StoppingCondition"]["MaxRuntimeInSeconds"] == 28800
    record = json.loads(cloud.run_file(outcome, "metrics.json"))
    assert record["status"] == "stopped_early"
    assert 0 < record["steps_done"] < 100_000


def test_a_person_approves(cloud: Cloud, fresh_endpoint: str) -> None:
    arn = cloud.start(hyperparameters=QUICK, approve=True)
    cloud.wait_for_state(arn, "Wait for approval")
    token = json.loads(cloud.wait_for_file(arn, "approval.json"))["task_token"]
    cloud.client("stepfunctions").send_task_success(taskToken=token, output="{}")
    outcome = cloud.wait(arn)
    assert outcome.status == "SUCCEEDED", outcome.cause
    assert outcome.output["endpoint_name"] == fresh_endpoint
