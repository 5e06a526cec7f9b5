"""An app of other settings: its endpoint off and on by the clock, and its end, which nothing that bills outlives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from heartbeat import requests
from tests.fake_hub import TOKEN
from tests.pipeline.conftest import PATIENCE_SECONDS, QUICK, ROOT, Cloud, Outcome, cdk, deployed
from tests.pipeline.weights import Weights

SETTINGS = [
    "endpoint_instances=2",
    "endpoint_max_instances=4",
    "endpoint_update=canary",
    'endpoint_schedule={"on": "07:00", "off": "20:00"}',
]


def stop_the_clock(cloud: Cloud) -> None:
    """The tests start what the schedules would, whatever the time of day is."""
    scheduler = cloud.client("scheduler")
    for item in scheduler.list_schedules()["Schedules"]:
        found = scheduler.get_schedule(Name=item["Name"])
        kept = {name: found[name] for name in ("Name", "ScheduleExpression", "Target", "FlexibleTimeWindow")}
        scheduler.update_schedule(**kept, State="DISABLED")


def switch(cloud: Cloud, to: str) -> Outcome:
    """Starts what the schedule starts, as the schedule does."""
    target = cloud.client("scheduler").get_schedule(Name=f"HeartBeat-dev-endpoint-{to}")["Target"]
    machine, given = target["Arn"], json.loads(target["Input"])
    assert given["switch"] == to
    states = cloud.client("stepfunctions")
    return cloud.wait(states.start_execution(stateMachineArn=machine, input=json.dumps(given))["executionArn"])


def status(cloud: Cloud) -> str:
    """What the command line says of the app."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [sys.executable, "-m", "heartbeat", "status"]
    found = subprocess.run(
        command, env={**given, **cloud.server.environment}, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return found.stdout


def said(outcome: Outcome) -> str:
    assert outcome.status == "SUCCEEDED", (outcome.error, outcome.cause)
    return str(outcome.output["said"])


def record(cloud: Cloud) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cloud.read(f"endpoints/{cloud.outputs['EndpointName']}.json"))
    return found


def is_off(cloud: Cloud) -> bool:
    scaling = cloud.client("application-autoscaling")
    targets = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    return not cloud.client("sagemaker").list_endpoints()["Endpoints"] and not targets


def switch_off_and_on(cloud: Cloud) -> None:
    """Off nothing bills, on it is what it was; a run that comes meanwhile keeps the adapters."""
    sagemaker, name = cloud.client("sagemaker"), cloud.outputs["EndpointName"]
    before = cloud.wait_for_endpoint(name)
    tags = sorted(tag["Key"] for tag in sagemaker.list_tags(ResourceArn=before["EndpointArn"])["Tags"])
    assert "was not switched off" in said(switch(cloud, "on"))

    assert f"made again of {before['EndpointConfigName']}" in said(switch(cloud, "off"))
    assert is_off(cloud)
    assert f"Endpoint {name} is off by its schedule" in status(cloud)
    assert (record(cloud)["asleep"], record(cloud)["holder"]) == (before["EndpointConfigName"], None)
    assert said(switch(cloud, "off")).endswith("is off")

    assert "is in service, 2 to 4 instances" in said(switch(cloud, "on"))
    again = cloud.wait_for_endpoint(name)
    assert again["EndpointConfigName"] == before["EndpointConfigName"]
    assert sorted(tag["Key"] for tag in sagemaker.list_tags(ResourceArn=again["EndpointArn"])["Tags"]) == tags
    assert record(cloud)["asleep"] is None
    assert "schedule" not in status(cloud)

    assert "is deleted" in said(switch(cloud, "off"))
    night = cloud.run(hyperparameters=QUICK, adapter_name="owl")
    assert night.status == "SUCCEEDED", night.cause
    found = json.loads(cloud.run_file(night, "acceptance.json"))["answers"]
    assert {"owl", requests.TUNED_NAME} <= {answer["model"] for answer in found}, "the adapter from before is served"
    planned = json.loads(cloud.run_file(night, "plan.json"))["serving"]
    assert planned["adapters"] == 2, "room is planned for both"
    kept = record(cloud)
    assert (kept["asleep"], kept["accepted"][1]) == (None, before["EndpointConfigName"])


def bring_slowly(cloud: Cloud) -> str:
    """The job of an execution that brings the weights and has hours to go."""
    weights = Weights(cloud)
    weights.put_aside()
    weights.set_token(TOKEN)
    cloud.hub.bytes_per_second = 100
    arn = weights.start()
    weights.wait_for_download()
    return str(cloud.wait_for_job(arn)["TrainingJobName"])


def test_cdk_destroy_ends_what_runs_left(tmp_path: Path) -> None:
    with deployed(tmp_path, *SETTINGS) as cloud:
        stop_the_clock(cloud)
        sagemaker, scaling = cloud.client("sagemaker"), cloud.client("application-autoscaling")
        for seed in (0, 1):  # create, then update
            outcome = cloud.run(hyperparameters={**QUICK, "SEED": seed})
            assert outcome.status == "SUCCEEDED", outcome.cause
        endpoint = cloud.wait_for_endpoint(cloud.outputs["EndpointName"])
        assert endpoint["LastDeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]["Type"] == (
            "CANARY"
        )
        (target,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 4)
        (policy,) = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
        assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 4

        switch_off_and_on(cloud)

        running = cloud.start(hyperparameters={**QUICK, "MAX_STEPS": 100_000})
        training = cloud.wait_for_job(running)["TrainingJobName"]
        deadline = time.monotonic() + PATIENCE_SECONDS
        # The weights that it has read are put aside by what comes next.
        while sagemaker.describe_training_job(TrainingJobName=training)["SecondaryStatus"] != "Training":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        jobs = training, bring_slowly(cloud)
        cdk(cloud.server, "destroy", "--all", "--force", "--output", str(tmp_path / "cdk.out"))

        assert sagemaker.list_endpoints()["Endpoints"] == []
        assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
        assert sagemaker.list_endpoint_configs()["EndpointConfigs"] == []
        assert sagemaker.list_models()["Models"] == []
        assert sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"] == []
        for job in jobs:
            assert sagemaker.describe_training_job(TrainingJobName=job)["TrainingJobStatus"] == "Stopped"
        assert cloud.client("stepfunctions").list_state_machines()["stateMachines"] == []
        left = cloud.client("cloudformation").describe_stacks()["Stacks"]
        assert [item["StackName"] for item in left if item["StackStatus"] != "DELETE_COMPLETE"] == ["CDKToolkit"]
