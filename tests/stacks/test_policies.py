"""What every role of every stack may do at the most."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

import pytest

from stacks.findings import wildcards
from stacks.settings import Settings
from tests.stacks.reading import Statement, Template, listed, role_statements, strings, text

# The only actions that any role has on `*`, because AWS knows no resource for them.
WITHOUT_RESOURCE = {
    "application-autoscaling:DescribeScalableTargets": "shows names only",
    "cloudwatch:PutMetricData": "limited by its namespace in a condition",
    "ecr:GetAuthorizationToken": "the token is the account's",
    "logs:CreateLogDelivery": "CloudWatch's log delivery, as the guide of Step Functions asks",
    "logs:DeleteLogDelivery": "likewise",
    "logs:DescribeLogGroups": "likewise",
    "logs:DescribeResourcePolicies": "likewise",
    "logs:GetLogDelivery": "likewise",
    "logs:ListLogDeliveries": "likewise",
    "logs:PutResourcePolicy": "likewise",
    "logs:UpdateLogDelivery": "likewise",
    "sagemaker:ListEndpointConfigs": "shows names only",
    "sagemaker:ListEndpoints": "shows names only",
    "sagemaker:ListInferenceComponents": "shows names only",
    "sagemaker:ListModels": "shows names only",
    "sagemaker:ListTrainingJobs": "shows names only",
    "xray:GetSamplingRules": "tracing has no resources",
    "xray:GetSamplingTargets": "tracing has no resources",
    "xray:PutTelemetryRecords": "tracing has no resources",
    "xray:PutTraceSegments": "tracing has no resources",
}

# The CDK's own function that empties buckets before they are deleted writes its log under AWS's basic policy.
MANAGED_POLICIES = {"arn:<AWS::Partition>:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"}


def statements(templates: Mapping[str, Template]) -> Iterator[tuple[str, Statement]]:
    for stack, template in templates.items():
        for key, statement in role_statements(template):
            yield f"{stack}/{key}", statement


def test_only_actions_that_have_no_resource_are_allowed_on_any(templates: Mapping[str, Template]) -> None:
    on_any = {
        action
        for _, statement in statements(templates)
        if "*" in listed(statement["Resource"])
        for action in listed(statement["Action"])
    }
    assert on_any == WITHOUT_RESOURCE.keys()


def test_metrics_are_written_to_sagemakers_namespaces_only(templates: Mapping[str, Template]) -> None:
    found = [each for _, each in statements(templates) if "cloudwatch:PutMetricData" in listed(each["Action"])]
    assert found
    for statement in found:
        assert statement["Condition"]["StringLike"].keys() == {"cloudwatch:namespace"}


def test_no_action_is_a_wildcard(templates: Mapping[str, Template]) -> None:
    assert [(where, each["Action"]) for where, each in statements(templates) if "*" in str(each["Action"])] == []


def test_no_statement_is_written_by_exclusion(templates: Mapping[str, Template]) -> None:
    assert [where for where, each in statements(templates) if {"NotAction", "NotResource"} & each.keys()] == []


def test_roles_are_passed_to_sagemaker_only(templates: Mapping[str, Template]) -> None:
    found = [each for _, each in statements(templates) if "iam:PassRole" in listed(each["Action"])]
    assert len(found) == 9  # two state machines in each environment, and what makes an endpoint of components
    for statement in found:
        assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
        assert all(text(resource).endswith(".Arn>") for resource in listed(statement["Resource"]))


def test_no_policy_of_aws_is_attached_but_the_one_that_the_cdk_needs(templates: Mapping[str, Template]) -> None:
    attached = {
        text(policy)
        for template in templates.values()
        for resource in template["Resources"].values()
        for policy in resource.get("Properties", {}).get("ManagedPolicyArns", [])
    }
    assert attached == MANAGED_POLICIES
    assert not [each for template in templates.values() for each in strings(template) if "FullAccess" in each]


@pytest.mark.parametrize("environment", ["dev", "zero"])
def test_no_wildcard_is_accepted_that_no_role_has(templates: Mapping[str, Template], environment: str) -> None:
    settings = Settings(environment=environment, endpoint_scale_to_zero=environment == "zero")
    had = {
        text(resource)
        for _, statement in role_statements(templates[f"{environment}-Pipeline"])
        for resource in listed(statement["Resource"])
    }
    assert not [end for end in wildcards(settings) if not any(resource.endswith(end) for resource in had)]


def test_data_and_models_are_reached_by_prefix(templates: Mapping[str, Template]) -> None:
    """No role but those of the CDK reaches a bucket's objects except below a prefix or in a bucket that was named."""
    for where, statement in statements(templates):
        for resource in map(text, listed(statement["Resource"])):
            if any(action.endswith("Object") for action in listed(statement["Action"])):
                own = r"/(datasets|base-models|runs|checkpoints|endpoints)/\*$|/[0-9a-f]{64}\.zip$"
                assert re.search(rf"{own}|:(models-)?elsewhere/\*$", resource), where


def test_one_role_reads_the_token_and_writes_base_weights(templates: Mapping[str, Template]) -> None:
    def who(action: str, ending: str) -> set[str]:
        return {
            where.split("/")[1].split("DefaultPolicy")[0]
            for where, each in statements(templates)
            if action in listed(each["Action"]) and any(text(r).endswith(ending) for r in listed(each["Resource"]))
        }

    assert who("secretsmanager:GetSecretValue", "<HubToken.Id>") == {"WeightsRole"}
    assert who("s3:PutObject", "/base-models/*") == {"WeightsRole"}
    reading = [each for _, each in statements(templates) if "secretsmanager:GetSecretValue" in listed(each["Action"])]
    assert len(reading) == 4  # one in each environment


def test_components_are_touched_only_where_endpoints_host_them(templates: Mapping[str, Template]) -> None:
    for stack, template in templates.items():
        written = json.dumps([statement for _, statement in role_statements(template)])
        there = {each for each in ("InferenceComponent", "inference-component", "-wake-") if each in written}
        assert (len(there) == 3) == (stack == "zero-Pipeline"), stack
        assert there == set() or stack == "zero-Pipeline"


def test_components_and_alarms_are_the_apps_own(templates: Mapping[str, Template]) -> None:
    known = (":inference-component/heartbeat-zero", ":alarm:HeartBeat-zero-wake-heartbeat-zero")
    for _, statement in role_statements(templates["zero-Pipeline"]):
        for resource in map(text, listed(statement["Resource"])):
            kind = next((kind for kind in ("inference-component/", "-wake-") if kind in resource), None)
            if kind and "TargetTracking" not in resource:
                assert any(resource.endswith((name, f"{name}-*")) for name in known), resource


def test_the_endpoints_role_is_passed_by_who_makes_the_endpoint(templates: Mapping[str, Template]) -> None:
    passing = {
        name.partition("Role")[0]: [text(each) for each in listed(statement["Resource"])]
        for name, statement in role_statements(templates["zero-Pipeline"])
        if "iam:PassRole" in listed(statement["Action"])
    }
    assert set(passing) == {"StateMachine", "WeightsStateMachine", "HostModel"}
    (role,) = passing["HostModel"]
    assert role.startswith("<EndpointRole")
