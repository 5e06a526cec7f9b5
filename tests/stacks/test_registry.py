from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import pytest

from stacks import bundling
from tests.stacks.reading import Template, listed, only, resources, role_statements, text

REPOSITORY = "<TrainingImages273F96E5.Arn>"


@pytest.fixture
def registry(templates: Mapping[str, Template]) -> Template:
    return templates["dev-Registry"]


@pytest.fixture
def variables(registry: Template) -> dict[str, str]:
    project = only(registry, "AWS::CodeBuild::Project")
    return {each["Name"]: text(each["Value"]) for each in project["Environment"]["EnvironmentVariables"]}


def commands(registry: Template) -> list[str]:
    spec = json.loads(only(registry, "AWS::CodeBuild::Project")["Source"]["BuildSpec"])
    assert spec["version"] == "0.2"
    (phase,) = spec["phases"]  # CodeBuild runs a post_build phase even after a build that failed
    found: list[str] = spec["phases"][phase]["commands"]
    return found


def test_an_image_is_scanned_and_its_tag_is_final(registry: Template) -> None:
    repository = only(registry, "AWS::ECR::Repository")
    assert repository["ImageScanningConfiguration"] == {"ScanOnPush": True}
    assert repository["ImageTagMutability"] == "IMMUTABLE"
    assert "RepositoryName" not in repository


def test_old_images_expire(registry: Template) -> None:
    policy = json.loads(only(registry, "AWS::ECR::Repository")["LifecyclePolicy"]["LifecyclePolicyText"])
    (rule,) = policy["rules"]
    assert rule["selection"] == {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 10}


@pytest.mark.parametrize(("stack", "policy", "emptied"), [("dev", "Delete", True), ("prod", "Retain", False)])
def test_images_are_kept_or_deleted_as_the_setting_says(
    templates: Mapping[str, Template], stack: str, policy: str, emptied: bool
) -> None:
    (repository,) = resources(templates[f"{stack}-Registry"], "AWS::ECR::Repository").values()
    assert (repository["DeletionPolicy"], repository["Properties"]["EmptyOnDelete"]) == (policy, emptied)


def test_the_tag_is_the_hash_of_the_source(registry: Template, variables: dict[str, str]) -> None:
    tag = variables["IMAGE_TAG"]
    assert re.fullmatch(r"[0-9a-f]{64}", tag)
    assert text(only(registry, "AWS::CodeBuild::Project")["Source"]["Location"]).endswith(f"/{tag}.zip")


def test_the_dockerfile_is_in_the_source(variables: dict[str, str]) -> None:
    assert (bundling.stage_training_image() / variables["DOCKERFILE"]).is_file()


def test_the_build_pushes_what_it_built_under_the_tag(registry: Template, variables: dict[str, str]) -> None:
    login, build, push = commands(registry)
    assert '"${REPOSITORY_URI%%/*}"' in login
    words = shlex.split(build)
    image = "$REPOSITORY_URI:$IMAGE_TAG"
    assert words[words.index("--tag") + 1] == image
    assert words[words.index("--file") + 1] == "$DOCKERFILE"
    assert shlex.split(push)[:3] == ["docker", "push", image]
    assert {"REPOSITORY_URI", "IMAGE_TAG", "DOCKERFILE"} == variables.keys()


def test_the_build_is_private_bounded_and_logged(registry: Template) -> None:
    project = only(registry, "AWS::CodeBuild::Project")
    (log,) = resources(registry, "AWS::Logs::LogGroup")
    assert project["Environment"]["PrivilegedMode"] is True
    assert project["TimeoutInMinutes"] == 60
    assert project["Artifacts"] == {"Type": "NO_ARTIFACTS"}
    assert text(project["EncryptionKey"]).startswith("<HeartBeat-dev-Storage:")
    assert text(project["LogsConfig"]["CloudWatchLogs"]["GroupName"]) == f"<{log}>"


@pytest.mark.parametrize(("stack", "days"), [("dev", 30), ("prod", 365)])
def test_the_log_is_kept_for_as_long_as_the_setting_says(
    templates: Mapping[str, Template], stack: str, days: int
) -> None:
    assert only(templates[f"{stack}-Registry"], "AWS::Logs::LogGroup")["RetentionInDays"] == days


def test_the_build_may_do_this_and_nothing_else(registry: Template, variables: dict[str, str]) -> None:
    allowed: dict[str, Any] = {}
    for _, statement in role_statements(registry):
        assert statement["Effect"] == "Allow"
        for resource in listed(statement["Resource"]):
            allowed.setdefault(text(resource), set()).update(listed(statement["Action"]))
    (log,) = resources(registry, "AWS::Logs::LogGroup")
    source = (
        f"arn:<AWS::Partition>:s3:::cdk-hnb659fds-assets-<AWS::AccountId>-<AWS::Region>/{variables['IMAGE_TAG']}.zip"
    )
    assert allowed == {
        source: {"s3:GetObject", "s3:GetObjectVersion"},
        REPOSITORY: {
            "ecr:BatchCheckLayerAvailability",
            "ecr:CompleteLayerUpload",
            "ecr:DescribeImages",
            "ecr:InitiateLayerUpload",
            "ecr:PutImage",
            "ecr:UploadLayerPart",
        },
        f"<{log}.Arn>": {"logs:CreateLogStream", "logs:PutLogEvents"},
        "*": {"ecr:GetAuthorizationToken"},
    }


def test_only_codebuild_of_this_account_may_take_the_role(registry: Template) -> None:
    (statement,) = only(registry, "AWS::IAM::Role")["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "codebuild.amazonaws.com"}
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
