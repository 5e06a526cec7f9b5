"""One server for the session, and an account in it: bucket, key, roles, a repository and a way to build images."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import aws
from local_aws.server import Server, start
from tests.signing import sign_in

ACCOUNT_ID = "123456789012"
REGION = "us-east-1"
BUCKET = "programs"
REPOSITORY = "programs"
REPOSITORY_URI = f"{ACCOUNT_ID}.dkr.ecr.{REGION}.amazonaws.com/{REPOSITORY}"
DOCKERFILE = """\
FROM python:3.11-slim
WORKDIR /opt/program
COPY . .
RUN pip install nothing
ENV GREETING="hello there"
ENTRYPOINT ["python", "-m", "program"]
"""
JOB_ACTIONS = [
    "s3:GetObject",
    "s3:PutObject",
    "s3:ListBucket",
    "logs:CreateLogGroup",
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "ecr:GetAuthorizationToken",
    "ecr:BatchCheckLayerAvailability",
    "ecr:GetDownloadUrlForLayer",
    "ecr:BatchGetImage",
]


def wait_for(look: Callable[[], Any], seconds: float = 20) -> Any:
    """The first true answer; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    pytest.fail(f"nothing after {seconds} s")


def allow(*actions: str, resource: str = "*") -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": resource}


def zip_of(files: Mapping[str, str]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return archive.getvalue()


@dataclass
class Account:
    """What the tests do in the account, as its administrator."""

    server: Server
    clients: dict[str, Any] = field(default_factory=dict)
    counter: int = 0

    def client(self, service: str) -> Any:
        if service not in self.clients:
            self.clients[service] = self.server.client(service)
        return self.clients[service]

    def name(self, stem: str) -> str:
        self.counter += 1
        return f"{stem}-{self.counter}"

    def role(self, service: str, *statements: dict[str, Any]) -> str:
        """A new role that the service may assume; its ARN."""
        trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
        name = self.name("role")
        arn = self.client("iam").create_role(
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        )["Role"]["Arn"]
        policy = {"Version": "2012-10-17", "Statement": list(statements)}
        self.client("iam").put_role_policy(RoleName=name, PolicyName="policy", PolicyDocument=json.dumps(policy))
        return str(arn)

    def deny(self, role_arn: str, action: str) -> None:
        statement = {"Effect": "Deny", "Action": action, "Resource": "*"}
        self.client("iam").put_role_policy(
            RoleName=role_arn.rsplit("/", 1)[-1],
            PolicyName="denied",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
        )

    def put(self, key: str, body: bytes) -> str:
        self.client("s3").put_object(Bucket=BUCKET, Key=key, Body=body)
        return f"s3://{BUCKET}/{key}"

    def get(self, key: str) -> bytes:
        return bytes(self.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def keys(self, prefix: str) -> list[str]:
        listed = self.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return sorted(item["Key"] for item in listed.get("Contents", []))

    def log_lines(self, group: str, prefix: str = "") -> list[str]:
        logs = self.client("logs")
        try:
            found = logs.filter_log_events(logGroupName=group, **({"logStreamNamePrefix": prefix} if prefix else {}))
        except logs.exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in found["events"]]

    def project(self, files: Mapping[str, str], *, role: str | None = None, tag: str = "latest") -> str:
        """A build project of this source; its name."""
        name = self.name("project")
        self.put(f"sources/{name}.zip", zip_of(files))
        variables = {"REPOSITORY_URI": REPOSITORY_URI, "IMAGE_TAG": tag}
        self.client("codebuild").create_project(
            name=name,
            source={"type": "S3", "location": f"{BUCKET}/sources/{name}.zip", "buildspec": "version: 0.2"},
            artifacts={"type": "NO_ARTIFACTS"},
            environment={
                "type": "LINUX_CONTAINER",
                "image": "aws/codebuild/standard:7.0",
                "computeType": "BUILD_GENERAL1_SMALL",
                "environmentVariables": [{"name": n, "value": v} for n, v in variables.items()],
            },
            serviceRole=role or self.role("codebuild.amazonaws.com", allow("*")),
        )
        return name

    def build(self, project: str, **variables: str) -> dict[str, Any]:
        """Run a build to its end."""
        override = [{"name": n, "value": v} for n, v in variables.items()]
        codebuild = self.client("codebuild")
        started = codebuild.start_build(projectName=project, environmentVariablesOverride=override)

        def ended() -> Any:
            build = codebuild.batch_get_builds(ids=[started["build"]["id"]])["builds"][0]
            return build if build["buildStatus"] != "IN_PROGRESS" else None

        result: dict[str, Any] = wait_for(ended)
        return result

    def image(self, program: str) -> str:
        """The URI of an image that runs the program."""
        tag = self.name("image")
        built = self.build(self.project({"Dockerfile": DOCKERFILE, "program.py": program}, tag=tag))
        assert built["buildStatus"] == "SUCCEEDED", built["phases"]
        return f"{REPOSITORY_URI}:{tag}"

    def job_request(self, image: str, **changes: Any) -> dict[str, Any]:
        """A CreateTrainingJob request that works."""
        name = self.name("job")
        request = {
            "TrainingJobName": name,
            "AlgorithmSpecification": {"TrainingImage": image, "TrainingInputMode": "File"},
            "RoleArn": self.role("sagemaker.amazonaws.com", allow(*JOB_ACTIONS)),
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out", "CompressionType": "NONE"},
            "ResourceConfig": {"InstanceType": "ml.g5.12xlarge", "InstanceCount": 1, "VolumeSizeInGB": 50},
            "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        }
        return {**request, **changes}

    def train(self, image: str, **changes: Any) -> dict[str, Any]:
        """Run a job to its end; its description."""
        request = self.job_request(image, **changes)
        self.client("sagemaker").create_training_job(**request)
        return self.ended(request["TrainingJobName"])

    def ended(self, job: str) -> dict[str, Any]:
        def look() -> Any:
            described = self.client("sagemaker").describe_training_job(TrainingJobName=job)
            return described if described["TrainingJobStatus"] not in ("InProgress", "Stopping") else None

        result: dict[str, Any] = wait_for(look)
        return result


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root: Path = tmp_path_factory.mktemp("local-aws")
    with start(root) as running:
        yield running


@pytest.fixture(scope="session")
def account(server: Server) -> Account:
    account = Account(server)
    account.client("s3").create_bucket(Bucket=BUCKET)
    account.client("ecr").create_repository(repositoryName=REPOSITORY)
    return account


@pytest.fixture
def handlers_signed_in(account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lambda handlers that are called in this process find the account and its artifact bucket."""
    sign_in(account.server, monkeypatch)
    monkeypatch.setenv("ARTIFACT_BUCKET", BUCKET)
    aws.client.cache_clear()
    yield
    aws.client.cache_clear()


@pytest.fixture(autouse=True)
def _no_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").set_faults()
