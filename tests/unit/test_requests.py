"""Every SageMaker body is one that botocore's own model of the service takes."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest
import regex
from botocore.model import Shape
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from heartbeat import requests
from heartbeat.container_settings import MAX_ADAPTERS, ContainerSettings
from tests.unit.test_container_settings import SETTINGS

_SESSION = botocore.session.get_session()
_SERVICE = _SESSION.get_service_model("sagemaker")
_TAGS = requests.tags(environment="dev", run="a-run")
_ROLE = "arn:aws:iam::123456789012:role/a-role"
_KEY = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000"


def training_job(**changes: Any) -> dict[str, Any]:
    return requests.create_training_job(
        **{
            "name": "hb-dev-0123456789ab-1-deadbeef",
            "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/training:tag",
            "role_arn": _ROLE,
            "hyperparameters": {"MAX_STEPS": "400"},
            "input_data": [
                requests.channel("training", "s3://data/datasets/a.jsonl"),
                requests.channel("model", "s3://artifacts/base-models/m/bf16/"),
            ],
            "output_uri": "s3://artifacts/runs/r/training/",
            "checkpoint_uri": "s3://artifacts/runs/r/checkpoints/",
            "kms_key_arn": _KEY,
            "instance_type": "ml.p4d.24xlarge",
            "volume_size": 500,
            "stopping": requests.stopping_condition(max_runtime_seconds=28800, use_spot=False),
            "use_spot": False,
            "job_tags": _TAGS,
            **changes,
        }
    )


_CONTAINER = requests.container(
    image="763104351884.dkr.ecr.us-east-1.amazonaws.com/vllm:0.30.0",
    base_model_uri="s3://artifacts/base-models/m/bf16/",
    adapter_uris={name: f"s3://artifacts/runs/{name}/adapter/" for name in SETTINGS["adapters"]},
    environment=ContainerSettings(**SETTINGS).environment(),
)

BODIES: dict[str, dict[str, Any]] = {
    "CreateTrainingJob": training_job(),
    "CreateModelPackage": requests.create_model_package(
        group="heartbeat-dev",
        description="an adapter",
        image=_CONTAINER["Image"],
        adapter_uri="s3://artifacts/runs/r/adapter/",
        approval="Approved",
        metadata={"dataset": "s3://data/datasets/a.jsonl"},
    ),
    "CreateModel": requests.create_model(
        name="hb-dev-1", role_arn=_ROLE, primary_container=_CONTAINER, model_tags=_TAGS
    ),
    "CreateEndpointConfig": requests.create_endpoint_config(
        name="hb-dev-1", model="hb-dev-1", instance_type="ml.p4d.24xlarge", config_tags=_TAGS
    ),
    "CreateEndpointConfig with pools": requests.create_endpoint_config(
        name="hb-dev-1",
        model="hb-dev-1",
        instance_type="",
        pools=requests.instance_pools(["ml.p4d.24xlarge", "ml.p4de.24xlarge"]),
        config_tags=_TAGS,
    ),
    "CreateEndpointConfig of components": requests.create_component_endpoint_config(
        name="hb-dev-1", role_arn=_ROLE, instance_type="ml.p4d.24xlarge", most_copies=1, config_tags=_TAGS
    ),
    "CreateInferenceComponent": requests.create_component(
        endpoint="heartbeat-dev", model="hb-dev-1", accelerators=8, component_tags=_TAGS
    ),
    "UpdateInferenceComponent": requests.update_component(
        endpoint="heartbeat-dev",
        specification=requests.component_specification(model="hb-dev-2", accelerators=8),
        alarms=["an-alarm"],
    ),
    "UpdateInferenceComponentRuntimeConfig": requests.component_copies(endpoint="heartbeat-dev", copies=1),
    "CreateEndpoint": requests.create_endpoint(name="heartbeat-dev", config="hb-dev-1", endpoint_tags=_TAGS),
    **{
        f"UpdateEndpoint {update}": requests.update_endpoint(
            name="heartbeat-dev",
            config="hb-dev-1",
            deployment_config=requests.deployment(update=update, rollback={"Alarms": [{"AlarmName": "an-alarm"}]}),
            retain_count=update != "all_at_once",
        )
        for update in requests.UPDATES
    },
}
"""By operation, and what else tells bodies of one apart."""


def problems(operation: str, body: dict[str, Any]) -> list[str]:
    """What botocore's model of `operation` says against `body`: names, types, lengths, enums and patterns."""
    shape = _SERVICE.operation_model(operation.split()[0]).input_shape
    report = ParamValidator().validate(body, shape)
    return [*([report.generate_report()] if report.has_errors() else []), *_against(shape, body, operation)]


def _against(shape: Shape | None, value: Any, where: str) -> list[str]:
    """Enums and patterns, which botocore's validator leaves to the service."""
    if shape is None or value is None:
        return []
    if shape.type_name == "structure":
        members = shape.members
        return [text for name in value if name in members for text in _against(members[name], value[name], name)]
    if shape.type_name == "list":
        return [text for item in value for text in _against(shape.member, item, where)]
    if shape.type_name == "map":
        return [text for item in value.values() for text in _against(shape.value, item, where)]
    pattern = shape.metadata.get("pattern")
    found = []
    if getattr(shape, "enum", None) and value not in shape.enum:
        found.append(f"{where}={value!r} is not in the enum")
    if pattern and isinstance(value, str) and not regex.fullmatch(pattern, value):
        found.append(f"{where}={value!r} does not match {pattern}")
    return found


@pytest.mark.parametrize("operation", BODIES)
def test_body_is_valid(operation: str) -> None:
    assert problems(operation, BODIES[operation]) == []


@pytest.mark.parametrize("operation", BODIES)
def test_a_misspelt_member_is_noticed(operation: str) -> None:
    body = dict(BODIES[operation])
    name, value = body.popitem()
    assert problems(operation, {**body, name + "x": value})


@pytest.mark.parametrize("update", requests.UPDATES)
def test_an_update_has_time_for_its_alarms_to_speak(update: str) -> None:
    body = requests.deployment(update=update, rollback={})
    policies = {name: policy for name, policy in body.items() if name.endswith("UpdatePolicy")}
    assert list(policies) == ["RollingUpdatePolicy" if update == "rolling" else "BlueGreenUpdatePolicy"]
    (policy,) = policies.values()
    interval = policy.get("TrafficRoutingConfiguration", policy)["WaitIntervalInSeconds"]
    # SageMaker's limits; two hours are what it lets a start take.
    assert 300 <= interval <= 3600
    assert interval + policy.get("TerminationWaitInSeconds", 0) + 7200 < policy["MaximumExecutionTimeoutInSeconds"]
    assert policy["MaximumExecutionTimeoutInSeconds"] <= 28_800


def test_an_update_takes_more_instances() -> None:
    assert [requests.instances_while_updating(update, 3) for update in requests.UPDATES] == [6, 6, 4]


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("RegisterScalableTarget", requests.scalable_target(endpoint="heartbeat-dev", least=1, most=4)),
        ("PutScalingPolicy", requests.scaling_policy(endpoint="heartbeat-dev", concurrency=4)),
        ("DeregisterScalableTarget", requests.scaled_variant("heartbeat-dev")),
        ("RegisterScalableTarget", requests.component_target(endpoint="heartbeat-dev", most=1)),
        ("PutScalingPolicy", requests.component_policy(endpoint="heartbeat-dev", concurrency=4)),
        ("PutScalingPolicy", requests.wake_policy("heartbeat-dev")),
        ("DeregisterScalableTarget", requests.scaled_component("heartbeat-dev")),
    ],
)
def test_scaling_bodies_are_valid(operation: str, body: dict[str, Any]) -> None:
    service = _SESSION.get_service_model("application-autoscaling")
    report = ParamValidator().validate(body, service.operation_model(operation).input_shape)
    assert not report.has_errors(), report.generate_report()
    assert body["ScalableDimension"] in service.shape_for("ScalableDimension").enum
    assert body.get("PolicyType", "StepScaling") in service.shape_for("PolicyType").enum
    for policy in [body["TargetTrackingScalingPolicyConfiguration"]] if "TargetTracking" in str(body) else []:
        metric = policy["PredefinedMetricSpecification"]["PredefinedMetricType"]
        assert metric in service.shape_for("MetricType").enum


def test_an_endpoint_of_components_may_have_no_instance_and_one_more_than_copies() -> None:
    (variant,) = BODIES["CreateEndpointConfig of components"]["ProductionVariants"]
    scaling = variant["ManagedInstanceScaling"]
    assert (scaling["MinInstanceCount"], scaling["MaxInstanceCount"]) == (0, 2)
    assert "ModelName" not in variant


def test_alarms_are_named_only_where_there_are_some() -> None:
    given: dict[str, Any] = {"endpoint": "heartbeat-dev", "specification": {}}
    assert "AutoRollbackConfiguration" not in requests.update_component(**given)["DeploymentConfig"]
    config = requests.update_component(**given, alarms=["an-alarm"])["DeploymentConfig"]
    assert config["AutoRollbackConfiguration"] == {"Alarms": [{"AlarmName": "an-alarm"}]}


def test_the_wake_alarm_starts_its_policy() -> None:
    arn = "arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:a:resource/sagemaker/inference-component/x"
    body = requests.wake_alarm(environment="dev", endpoint="heartbeat-dev", policy_arn=arn)
    shape = _SESSION.get_service_model("cloudwatch").operation_model("PutMetricAlarm").input_shape
    report = ParamValidator().validate(body, shape)
    assert not report.has_errors(), report.generate_report()
    assert _against(shape, body, "PutMetricAlarm") == []
    assert (body["AlarmName"], body["AlarmActions"]) == ("HeartBeat-dev-wake-heartbeat-dev", [arn])


def test_instance_pools_are_in_order_and_no_more_than_sagemaker_takes() -> None:
    limit = _SERVICE.shape_for("InstancePoolList").metadata["max"]
    pools = requests.instance_pools([f"ml.{letter}.large" for letter in "abcdefg"])
    assert [pool["Priority"] for pool in pools] == list(range(1, limit + 1))
    (variant,) = BODIES["CreateEndpointConfig with pools"]["ProductionVariants"]
    assert "InstanceType" not in variant


def test_no_more_adapters_than_sagemaker_takes() -> None:
    assert _SERVICE.shape_for("AdditionalModelDataSources").metadata["max"] == MAX_ADAPTERS


def test_the_serving_container_has_a_network_only_where_it_was_asked_for() -> None:
    given: dict[str, Any] = {"name": "m", "role_arn": _ROLE, "primary_container": _CONTAINER, "model_tags": _TAGS}
    assert requests.create_model(**given)["EnableNetworkIsolation"] is True
    assert requests.create_model(**given, internet=True)["EnableNetworkIsolation"] is False


def test_an_unknown_instance_is_noticed() -> None:
    assert "enum" in problems("CreateTrainingJob", training_job(instance_type="ml.h900.large"))[-1]


@pytest.mark.parametrize("use_spot", [False, True])
@given(seconds=st.integers(min_value=1, max_value=28 * 24 * 3600))
def test_stopping_condition(seconds: int, use_spot: bool) -> None:
    condition = requests.stopping_condition(max_runtime_seconds=seconds, use_spot=use_spot)
    assert condition["MaxRuntimeInSeconds"] == seconds
    # SageMaker: required with spot and not less than the run time; refused without spot.
    assert ("MaxWaitTimeInSeconds" in condition) == use_spot
    assert condition.get("MaxWaitTimeInSeconds", seconds) >= seconds


@given(
    model=st.floats(min_value=0, max_value=1e13),
    dataset=st.floats(min_value=0, max_value=1e12),
    floor=st.integers(min_value=1, max_value=16384),
)
def test_volume_holds_the_inputs(model: float, dataset: float, floor: int) -> None:
    volume = requests.volume_size_gib(base_model_bytes=model, dataset_bytes=dataset, at_least=floor)
    assert floor <= volume <= 16384
    assert volume == 16384 or volume * 1024**3 > model + dataset


def test_the_job_has_no_network_and_no_more_instances_than_one() -> None:
    body = training_job()
    assert body["EnableNetworkIsolation"] is True
    assert body["ResourceConfig"]["InstanceCount"] == 1
    assert body["OutputDataConfig"]["KmsKeyId"] == _KEY
