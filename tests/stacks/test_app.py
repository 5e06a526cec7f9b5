"""The app as a whole: its checks, its independence of where it is deployed, its answer to a user's mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam

import app as heartbeat_app
from stacks import bundling
from stacks.nag import Checks, accept_wildcards, acknowledge
from tests.stacks.reading import Template, strings, text

CDK_JSON = json.loads((bundling.ROOT / "cdk.json").read_text(encoding="utf-8"))


UNTAGGABLE = {
    "AWS::Scheduler::Schedule",
    "AWS::IAM::Policy",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
    "Custom::S3AutoDeleteObjects",
    "Custom::WhatRunsLeft",
    # The CDK's own function that empties buckets, and its role.
    "AWS::IAM::Role",
    "AWS::Lambda::Function",
}


def run_app(tmp_path: Path, context: Mapping[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
    """`python app.py` as the CDK's command line starts it."""
    return subprocess.run(
        [sys.executable, "app.py"],
        cwd=bundling.ROOT,
        env=os.environ
        | environment
        | {"CDK_OUTDIR": str(tmp_path), "CDK_CONTEXT_JSON": json.dumps(CDK_JSON["context"] | context)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def role_with(app: cdk.App, resource: str) -> iam.Role:
    """A role in a stack of its own that may read `resource`."""
    role = iam.Role(cdk.Stack(app, "Stack"), "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    role.add_to_policy(iam.PolicyStatement(actions=["s3:GetObject"], resources=[resource]))
    return role


@pytest.fixture
def small_app(tmp_path: Path) -> cdk.App:
    app = cdk.App(outdir=str(tmp_path), analytics_reporting=False, builtin_cloud_formation_validation=False)
    cdk.Validations.of(app).add_plugins(Checks(app))
    return app


def test_stacks_are_deployed_in_the_order_that_they_need(templates: Mapping[str, Template]) -> None:
    parts = ("Storage", "Registry", "Pipeline", "Monitoring")
    for environment in ("dev", "prod", "own", "zero"):
        found = [each for each in templates if each.startswith(environment)]
        assert found == [f"{environment}-{part}" for part in parts]


def test_environments_share_an_account_without_a_clash(templates: Mapping[str, Template]) -> None:
    """No two resources of one type are given the same name."""
    kinds = re.compile(r"(?<!Metric)(?<!Attribute)(?<!Display)Name$")
    names: Counter[tuple[str, str, str]] = Counter()
    for template in templates.values():
        for resource in template["Resources"].values():
            for name, value in resource.get("Properties", {}).items():
                # A literal, or one that ends in a literal, is the name that the app chose.
                if kinds.search(name) and isinstance(value, str) and name not in {"PolicyName", "BucketName"}:
                    names[resource["Type"], name, value] += 1
    chosen = {name for _, _, name in names}
    assert {"HeartBeat-dev", "HeartBeat-prod", "HeartBeat-own"} <= chosen
    assert [name for name, count in names.items() if count > 1] == []


def test_environments_refer_to_their_own_stacks_only(templates: Mapping[str, Template]) -> None:
    for stack, template in templates.items():
        environment = stack.partition("-")[0]
        others = {"dev", "prod", "own", "zero"} - {environment}
        written = json.dumps(template)
        assert not [other for other in others if f"HeartBeat-{other}" in written]


def test_templates_name_no_partition_region_or_account(templates: Mapping[str, Template]) -> None:
    bound = re.compile(r"arn:aws[a-z-]*:|\b[a-z]{2}(-[a-z]+)+-\d\b|\b\d{12}\b|\.amazonaws\.com(\.cn)?/")
    for stack, template in templates.items():
        template = {key: value for key, value in template.items() if key != "Mappings"}
        found = {match[0] for each in strings(template) if "AWS::" not in each for match in bound.finditer(each)}
        own_image = {"123456789012", "eu-west-1", ".amazonaws.com/"} if stack == "own-Pipeline" else set()
        assert found == own_image, stack


def test_everything_that_can_be_is_tagged(templates: Mapping[str, Template]) -> None:
    untagged = {
        resource["Type"]
        for template in templates.values()
        for resource in template["Resources"].values()
        if not {"Tags", "ResourceTags"} & resource.get("Properties", {}).keys()
    }
    assert untagged == UNTAGGABLE
    tags = templates["own-Storage"]["Resources"]["Key961B73FD"]["Properties"]["Tags"]
    assert {each["Key"]: each["Value"] for each in tags} == {
        "heartbeat:environment": "own",
        "heartbeat:project": "heartbeat",
        "team": "hockey",
    }


def test_a_wildcard_without_a_reason_stops_the_synth(small_app: cdk.App) -> None:
    role_with(small_app, "arn:aws:s3:::bucket/private/*")
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        small_app.synth()


def test_a_wildcard_with_a_reason_passes(small_app: cdk.App) -> None:
    role = role_with(small_app, "arn:aws:s3:::bucket/private/*")
    accept_wildcards(role, {"/private/*": "a test"})
    small_app.synth()


def test_a_reason_counts_for_its_own_construct_only(small_app: cdk.App) -> None:
    role_with(small_app, "arn:aws:s3:::bucket/private/*")
    accept_wildcards(cdk.Stack(small_app, "Other"), {"/private/*": "a test"})
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        small_app.synth()


def test_no_reason_accepts_every_wildcard_at_once(small_app: cdk.App) -> None:
    role = role_with(small_app, "arn:aws:s3:::bucket/private/*")
    accept_wildcards(role, {"*": "whatever"})
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        small_app.synth()


def test_another_finding_is_acknowledged_by_its_id(small_app: cdk.App) -> None:
    role = role_with(small_app, "*")
    acknowledge(role, {"AwsSolutions-IAM5[Resource::*]": "a test"})
    small_app.synth()


def test_an_invalid_template_stops_the_synth(tmp_path: Path) -> None:
    app = heartbeat_app.make_app(str(tmp_path))
    stack = cdk.Stack(app, "Stack")
    cdk.CfnResource(stack, "Bucket", type="AWS::S3::Bucket", properties={"BucketNmae": "x"})
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()


def test_cdk_json_sets_every_recommended_flag() -> None:
    (library,) = (Path(cdk.__file__).parent / "_jsii").glob("aws-cdk-lib@*.tgz")
    with tarfile.open(library) as files:
        member = files.extractfile("package/recommended-feature-flags.json")
        assert member is not None
        recommended = json.load(member)
    flags = {key: value for key, value in CDK_JSON["context"].items() if key.startswith("@aws-cdk")}
    assert flags == recommended


def test_the_cdk_runs_on_the_node_that_the_environment_carries() -> None:
    node = Path(os.environ["JSII_NODE"])
    assert node.is_relative_to(sys.prefix)
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    assert int(version.removeprefix("v").partition(".")[0]) >= 24


def test_where_the_command_line_points_changes_no_template(templates: Mapping[str, Template], tmp_path: Path) -> None:
    done = run_app(
        tmp_path,
        {"environment": "prod"},
        CDK_DEFAULT_ACCOUNT="999999999999",
        CDK_DEFAULT_REGION="cn-north-1",
        AWS_REGION="cn-north-1",
    )
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("Storage", "Registry", "Pipeline", "Monitoring"):
        written = json.loads((tmp_path / f"HeartBeat-prod-{part}.template.json").read_text(encoding="utf-8"))
        assert written == templates[f"prod-{part}"]
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    stacks = [each for each in manifest["artifacts"].values() if each["type"] == "aws:cloudformation:stack"]
    assert {each["environment"] for each in stacks} == {"aws://unknown-account/unknown-region"}
    assert all(each["properties"]["terminationProtection"] for each in stacks)
    assert all(each["properties"]["tags"]["heartbeat:environment"] == "prod" for each in stacks)


def test_the_serving_image_is_the_regions_own(templates: Mapping[str, Template]) -> None:
    (mapping,) = templates["dev-Pipeline"]["Mappings"].values()
    assert mapping["cn-north-1"] == {"value": "727897471807"}
    assert mapping["us-east-1"] == {"value": "763104351884"}
    definition = text(templates["dev-Pipeline"]["Resources"])
    assert "/vllm:0.30.0-gpu-py312-cu130-ubuntu24.04-sagemaker" in definition
    assert "Mappings" not in templates["own-Pipeline"]


@pytest.mark.parametrize(
    ("context", "says"),
    [
        ({"environment": "prd"}, "environment=prd is not in cdk.json (did you mean prod?)"),
        ({"heartbeat.dev.log_retention_days": "45"}, "heartbeat.dev.log_retention_days=45 is not a retention"),
    ],
)
def test_a_users_mistake_is_one_line(tmp_path: Path, context: dict[str, str], says: str) -> None:
    done = run_app(tmp_path, context)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert says in line
