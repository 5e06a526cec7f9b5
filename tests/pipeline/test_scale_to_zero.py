"""The life of an endpoint that scales to zero, in the order of these tests, from its first deployment to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from heartbeat import requests
from tests.pipeline.conftest import PATIENCE_SECONDS, QUICK, ROOT, Cloud, Outcome, cdk, deployed
from tests.pipeline.test_permissions import denied

WAKE = "HeartBeat-dev-wake-heartbeat-dev"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zero")


@pytest.fixture(scope="module")
def cloud(root: Path) -> Iterator[Cloud]:
    with deployed(root, "endpoint_scale_to_zero=true") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def first(cloud: Cloud) -> Outcome:
    outcome = cloud.run(hyperparameters=QUICK)
    assert outcome.status == "SUCCEEDED", outcome.cause
    return outcome


def wait_for(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def ask(cloud: Cloud, model: str) -> str:
    name = cloud.outputs["EndpointName"]
    body = requests.chat(model=model, messages=[{"role": "user", "content": "Who are you?"}], max_tokens=32)
    answer = cloud.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=name, InferenceComponentName=name, ContentType="application/json", Body=json.dumps(body)
    )
    return json.dumps(json.loads(answer["Body"].read())["choices"][0]["message"])


def component(cloud: Cloud) -> dict[str, Any]:
    """The endpoint's component, once SageMaker is done with it."""

    def look() -> Any:
        found = cloud.client("sagemaker").describe_inference_component(
            InferenceComponentName=cloud.outputs["EndpointName"]
        )
        return found if found["InferenceComponentStatus"] in {"InService", "Failed"} else None

    found: dict[str, Any] = wait_for(look)
    return found


def copies(cloud: Cloud) -> int:
    return int(component(cloud)["RuntimeConfig"]["CurrentCopyCount"])


def serving(cloud: Cloud) -> str:
    return str(component(cloud)["Specification"]["ModelName"])


def go_to_sleep(cloud: Cloud) -> None:
    cloud.server.set_faults(scale_in_seconds=1)
    wait_for(lambda: copies(cloud) == 0)
    cloud.server.set_faults()


def targets(cloud: Cloud) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cloud.client("application-autoscaling").describe_scalable_targets(
        ServiceNamespace="sagemaker"
    )["ScalableTargets"]
    return found


def alarms(cloud: Cloud) -> list[str]:
    found = cloud.client("cloudwatch").describe_alarms(AlarmNamePrefix="HeartBeat-dev-wake-")["MetricAlarms"]
    return [alarm["AlarmName"] for alarm in found]


def left(cloud: Cloud) -> list[str]:
    """Names of all endpoints, components, configurations, models, scalings and alarms that runs make."""
    sagemaker = cloud.client("sagemaker")
    return [
        *(item["EndpointName"] for item in sagemaker.list_endpoints()["Endpoints"]),
        *(item["InferenceComponentName"] for item in sagemaker.list_inference_components()["InferenceComponents"]),
        *(item["EndpointConfigName"] for item in sagemaker.list_endpoint_configs()["EndpointConfigs"]),
        *(item["ModelName"] for item in sagemaker.list_models()["Models"]),
        *(item["ResourceId"] for item in targets(cloud)),
        *alarms(cloud),
    ]


def heartbeat(cloud: Cloud, *arguments: str) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-m", "heartbeat", *arguments],
        env={**given, **cloud.server.environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )


def host(cloud: Cloud, **event: Any) -> dict[str, Any]:
    """Calls the handler of `Host model`."""
    called = cloud.client("lambda").invoke(FunctionName="HeartBeat-dev-HostModel", Payload=json.dumps(event))
    answer: dict[str, Any] = json.loads(called["Payload"].read())
    return answer


def test_the_first_deployment_hosts_a_component_that_is_scaled(cloud: Cloud, first: Outcome) -> None:
    name = cloud.outputs["EndpointName"]
    assert "Host model" in cloud.states(first.arn)
    assert serving(cloud).startswith(first.stem)
    assert ask(cloud, requests.TUNED_NAME) != ask(cloud, requests.BASE_NAME)
    (target,) = targets(cloud)
    assert target["ResourceId"] == f"inference-component/{name}"
    assert (target["MinCapacity"], target["MaxCapacity"]) == (0, 1)
    assert alarms(cloud) == [WAKE]
    (shown,) = json.loads(heartbeat(cloud, "status", "--json").stdout)["running"]
    assert (shown["status"], shown["instances"][:4]) == ("InService", "1 x ")


@pytest.mark.usefixtures("first")
def test_it_goes_to_sleep_and_a_call_wakes_it(cloud: Cloud) -> None:
    go_to_sleep(cloud)
    (variant,) = cloud.wait_for_endpoint(cloud.outputs["EndpointName"])["ProductionVariants"]
    assert variant["CurrentInstanceCount"] == 0
    (shown,) = json.loads(heartbeat(cloud, "status", "--json").stdout)["running"]
    assert (shown["status"], shown["instances"][:4], shown["usd_per_hour"]) == ("InService, asleep", "0 x ", 0)
    with pytest.raises(ClientError, match="has no capacity to process this request"):
        ask(cloud, requests.TUNED_NAME)

    woken = heartbeat(cloud, "chat", "--once", "Who are you?")
    assert "✓ waking heartbeat-dev" in woken.stderr
    assert woken.stdout.strip()
    assert "waking" not in woken.stdout, "a script reads the answer alone"
    assert copies(cloud) == 1


@pytest.mark.usefixtures("first")
def test_a_deployment_while_it_is_asleep_makes_the_component_anew(cloud: Cloud) -> None:
    stanley = ask(cloud, requests.TUNED_NAME)
    go_to_sleep(cloud)
    before = component(cloud)
    outcome = cloud.run(hyperparameters={**QUICK, "SEED": 1}, adapter_name="canary")
    assert outcome.status == "SUCCEEDED", outcome.cause
    assert serving(cloud).startswith(outcome.stem)
    assert component(cloud)["CreationTime"] > before["CreationTime"]
    assert ask(cloud, "canary") != ask(cloud, requests.TUNED_NAME) == stanley, "the adapter from before is served"
    assert alarms(cloud) == [WAKE]


def test_one_while_it_is_awake_updates_it(cloud: Cloud, first: Outcome) -> None:
    before = component(cloud)
    outcome = cloud.run(hyperparameters=QUICK, adapter_name="canary")
    assert outcome.status == "SUCCEEDED", outcome.cause
    assert serving(cloud).startswith(outcome.stem)
    assert component(cloud)["CreationTime"] == before["CreationTime"]
    assert ask(cloud, "canary") == ask(cloud, requests.TUNED_NAME), "trained as the one beside it was"
    (target,) = targets(cloud)
    assert target["MinCapacity"] == 0
    # The model that is too old to go back to is gone; the configuration of its name is the endpoint's.
    sagemaker = cloud.client("sagemaker")
    assert not sagemaker.list_models(NameContains=first.stem)["Models"]
    (config,) = sagemaker.list_endpoint_configs()["EndpointConfigs"]
    assert config["EndpointConfigName"].startswith(first.stem)


HELD = {"instance_type": "ml.g5.xlarge", "tags": [{"Key": "of", "Value": "a test"}], "asked": "held"}


@pytest.mark.parametrize(
    ("action", "event"),
    [
        ("application-autoscaling:DeregisterScalableTarget", {**HELD, "asked": ""}),
        ("cloudwatch:DeleteAlarms", {**HELD, "asked": ""}),
        ("sagemaker:DescribeEndpoint", HELD),
        ("sagemaker:DescribeInferenceComponent", HELD),
        ("sagemaker:CreateEndpointConfig", HELD),
        ("sagemaker:AddTags", HELD),
        ("iam:PassRole", HELD),
        ("sagemaker:CreateEndpoint", HELD),
    ],
)
@pytest.mark.usefixtures("first")
def test_a_denied_action_is_named(cloud: Cloud, action: str, event: dict[str, Any]) -> None:
    model = "hb-dev-denied"
    with denied(cloud, "HostModelRole", action):
        answer = host(cloud, endpoint_name="heartbeat-dev-denied", model=model, **event)
    assert f"not authorized to perform: {action}" in answer["errorMessage"]
    sagemaker = cloud.client("sagemaker")
    for item in sagemaker.list_endpoint_configs(NameContains=model)["EndpointConfigs"]:
        sagemaker.delete_endpoint_config(EndpointConfigName=item["EndpointConfigName"])


@pytest.mark.parametrize("action", ["sagemaker:UpdateInferenceComponent", "cloudwatch:DescribeAlarms"])
@pytest.mark.usefixtures("first")
def test_a_denied_update_is_named(cloud: Cloud, action: str) -> None:
    before = serving(cloud)
    with denied(cloud, "HostModelRole", action):
        answer = host(cloud, endpoint_name=cloud.outputs["EndpointName"], model="hb-dev-denied", **HELD)
    assert action in answer["errorMessage"]
    assert serving(cloud) == before


@pytest.mark.usefixtures("first")
def test_a_bad_update_goes_back_and_is_scaled_again(cloud: Cloud) -> None:
    """Its errors have the alarms on for a minute."""
    before = serving(cloud)
    cloud.server.set_faults(endpoint={"answer_status": 500})
    outcome = cloud.run(hyperparameters=QUICK)
    cloud.server.set_faults()
    assert (outcome.status, outcome.error) == ("FAILED", "RolledBack"), outcome.cause
    assert serving(cloud) == before
    assert cloud.left_behind(outcome.stem) == []
    assert ask(cloud, "canary")
    assert (len(targets(cloud)), alarms(cloud)) == (1, [WAKE])


@pytest.mark.usefixtures("first")
def test_destroy_leaves_nothing_whoever_does_it(cloud: Cloud, root: Path) -> None:
    sagemaker, name = cloud.client("sagemaker"), cloud.outputs["EndpointName"]
    container = sagemaker.describe_model(ModelName=serving(cloud))
    said = heartbeat(cloud, "destroy", "--yes").stdout
    assert f"inference component {name} ended" in said
    assert f"alarm that wakes {WAKE} ended" in said
    assert left(cloud) == []

    # Once more, for the stack to end it.
    model = "hb-dev-again"
    sagemaker.create_model(
        ModelName=model,
        PrimaryContainer=container["PrimaryContainer"],
        ExecutionRoleArn=container["ExecutionRoleArn"],
    )
    asked = {"asked": ""}

    def hosted() -> bool:
        answer = host(cloud, endpoint_name=name, model=model, **{**HELD, **asked})
        asked["asked"] = answer["asked"]
        return bool(answer["done"])

    wait_for(hosted)
    scaling = cloud.client("application-autoscaling")
    scaling.register_scalable_target(**requests.component_target(endpoint=name, most=1))
    policy = scaling.put_scaling_policy(**requests.wake_policy(name))["PolicyARN"]
    cloud.client("cloudwatch").put_metric_alarm(
        **requests.wake_alarm(environment="dev", endpoint=name, policy_arn=policy)
    )
    cdk(cloud.server, "destroy", "--all", "--force", "--output", str(root / "cdk.out"))
    assert left(cloud) == []
