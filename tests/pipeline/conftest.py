"""The app as a user deploys it: the plain CDK command line into the embedded AWS, once for all these tests."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from botocore.exceptions import ClientError

from heartbeat.execution import run_id
from local_aws.server import Server, start
from tests import fake_hub
from tests.training import tiny

ROOT = Path(__file__).resolve().parents[2]
NUM_ROWS = 80
MODEL_BUCKET = "models-elsewhere"
# A random model of a few thousand parameters, and settings under which it learns something in a second or two:
# these tests ask what the pipeline does, not how well it learns.
QUICK = {
    **tiny.HYPERPARAMETERS,
    "MAX_STEPS": 8,
    "LEARNING_RATE": 0.02,
    "EVAL_EVERY_STEPS": 1000,
    "EVAL_GENERATE_ROWS": 12,
    "EVAL_MAX_NEW_TOKENS": 16,
}
PROBE = {
    "name": "sum",
    "messages": [{"role": "user", "content": "1 + 1?"}],
    "right": {"number": 2},
    "example": "It is 2.",
}
PATIENCE_SECONDS = 240


@dataclass(frozen=True)
class Outcome:
    """How an execution ended."""

    arn: str
    status: str
    output: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    cause: str = ""

    @property
    def stem(self) -> str:
        """What the names of this run's jobs, models and configurations begin with."""
        return run_id("dev", self.arn)


@dataclass(frozen=True)
class Cloud:
    """The deployed app and the AWS that it is in."""

    server: Server
    outputs: dict[str, str]
    hub: fake_hub.Hub
    """Where the app brings base weights from: it serves those that the fixture uploads, in several shards"""

    def client(self, service: str) -> Any:
        return self.server.client(service)

    def start(self, **given: Any) -> str:
        """Starts an execution and returns its ARN."""
        started = self.client("stepfunctions").start_execution(
            stateMachineArn=self.outputs["StateMachineArn"], input=json.dumps(given)
        )
        return str(started["executionArn"])

    def wait(self, arn: str) -> Outcome:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            found = self.client("stepfunctions").describe_execution(executionArn=arn)
            if found["status"] != "RUNNING":
                output = json.loads(found.get("output") or "{}")
                return Outcome(arn, found["status"], output, found.get("error", ""), found.get("cause", ""))
            time.sleep(0.1)
        pytest.fail(f"{arn} still runs after {PATIENCE_SECONDS} s in {self.states(arn)[-1:]}")

    def run(self, **given: Any) -> Outcome:
        return self.wait(self.start(**given))

    def states(self, arn: str) -> list[str]:
        """Names of the states that were entered, in order."""
        pages = self.client("stepfunctions").get_paginator("get_execution_history").paginate(executionArn=arn)
        return [
            event["stateEnteredEventDetails"]["name"]
            for page in pages
            for event in page["events"]
            if "stateEnteredEventDetails" in event
        ]

    def entered(self, arn: str, state: str) -> datetime:
        """When a state was first entered."""
        pages = self.client("stepfunctions").get_paginator("get_execution_history").paginate(executionArn=arn)
        times: list[datetime] = [
            event["timestamp"]
            for page in pages
            for event in page["events"]
            if event.get("stateEnteredEventDetails", {}).get("name") == state
        ]
        return times[0]

    def forget_deployments(self) -> None:
        """Deletes all records of endpoints, and models and configurations of former runs."""
        s3, sagemaker, bucket = self.client("s3"), self.client("sagemaker"), self.outputs["ArtifactBucketName"]
        for item in s3.list_objects_v2(Bucket=bucket, Prefix="endpoints/").get("Contents", []):
            s3.delete_object(Bucket=bucket, Key=item["Key"])
        for item in sagemaker.list_endpoint_configs()["EndpointConfigs"]:
            sagemaker.delete_endpoint_config(EndpointConfigName=item["EndpointConfigName"])
        for item in sagemaker.list_models()["Models"]:
            sagemaker.delete_model(ModelName=item["ModelName"])

    def wait_for_state(self, arn: str, name: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while name not in self.states(arn):
            assert time.monotonic() < deadline, f"{arn} did not reach {name}: {self.states(arn)}"
            time.sleep(0.1)

    def wait_for_job(self, arn: str) -> dict[str, Any]:
        """The run's first training job, as soon as SageMaker has it."""
        stem, deadline = run_id("dev", arn), time.monotonic() + PATIENCE_SECONDS
        while not (jobs := self.jobs(stem)):
            assert time.monotonic() < deadline, f"{arn} started no job: {self.states(arn)}"
            time.sleep(0.1)
        return jobs[0]

    def jobs(self, stem: str) -> list[dict[str, Any]]:
        sagemaker = self.client("sagemaker")
        found = sagemaker.list_training_jobs(NameContains=stem)["TrainingJobSummaries"]
        jobs = [sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"]) for job in found]
        return sorted(jobs, key=lambda job: job["CreationTime"])

    def left_behind(self, stem: str) -> list[str]:
        """What is there of a run that bills or clutters: live jobs, its models and configurations, its endpoint."""
        sagemaker = self.client("sagemaker")
        live = [
            job["TrainingJobName"] for job in self.jobs(stem) if job["TrainingJobStatus"] in {"InProgress", "Stopping"}
        ]
        models = [item["ModelName"] for item in sagemaker.list_models(NameContains=stem)["Models"]]
        configs = sagemaker.list_endpoint_configs(NameContains=stem)["EndpointConfigs"]
        listed = [item["EndpointName"] for item in sagemaker.list_endpoints()["Endpoints"]]
        endpoints = [name for name in listed if (self.config_of(name) or "").startswith(stem)]
        return [*live, *models, *(item["EndpointConfigName"] for item in configs), *endpoints]

    def config_of(self, endpoint: str) -> str | None:
        """What an endpoint is made of; None where it is gone, and be it since it was listed."""
        try:
            found = self.client("sagemaker").describe_endpoint(EndpointName=endpoint)
        except ClientError as error:
            if "Could not find" not in str(error):
                raise
            return None
        return str(found["EndpointConfigName"])

    def wait_for_nothing_left(self, stem: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while left := self.left_behind(stem):
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(0.2)

    def given_to_be_refused(self) -> dict[str, Any]:
        """The input of a run that the trainer refuses as soon as it has read its data, and nobody before it.

        The check counts some 160 tokens a row, with Llama 4's vocabulary or by estimate; the tiny base's has 325.
        """
        rows = [row for row in tiny.conversations(NUM_ROWS) if "tools" in row]
        dataset = self.put_dataset("refused.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode())
        return {"dataset": dataset, "hyperparameters": {**QUICK, "MAX_LENGTH": 200}, "deploy": False}

    def put_dataset(self, name: str, content: bytes) -> str:
        """Uploads a dataset and returns its URI."""
        key = f"datasets/{name}"
        self.client("s3").put_object(Bucket=self.outputs["DataBucketName"], Key=key, Body=content)
        return f"s3://{self.outputs['DataBucketName']}/{key}"

    def read(self, key: str) -> bytes:
        body = self.client("s3").get_object(Bucket=self.outputs["ArtifactBucketName"], Key=key)["Body"]
        return bytes(body.read())

    def run_file(self, outcome: Outcome, name: str) -> bytes:
        return self.read(f"runs/{outcome.arn.rsplit(':', 1)[-1]}/{name}")

    def wait_for_file(self, arn: str, name: str) -> bytes:
        s3, key = self.client("s3"), f"runs/{arn.rsplit(':', 1)[-1]}/{name}"
        s3.get_waiter("object_exists").wait(
            Bucket=self.outputs["ArtifactBucketName"],
            Key=key,
            WaiterConfig={"Delay": 1, "MaxAttempts": PATIENCE_SECONDS},
        )
        return self.read(key)

    def wait_for_endpoint(self, name: str) -> dict[str, Any]:
        self.client("sagemaker").get_waiter("endpoint_in_service").wait(
            EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": PATIENCE_SECONDS}
        )
        found: dict[str, Any] = self.client("sagemaker").describe_endpoint(EndpointName=name)
        return found


def cdk(server: Server, *arguments: str) -> str:
    """Runs the plain CDK command line from the repository's root; returns what it printed."""
    import stacks  # noqa: F401  (finds the environment's Node)

    script = ROOT / "node_modules/aws-cdk/bin/cdk"
    assert script.exists(), "npm packages are missing; run `make test`, which installs them"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [os.environ["JSII_NODE"], script, *arguments],
        cwd=ROOT,
        env={**clean, **server.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"cdk {' '.join(arguments)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with deployed(tmp_path_factory.mktemp("aws")) as cloud:
        yield cloud


@contextmanager
def deployed(root: Path, *settings: str) -> Iterator[Cloud]:
    """An AWS with the app in it, a base model and the default dataset; `settings` are `name=value` of dev.

    Its jobs and endpoints compute with one thread each: with more threads than idle cores they wait for one another,
    and an alarm takes the endpoint for a slow one.
    """
    one_thread = mock.patch.dict(os.environ, OMP_NUM_THREADS="1")
    with one_thread, fake_hub.serve() as hub, start(root) as server:
        cdk(server, "bootstrap", "--output", str(root / "cdk.out"))
        own = [
            "gate_file=tests/pipeline/gate.toml",
            f"hub_url={hub.url}",
            f'extra_model_buckets=["{MODEL_BUCKET}"]',
            *settings,
        ]
        context = [word for setting in own for word in ("-c", f"heartbeat.dev.{setting}")]
        cdk(server, "deploy", "--all", "--require-approval", "never", "--output", str(root / "cdk.out"), *context)
        described = server.client("cloudformation").describe_stacks(StackName="HeartBeat-dev-Pipeline")["Stacks"][0]
        outputs = {item["OutputKey"]: item["OutputValue"] for item in described["Outputs"]}
        cloud = Cloud(server, outputs, hub)
        base = tiny.write_base(root / "base")
        (base / "tokenizer_config.json").write_text("{}")  # a checkpoint as it is published has one
        (base / "probes.jsonl").write_text(json.dumps(PROBE))  # fewer than the bundled ones, for speed
        hub.folder = tiny.split(base, root / "repository", num_shards=3)
        for path in sorted(base.iterdir()):
            key = outputs["BaseModelPrefix"] + path.name
            server.client("s3").upload_file(str(path), outputs["ArtifactBucketName"], key)
        rows = "\n".join(json.dumps(row) for row in tiny.conversations(NUM_ROWS))
        cloud.put_dataset("stanley.jsonl", rows.encode())
        yield cloud


@pytest.fixture(autouse=True)
def _no_faults(cloud: Cloud) -> Iterator[None]:
    cloud.server.set_faults()
    yield
    cloud.server.set_faults()


@pytest.fixture
def fresh_endpoint(cloud: Cloud) -> Iterator[str]:
    """Name of the app's endpoint, of which there is none before and after the test."""
    name = cloud.outputs["EndpointName"]
    delete_endpoint(cloud, name)
    yield name
    delete_endpoint(cloud, name)


def delete_endpoint(cloud: Cloud, name: str) -> None:
    sagemaker = cloud.client("sagemaker")
    if name in [item["EndpointName"] for item in sagemaker.list_endpoints()["Endpoints"]]:
        sagemaker.delete_endpoint(EndpointName=name)
