"""Training jobs: the container contract, run for real with small programs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_aws.conftest import BUCKET, JOB_ACTIONS, Account, allow, wait_for

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
PROGRAM = """
import json, os, pathlib, signal, sys, time
ml = pathlib.Path(os.environ["HEARTBEAT_OPT_ML"])
settings = json.loads((ml / "input/config/hyperparameters.json").read_text())
mode = settings.get("MODE", "succeed")

def stop(number, frame):
    (ml / "model/partial.txt").write_text("saved on SIGTERM")
    sys.exit(0)

if mode == "ignore_term":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, stop)
print("greeting", os.environ["GREETING"], "mode", mode, flush=True)
if mode == "fail":
    (ml / "output/failure").write_text("the dataset has no rows; upload one")
    sys.exit(1)
if mode == "crash":
    sys.exit(3)
if mode in ("hang", "ignore_term"):
    time.sleep(60)
if mode == "big":
    (ml / "model/big.bin").write_bytes(b"0" * 9_000_000)
if mode == "report":
    seen = {
        "credentials": "AWS_ACCESS_KEY_ID" in os.environ,
        "environment": os.environ.get("COLOUR"),
        "resources": json.loads((ml / "input/config/resourceconfig.json").read_text()),
        "channels": json.loads((ml / "input/config/inputdataconfig.json").read_text()),
        "files": sorted(str(p.relative_to(ml / "input/data")) for p in (ml / "input/data").rglob("*")),
        "checkpoints": sorted(p.name for p in (ml / "checkpoints").iterdir()),
    }
    (ml / "output/data/seen.json").write_text(json.dumps(seen))
    (ml / "checkpoints/second.txt").write_text("2")
if mode == "checkpoint_and_hang":
    (ml / "checkpoints/step-7.txt").write_text("7")
    time.sleep(60)
for step in range(1, 4):
    print(f"step={step} loss={4 - step}.5", flush=True)
(ml / "model/adapter").mkdir()
(ml / "model/adapter/weights.bin").write_text("weights")
"""


@pytest.fixture(scope="module")
def image(account: Account) -> str:
    return account.image(PROGRAM)


def start(account: Account, image: str, mode: str, **changes: Any) -> str:
    request = account.job_request(image, HyperParameters={"MODE": mode}, **changes)
    account.client("sagemaker").create_training_job(**request)
    return str(request["TrainingJobName"])


def statuses(job: dict[str, Any]) -> list[str]:
    return [transition["Status"] for transition in job["SecondaryStatusTransitions"]]


def test_success_uploads_the_model_uncompressed(account: Account, image: str) -> None:
    job = account.train(image)
    assert job["TrainingJobStatus"] == "Completed"
    assert statuses(job) == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    artifacts = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert artifacts == f"s3://{BUCKET}/out/{job['TrainingJobName']}/output/model/"
    assert account.get(f"out/{job['TrainingJobName']}/output/model/adapter/weights.bin") == b"weights"
    assert job["BillableTimeInSeconds"] >= 1
    lines = account.log_lines(LOG_GROUP, job["TrainingJobName"] + "/algo-1-")
    assert "greeting hello there mode succeed" in lines


def test_gzip_uploads_an_archive(account: Account, image: str) -> None:
    job = account.train(image, OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/out", "CompressionType": "GZIP"})
    assert job["ModelArtifacts"]["S3ModelArtifacts"].endswith("/output/model.tar.gz")
    assert account.keys(f"out/{job['TrainingJobName']}/") == [f"out/{job['TrainingJobName']}/output/model.tar.gz"]


def test_failure_file_is_the_reason(account: Account, image: str) -> None:
    job = account.train(image, HyperParameters={"MODE": "fail"})
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"] == "AlgorithmError: the dataset has no rows; upload one, exit code: 1"
    assert "ModelArtifacts" not in job


def test_failure_without_a_file_has_the_exit_code(account: Account, image: str) -> None:
    job = account.train(image, HyperParameters={"MODE": "crash"})
    assert job["FailureReason"] == "AlgorithmError: , exit code: 3"


def test_channels_environment_checkpoints_and_resources(account: Account, image: str) -> None:
    account.put("data/train/a.jsonl", b"{}\n")
    account.put("data/train/deep/b.jsonl", b"{}\n")
    account.put("restored/first.txt", b"1")
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/data/train/"}
    job = account.train(
        image,
        HyperParameters={"MODE": "report"},
        Environment={"COLOUR": "red"},
        InputDataConfig=[{"ChannelName": "training", "DataSource": {"S3DataSource": source}}],
        CheckpointConfig={"S3Uri": f"s3://{BUCKET}/restored"},
    )
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    seen = json.loads(account.get(f"out/{job['TrainingJobName']}/output/data/seen.json"))
    assert seen["credentials"] is True
    assert seen["environment"] == "red"
    assert seen["resources"]["current_instance_type"] == "ml.g5.12xlarge"
    assert seen["channels"]["training"]["TrainingInputMode"] == "File"
    assert seen["files"] == ["training", "training/a.jsonl", "training/deep", "training/deep/b.jsonl"]
    assert seen["checkpoints"] == ["first.txt"]
    assert account.keys("restored/") == ["restored/first.txt", "restored/second.txt"]


def test_network_isolation_withholds_credentials(account: Account, image: str) -> None:
    job = account.train(image, HyperParameters={"MODE": "report"}, EnableNetworkIsolation=True)
    seen = json.loads(account.get(f"out/{job['TrainingJobName']}/output/data/seen.json"))
    assert seen["credentials"] is False


def test_checkpoints_and_logs_are_sent_while_the_job_runs(account: Account, image: str) -> None:
    checkpoints = {"S3Uri": f"s3://{BUCKET}/live"}
    job = start(account, image, "checkpoint_and_hang", CheckpointConfig=checkpoints)
    wait_for(lambda: account.keys("live/") == ["live/step-7.txt"], 5)
    assert account.log_lines(LOG_GROUP, job) == ["greeting hello there mode checkpoint_and_hang"]
    described = account.client("sagemaker").describe_training_job(TrainingJobName=job)
    assert described["TrainingJobStatus"] == "InProgress"
    account.client("sagemaker").stop_training_job(TrainingJobName=job)
    assert account.ended(job)["TrainingJobStatus"] == "Stopped"


def test_metric_definitions_become_final_and_cloudwatch_metrics(account: Account, image: str) -> None:
    algorithm = {
        "TrainingImage": image,
        "TrainingInputMode": "File",
        "MetricDefinitions": [{"Name": "training-loss", "Regex": "loss=([0-9.]+)"}],
    }
    job = account.train(image, AlgorithmSpecification=algorithm)
    (final,) = job["FinalMetricDataList"]
    assert (final["MetricName"], final["Value"]) == ("training-loss", 1.5)
    moment = time.time()
    statistics = account.client("cloudwatch").get_metric_statistics(
        Namespace=LOG_GROUP,
        MetricName="training-loss",
        Dimensions=[{"Name": "TrainingJobName", "Value": job["TrainingJobName"]}],
        StartTime=moment - 300,
        EndTime=moment + 60,
        Period=3600,
        Statistics=["Maximum", "SampleCount"],
    )["Datapoints"]
    assert sum(point["SampleCount"] for point in statistics) == 3
    assert max(point["Maximum"] for point in statistics) == 3.5


def test_stop_saves_a_partial_model(account: Account, image: str) -> None:
    job = start(account, image, "hang")
    wait_for(lambda: account.log_lines(LOG_GROUP, job))
    account.client("sagemaker").stop_training_job(TrainingJobName=job)
    ended = account.ended(job)
    assert (ended["TrainingJobStatus"], ended["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert account.get(f"out/{job}/output/model/partial.txt") == b"saved on SIGTERM"
    with pytest.raises(ClientError, match="the training job is in status Stopped"):
        account.client("sagemaker").stop_training_job(TrainingJobName=job)


def test_max_runtime_sends_sigterm(account: Account, image: str) -> None:
    account.server.set_faults(runtime_scale=0.0003)
    ended = account.ended(start(account, image, "hang"))
    assert (ended["TrainingJobStatus"], ended["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert statuses(ended)[-3:] == ["Stopping", "Uploading", "MaxRuntimeExceeded"]
    assert ended["ModelArtifacts"]


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(account: Account, image: str) -> None:
    account.server.set_faults(runtime_scale=0.0003, term_grace_seconds=0.3)
    ended = account.ended(start(account, image, "ignore_term"))
    assert (ended["TrainingJobStatus"], ended["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_capacity_fails_the_job_after_it_was_accepted(account: Account, image: str) -> None:
    account.server.set_faults(capacity=["ml.g5.12xlarge"])
    job = account.train(image)
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("CapacityError: Unable to provision requested ML compute capacity.")
    assert "TrainingStartTime" not in job


def test_quota_refuses_the_call(account: Account, image: str) -> None:
    account.server.set_faults(quota=["ml.g5.12xlarge"])
    with pytest.raises(ClientError, match=r"ml\.g5\.12xlarge for training job usage") as refused:
        account.client("sagemaker").create_training_job(**account.job_request(image))
    assert refused.value.response["Error"]["Code"] == "ResourceLimitExceeded"


def test_throttle_ends_by_itself(account: Account) -> None:
    account.server.set_faults(throttle={"ListTrainingJobs": 1})
    sagemaker = account.client("sagemaker")
    with pytest.raises(ClientError, match="ThrottlingException"):
        sagemaker.list_training_jobs()
    sagemaker.list_training_jobs()


def test_names_are_unique(account: Account, image: str) -> None:
    request = account.job_request(image)
    account.client("sagemaker").create_training_job(**request)
    with pytest.raises(ClientError, match="must be unique") as refused:
        account.client("sagemaker").create_training_job(**request)
    assert refused.value.response["Error"]["Code"] == "ResourceInUse"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ResourceConfig": {"InstanceType": "ml.g5.13xlarge", "InstanceCount": 1}}, "instanceType"),
        ({"TrainingJobName": "a b"}, "trainingJobName"),
        ({"EnableManagedSpotTraining": True}, "MaxWaitTimeInSeconds"),
        ({"RoleArn": "arn:aws:iam::123456789012:role/nobody"}, "Could not assume role"),
        ({"HyperParameters": {"A": "x" * 2501}}, "2500"),
    ],
)
def test_a_wrong_request_is_refused(account: Account, image: str, changes: dict[str, Any], message: str) -> None:
    request = account.job_request(image, **changes)
    if "ResourceConfig" in changes:
        request["ResourceConfig"]["VolumeSizeInGB"] = 50
    with pytest.raises(ClientError, match=message):
        account.client("sagemaker").create_training_job(**request)


def test_an_image_that_is_not_there_fails_the_job(account: Account, image: str) -> None:
    job = account.train(image.rsplit(":", 1)[0] + ":no-such-tag")
    assert "Requested image" in job["FailureReason"]
    assert "not found" in job["FailureReason"]


def test_an_empty_channel_fails_the_job(account: Account, image: str) -> None:
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/nothing/here/"}
    channels = [{"ChannelName": "training", "DataSource": {"S3DataSource": source}}]
    job = account.train(image, InputDataConfig=channels)
    assert "No S3 objects found under S3 URL" in job["FailureReason"]


@pytest.mark.parametrize("action", [a for a in JOB_ACTIONS if a not in ("s3:GetObject", "s3:ListBucket")])
def test_a_denied_action_fails_the_job_and_is_named(account: Account, image: str, action: str) -> None:
    role = account.role("sagemaker.amazonaws.com", allow(*JOB_ACTIONS))
    account.deny(role, action)
    job = account.train(image, RoleArn=role)
    assert job["TrainingJobStatus"] == "Failed"
    assert action in job["FailureReason"]


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:ListBucket"])
def test_a_role_that_may_not_read_a_channel(account: Account, image: str, action: str) -> None:
    account.put("data/secret/a.jsonl", b"{}\n")
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/data/secret/"}
    channels = [{"ChannelName": "training", "DataSource": {"S3DataSource": source}}]
    role = account.role("sagemaker.amazonaws.com", allow(*JOB_ACTIONS))
    account.deny(role, action)
    job = account.train(image, RoleArn=role, InputDataConfig=channels)
    assert "Data download failed" in job["FailureReason"]
    assert action in job["FailureReason"]


def test_output_under_a_kms_key_needs_the_key(account: Account, image: str) -> None:
    key = account.client("kms").create_key()["KeyMetadata"]["Arn"]
    output = {"S3OutputPath": f"s3://{BUCKET}/out", "CompressionType": "NONE", "KmsKeyId": key}
    denied = account.train(image, OutputDataConfig=output)
    assert "kms:GenerateDataKey" in denied["FailureReason"]
    role = account.role("sagemaker.amazonaws.com", allow(*JOB_ACTIONS, "kms:GenerateDataKey"))
    allowed = account.train(image, OutputDataConfig=output, RoleArn=role)
    assert allowed["TrainingJobStatus"] == "Completed"
    stored = account.client("s3").head_object(
        Bucket=BUCKET, Key=f"out/{allowed['TrainingJobName']}/output/model/adapter/weights.bin"
    )
    assert stored["SSEKMSKeyId"] == key


def test_a_multipart_upload_under_a_kms_key_needs_to_decrypt_too(account: Account, image: str) -> None:
    key = account.client("kms").create_key()["KeyMetadata"]["Arn"]
    output = {"S3OutputPath": f"s3://{BUCKET}/out", "CompressionType": "NONE", "KmsKeyId": key}
    actions = [*JOB_ACTIONS, "kms:GenerateDataKey"]
    role = account.role("sagemaker.amazonaws.com", allow(*actions))
    big = {"HyperParameters": {"MODE": "big"}, "OutputDataConfig": output}
    assert "kms:Decrypt" in account.train(image, RoleArn=role, **big)["FailureReason"]
    role = account.role("sagemaker.amazonaws.com", allow(*actions, "kms:Decrypt"))
    assert account.train(image, RoleArn=role, **big)["TrainingJobStatus"] == "Completed"


def test_a_checkpoint_path_outside_opt_ml_is_refused(account: Account, image: str) -> None:
    checkpoints = {"S3Uri": f"s3://{BUCKET}/restored", "LocalPath": "/var/checkpoints"}
    job = account.train(image, CheckpointConfig=checkpoints)
    assert "'/var/checkpoints' must lie under /opt/ml" in job["FailureReason"]


def test_lists_can_be_filtered_and_paged(account: Account, image: str) -> None:
    names = [start(account, image, "succeed", TrainingJobName=f"listed-{n}-{time.time_ns()}") for n in range(3)]
    for name in names:
        account.ended(name)
    sagemaker = account.client("sagemaker")
    pages = sagemaker.get_paginator("list_training_jobs").paginate(
        NameContains="listed-", SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 2}
    )
    found = [[job["TrainingJobName"] for job in page["TrainingJobSummaries"]] for page in pages]
    assert found == [sorted(names)[:2], sorted(names)[2:]]
    failed = sagemaker.list_training_jobs(NameContains="listed-", StatusEquals="Failed")
    assert failed["TrainingJobSummaries"] == []


def test_tags(account: Account, image: str) -> None:
    job = account.train(image, Tags=[{"Key": "run", "Value": "one"}])
    sagemaker = account.client("sagemaker")
    sagemaker.add_tags(ResourceArn=job["TrainingJobArn"], Tags=[{"Key": "more", "Value": "two"}])
    tags = sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"run": "one", "more": "two"}
    condition = {"Name": "Tags.more", "Operator": "Equals", "Value": "two"}
    found = sagemaker.search(Resource="TrainingJob", SearchExpression={"Filters": [condition]})["Results"]
    assert [result["TrainingJob"]["TrainingJobName"] for result in found] == [job["TrainingJobName"]]
