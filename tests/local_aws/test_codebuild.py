"""Builds: the Dockerfile is carried out and the image pushed, as the project's role."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_aws.conftest import BUCKET, DOCKERFILE, REPOSITORY, Account, allow, wait_for, zip_of

SOURCE = {"Dockerfile": DOCKERFILE, "program.py": "print('built')"}
BUILD_ACTIONS = [
    "s3:GetObject",
    "logs:CreateLogGroup",
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "ecr:GetAuthorizationToken",
    "ecr:BatchCheckLayerAvailability",
    "ecr:InitiateLayerUpload",
    "ecr:UploadLayerPart",
    "ecr:CompleteLayerUpload",
    "ecr:PutImage",
]


def failure(build: dict[str, Any]) -> str:
    return " ".join(context["message"] for phase in build["phases"] for context in phase.get("contexts", []))


def test_a_build_pushes_an_image_and_writes_its_log(account: Account) -> None:
    role = account.role("codebuild.amazonaws.com", allow(*BUILD_ACTIONS))
    build = account.build(account.project(SOURCE, role=role, tag="one"))
    assert build["buildStatus"] == "SUCCEEDED", failure(build)
    assert build["buildComplete"] is True
    assert [phase["phaseType"] for phase in build["phases"]][-2:] == ["POST_BUILD", "COMPLETED"]
    described = account.client("ecr").describe_images(repositoryName=REPOSITORY, imageIds=[{"imageTag": "one"}])
    assert described["imageDetails"][0]["imageTags"] == ["one"]
    lines = account.log_lines(build["logs"]["groupName"], build["logs"]["streamName"])
    assert any("RUN pip install nothing: skipped" in line for line in lines)


def test_the_request_can_name_the_tag(account: Account) -> None:
    build = account.build(account.project(SOURCE, tag="two"), IMAGE_TAG="three")
    assert build["buildStatus"] == "SUCCEEDED"
    ecr = account.client("ecr")
    ecr.describe_images(repositoryName=REPOSITORY, imageIds=[{"imageTag": "three"}])
    with pytest.raises(ecr.exceptions.ImageNotFoundException):
        ecr.describe_images(repositoryName=REPOSITORY, imageIds=[{"imageTag": "two"}])


def test_an_image_runs_from_where_the_dockerfile_copied_it(account: Account) -> None:
    dockerfile = (
        "FROM python:3.11\nENV PYTHONPATH=/opt/lib\nWORKDIR /opt/app\nCOPY lib/ /opt/lib/\n"
        'COPY main.py ./\nENTRYPOINT ["python", "/opt/app/main.py"]\n'
    )
    files = {
        "deploy/Dockerfile": dockerfile,
        "lib/words.py": "WORD = 'copied'",
        "main.py": "import words, os; print(words.WORD, os.path.basename(os.getcwd()))",
    }
    build = account.build(account.project(files, tag="copied"), DOCKERFILE="deploy/Dockerfile")
    assert build["buildStatus"] == "SUCCEEDED", failure(build)
    registry = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/{REPOSITORY}"
    job = account.train(f"{registry}:copied")
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert account.log_lines("/aws/sagemaker/TrainingJobs", job["TrainingJobName"]) == ["copied app"]


def test_an_image_can_be_named_by_digest(account: Account) -> None:
    uri = account.image("print('by digest')")
    repository, tag = uri.rsplit(":", 1)
    found = account.client("ecr").describe_images(repositoryName=REPOSITORY, imageIds=[{"imageTag": tag}])
    job = account.train(f"{repository}@{found['imageDetails'][0]['imageDigest']}")
    assert job["TrainingJobStatus"] == "Completed"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"program.py": ""}, "Dockerfile is not in the source, which holds program.py"),
        ({"Dockerfile": "FROM a\nCOPY missing.py ."}, "missing.py is not in the source"),
        ({"Dockerfile": "FROM a\nADD x y\n"}, "Dockerfile:2: ADD x y: is not supported"),
        ({"Dockerfile": "FROM a\nENTRYPOINT python -m x\n"}, "must have the exec form"),
        ({"Dockerfile": "FROM a\nWORKDIR /x\n"}, "no ENTRYPOINT and no CMD"),
    ],
)
def test_a_wrong_dockerfile_fails_the_build(account: Account, files: dict[str, str], message: str) -> None:
    build = account.build(account.project(files))
    assert build["buildStatus"] == "FAILED"
    assert message in failure(build)
    assert any(message in line for line in account.log_lines(build["logs"]["groupName"]))


@pytest.mark.parametrize("action", BUILD_ACTIONS)
def test_a_denied_action_fails_the_build_and_is_named(account: Account, action: str) -> None:
    role = account.role("codebuild.amazonaws.com", allow(*BUILD_ACTIONS))
    account.deny(role, action)
    build = account.build(account.project(SOURCE, role=role))
    assert build["buildStatus"] == "FAILED"
    assert action in failure(build)


def test_a_base_image_of_another_account_needs_permission_to_pull(account: Account) -> None:
    base = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.9.0"
    source = {**SOURCE, "Dockerfile": DOCKERFILE.replace("python:3.11-slim", base)}
    role = account.role("codebuild.amazonaws.com", allow(*BUILD_ACTIONS))
    assert "ecr:GetDownloadUrlForLayer" in failure(account.build(account.project(source, role=role)))
    pull = allow("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
    allowed = account.role("codebuild.amazonaws.com", allow(*BUILD_ACTIONS), pull)
    assert account.build(account.project(source, role=allowed))["buildStatus"] == "SUCCEEDED"


def test_an_immutable_tag_is_not_pushed_twice(account: Account) -> None:
    account.client("ecr").create_repository(repositoryName="fixed", imageTagMutability="IMMUTABLE")
    uri = "123456789012.dkr.ecr.us-east-1.amazonaws.com/fixed"
    assert account.build(account.project(SOURCE), REPOSITORY_URI=uri)["buildStatus"] == "SUCCEEDED"
    assert "ImageTagAlreadyExistsException" in failure(account.build(account.project(SOURCE), REPOSITORY_URI=uri))


def test_stop_build(account: Account) -> None:
    codebuild = account.client("codebuild")
    started = codebuild.start_build(projectName=account.project(SOURCE))["build"]["id"]
    codebuild.stop_build(id=started)
    build = wait_for(lambda: codebuild.batch_get_builds(ids=[started])["builds"][0])
    assert build["buildStatus"] == "STOPPED"


def test_a_project_that_is_not_there(account: Account) -> None:
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        account.client("codebuild").start_build(projectName="nobody")


def test_a_source_that_is_no_zip(account: Account) -> None:
    project = account.project(SOURCE)
    account.put(f"sources/{project}.zip", b"not a zip")
    build = account.build(project)
    assert f"s3://{BUCKET}/sources/{project}.zip is not a zip archive" in failure(build)
    account.put(f"sources/{project}.zip", zip_of(SOURCE))
    assert account.build(project)["buildStatus"] == "SUCCEEDED"
