"""Base weights come into the bucket by themselves: through the deployed state machines, from a gated hub."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heartbeat.cli import account, main
from heartbeat.layout import BASE_MODEL
from tests.fake_hub import TOKEN
from tests.pipeline.conftest import MODEL_BUCKET, Cloud
from tests.pipeline.test_failures import assert_failed
from tests.pipeline.test_permissions import denied
from tests.pipeline.weights import Weights


@pytest.fixture
def weights(cloud: Cloud) -> Iterator[Weights]:
    """None in the bucket, a token in the secret; afterwards as it was."""
    cloud.hub.forget()
    weights = Weights(cloud)
    weights.put_aside()
    weights.set_token(TOKEN)
    yield weights
    weights.remove_token()
    weights.put_back()


def test_a_run_without_weights_brings_them_first(cloud: Cloud, weights: Weights) -> None:
    outcome = cloud.run(**cloud.given_to_be_refused())
    states = cloud.states(outcome.arn)
    assert (outcome.error, "MAX_LENGTH" in outcome.cause) == ("TrainingFailed", True), outcome.cause
    assert [name for name in states if "eights" in name or name == "Plan"] == [
        "Plan", "Ensure base weights", "Weights there?", "Bring base weights",
        "Plan", "Ensure base weights", "Weights there?",
    ]  # fmt: skip
    assert weights.made("bf16") == weights.repository()
    assert weights.made("nf4") == set()  # what this run does not need does not keep it waiting
    assert cloud.hub.leaks == []
    _assert_nowhere(cloud, TOKEN)

    cloud.hub.served.clear()
    outcome = weights.bring()
    assert outcome.status == "SUCCEEDED", outcome.cause
    assert outcome.output["made"] == ["nf4", "fp8"]
    assert {"nf4.json", "layer-003.safetensors", "tokenizer.json"} <= weights.made("nf4")
    assert weights.repository() == weights.made("fp8")
    assert cloud.hub.served == {}
    again = weights.bring()
    assert (again.output["made"], "Bring weights" in cloud.states(again.arn)) == ([], False)


def test_without_a_token_the_ways_are_named_before_an_instance_starts(cloud: Cloud, weights: Weights) -> None:
    weights.remove_token()
    before = len(weights.executions())
    outcome = cloud.run(**cloud.given_to_be_refused())
    says = (
        f"there is no checkpoint at s3://{cloud.outputs['ArtifactBucketName']}/base-models",
        "no Hugging Face token",
    )
    ways = ("base-model token", "base-model upload FOLDER", "base_model in the input")
    assert_failed(cloud, outcome, "BaseModelUnavailable", *says, *ways)
    assert len(weights.executions()) == before
    alone = weights.bring()
    assert (alone.error, cloud.jobs(alone.stem)) == ("BaseModelUnavailable", [])
    assert "base-model token" in alone.cause


def test_a_refused_token_and_a_licence_are_told_apart(cloud: Cloud, weights: Weights) -> None:
    weights.set_token("hf_no_longer_valid_000000")
    outcome = cloud.run(**cloud.given_to_be_refused())
    secret = cloud.outputs["HubTokenSecretArn"]
    assert_failed(cloud, outcome, "BaseModelUnavailable", f"refuses the token in the secret {secret}")
    assert outcome.cause.count("What to do: ") == 1
    assert "/aws/sagemaker/TrainingJobs" in outcome.cause
    _assert_nowhere(cloud, "hf_no_longer_valid_000000")
    weights.set_token(TOKEN)
    cloud.hub.accepted = False
    alone = weights.bring(make=["bf16"])
    assert alone.error == "BaseModelUnavailable"
    assert f"accept the licence at https://huggingface.co/{BASE_MODEL}" in alone.cause
    assert weights.made("bf16") == set()


def test_a_corrupted_file_is_named_and_the_rest_stays(cloud: Cloud, weights: Weights) -> None:
    name = "model-00002-of-00003.safetensors"
    cloud.hub.corrupt.add(name)
    outcome = weights.bring(make=["bf16"])
    assert outcome.error == "BaseModelUnavailable"
    assert f"{name} came with another SHA-256" in outcome.cause
    assert weights.made("bf16") == weights.repository() - {name}
    cloud.hub.corrupt.clear()
    cloud.hub.served.clear()
    assert weights.bring(make=["bf16"]).status == "SUCCEEDED"
    assert cloud.hub.served.keys() == {name}


def test_the_next_instance_is_taken(cloud: Cloud, weights: Weights) -> None:
    cloud.server.set_faults(quota=["ml.m5.xlarge"], capacity=["ml.c5.2xlarge"])
    outcome = weights.bring(make=["bf16"])
    assert outcome.status == "SUCCEEDED", outcome.cause
    assert cloud.jobs(outcome.stem)[-1]["ResourceConfig"]["InstanceType"] == "ml.m5.2xlarge"
    weights.put_back()
    weights.put_aside()
    cloud.server.set_faults(quota=["ml.m5.xlarge"])
    outcome = weights.bring(make=["nf4"], instance_types=["ml.m5.xlarge"])
    assert outcome.error == "NoCapacity", outcome.cause
    assert "ml.m5.xlarge (no quota)" in outcome.cause


def test_the_command_line_stores_the_token_and_brings(
    cloud: Cloud, weights: Weights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in cloud.server.environment.items():
        monkeypatch.setenv(name, value)
    account.client.cache_clear()
    weights.remove_token()
    monkeypatch.setattr("sys.stdin", io.StringIO("not a token\n"))
    assert main(["base-model", "token"]) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO(TOKEN + "\n"))
    assert main(["base-model", "token"]) == 0
    said = "".join(capsys.readouterr())
    assert f"https://huggingface.co/{BASE_MODEL}" in said
    assert "that is no token" in said
    assert TOKEN not in said
    assert "not a token" not in said
    cloud.hub.accepted = False
    assert main(["base-model", "bring", "--make", "bf16"]) == 1
    assert "accept the licence" in capsys.readouterr().err
    assert main(["base-model", "bring", "--make", "int4"]) == 2
    account.client.cache_clear()


def test_wrong_input_is_named(weights: Weights) -> None:
    outcome = weights.bring(make=["int4"])
    assert outcome.error == "InputInvalid"
    assert "make: 'int4' is not a format" in outcome.cause


def test_stopping_the_run_stops_the_bringing(cloud: Cloud, weights: Weights) -> None:
    cloud.hub.bytes_per_second = 20_000
    arn = cloud.start(**cloud.given_to_be_refused())
    cloud.wait_for_state(arn, "Bring base weights")
    weights.wait_for_download()
    (child,) = [each for each in weights.executions() if each["status"] == "RUNNING"]
    cloud.client("stepfunctions").stop_execution(executionArn=arn)
    assert cloud.wait(arn).status == "ABORTED"
    outcome = cloud.wait(child["executionArn"])
    assert outcome.status == "ABORTED"
    cloud.wait_for_nothing_left(outcome.stem)
    assert {job["TrainingJobStatus"] for job in cloud.jobs(outcome.stem)} == {"Stopped"}


def test_weights_elsewhere_are_pointed_at(cloud: Cloud, weights: Weights) -> None:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=MODEL_BUCKET)
    assert cloud.hub.folder is not None
    for path in cloud.hub.folder.iterdir():
        s3.upload_file(str(path), MODEL_BUCKET, f"scout/{path.name}")
    outcome = cloud.run(**cloud.given_to_be_refused(), base_model=f"s3://{MODEL_BUCKET}/scout")
    assert outcome.error == "TrainingFailed", outcome.cause
    (job,) = cloud.jobs(outcome.stem)
    sources = [channel["DataSource"]["S3DataSource"]["S3Uri"] for channel in job["InputDataConfig"]]
    assert f"s3://{MODEL_BUCKET}/scout/" in sources
    assert weights.made("bf16") == set()
    outcome = cloud.run(**cloud.given_to_be_refused(), base_model=f"s3://{MODEL_BUCKET}/none/")
    assert_failed(cloud, outcome, "BaseModelUnavailable", f"there is no checkpoint at s3://{MODEL_BUCKET}/none/")
    outcome = cloud.run(**cloud.given_to_be_refused(), base_model="s3://nobodys/scout/")
    assert_failed(cloud, outcome, "InputInvalid", "extra_model_buckets")


@pytest.mark.parametrize(
    ("role", "action"),
    [
        ("WeightsRole", "secretsmanager:GetSecretValue"),
        ("EnsureBaseWeightsRole", "secretsmanager:DescribeSecret"),
        ("StateMachineRole", "states:StartExecution"),
        ("WeightsStateMachineRole", "sagemaker:CreateTrainingJob"),
    ],
)
def test_each_permission_is_needed(role: str, action: str, cloud: Cloud, weights: Weights) -> None:
    del weights
    with denied(cloud, role, action):
        outcome = cloud.run(**cloud.given_to_be_refused())
    assert (outcome.status, outcome.error) == ("FAILED", "PermissionMissing"), outcome.cause
    assert action in outcome.cause


def _assert_nowhere(cloud: Cloud, token: str) -> None:
    """The token is in no text that anybody but the job may read."""
    texts = dict(_texts(cloud))
    assert len(texts) > 20
    assert [where for where, text in texts.items() if token in text] == []
    assert any(re.search(r"gb_done=", text) for text in texts.values())  # the job's log is among them


def _texts(cloud: Cloud) -> Iterator[tuple[str, str]]:
    states, logs = cloud.client("stepfunctions"), cloud.client("logs")
    for machine in ("StateMachineArn", "WeightsStateMachineArn"):
        arn = cloud.outputs[machine]
        yield machine, _text(states.describe_state_machine(stateMachineArn=arn))
        for execution in states.list_executions(stateMachineArn=arn)["executions"]:
            one = execution["executionArn"]
            yield one, _text(states.describe_execution(executionArn=one))
            history = states.get_paginator("get_execution_history").paginate(executionArn=one)
            yield f"history of {one}", _text(list(history))
    sagemaker = cloud.client("sagemaker")
    for job in sagemaker.list_training_jobs()["TrainingJobSummaries"]:
        name = job["TrainingJobName"]
        yield name, _text(sagemaker.describe_training_job(TrainingJobName=name))
    for group in logs.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        yield name, _text(list(logs.get_paginator("filter_log_events").paginate(logGroupName=name)))
    for function in cloud.client("lambda").list_functions()["Functions"]:
        yield function["FunctionName"], _text(function)
    cloudformation = cloud.client("cloudformation")
    for stack in cloudformation.describe_stacks()["Stacks"]:
        yield stack["StackName"], _text(stack)
        template = cloudformation.get_template(StackName=stack["StackName"])["TemplateBody"]
        yield f"template of {stack['StackName']}", _text(template)
    yield "secret", _text(cloud.client("secretsmanager").describe_secret(SecretId=cloud.outputs["HubTokenSecretArn"]))
    yield "server's log", Path(cloud.server.log).read_text()


def _text(value: Any) -> str:
    return json.dumps(value, default=str)
