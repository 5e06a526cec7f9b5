"""The roles have what they need and the policies are real: take one action away and the run says which."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.pipeline.conftest import QUICK, Cloud

NEEDED = [
    ("StateMachineRole", "lambda:InvokeFunction"),
    ("StateMachineRole", "ecr:DescribeImages"),
    ("StateMachineRole", "sagemaker:CreateTrainingJob"),
    ("StateMachineRole", "sagemaker:AddTags"),
    ("StateMachineRole", "iam:PassRole"),
    ("CheckDatasetRole", "s3:ListBucket"),
    ("CheckDatasetRole", "s3:GetObject"),
    ("CheckDatasetRole", "s3:PutObject"),
    ("CheckDatasetRole", "kms:Decrypt"),
    ("CheckDatasetRole", "kms:GenerateDataKey"),
    ("MakePlanRole", "s3:GetObject"),
    ("MakePlanRole", "s3:PutObject"),
    ("MakePlanRole", "sagemaker:DescribeEndpoint"),
    ("EnsureBaseWeightsRole", "s3:ListBucket"),
    ("TrainingRole", "s3:ListBucket"),
    ("TrainingRole", "s3:GetObject"),
    ("TrainingRole", "kms:Decrypt"),
    ("TrainingRole", "ecr:BatchGetImage"),
]
"""Of the actions that a run needs before it has trained; those behind training are in AFTER_TRAINING."""

AFTER_TRAINING = [
    ("ReadTrainingRole", "s3:GetObject"),
    ("TrainingRole", "s3:PutObject"),
    ("StateMachineRole", "sagemaker:CreateModelPackage"),
    ("ClaimEndpointRole", "s3:PutObject"),
    ("GatherAdaptersRole", "sagemaker:DescribeEndpoint"),
    ("StateMachineRole", "sagemaker:CreateEndpoint"),
    ("EndpointRole", "s3:GetObject"),
    ("AcceptanceCheckRole", "sagemaker:InvokeEndpoint"),
    ("AcceptanceCheckRole", "s3:GetObject"),
]


@contextmanager
def denied(cloud: Cloud, role: str, action: str) -> Iterator[None]:
    iam = cloud.client("iam")
    names = [item["RoleName"] for page in iam.get_paginator("list_roles").paginate() for item in page["Roles"]]
    (name,) = [name for name in names if name.startswith(f"HeartBeat-dev-Pipeline-{role}")]
    statement = {"Effect": "Deny", "Action": action, "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_role_policy(RoleName=name, PolicyName="taken-away", PolicyDocument=policy)
    try:
        yield
    finally:
        iam.delete_role_policy(RoleName=name, PolicyName="taken-away")


@pytest.mark.parametrize(("role", "action"), [*NEEDED, *AFTER_TRAINING])
def test_a_denied_action_fails_the_run_and_is_named(cloud: Cloud, role: str, action: str) -> None:
    with denied(cloud, role, action):
        outcome = cloud.run(hyperparameters={**QUICK, "MAX_STEPS": 4})
    assert outcome.status == "FAILED"
    assert action in outcome.cause
    assert cloud.left_behind(outcome.stem) == []
    if (role, action) != ("StateMachineRole", "lambda:InvokeFunction"):
        assert outcome.error == "PermissionMissing"
