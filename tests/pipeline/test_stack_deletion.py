"""An app of other settings, and its end: nothing that bills outlives the stacks."""

from __future__ import annotations

from pathlib import Path

from tests.pipeline.conftest import QUICK, cdk, deployed


def test_cdk_destroy_ends_what_runs_left(tmp_path: Path) -> None:
    with deployed(tmp_path, "endpoint_instances=2", "endpoint_max_instances=4", "endpoint_update=canary") as cloud:
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

        running = cloud.start(hyperparameters={**QUICK, "MAX_STEPS": 100_000})
        job = cloud.wait_for_job(running)["TrainingJobName"]
        cdk(cloud.server, "destroy", "--all", "--force", "--output", str(tmp_path / "cdk.out"))

        assert sagemaker.list_endpoints()["Endpoints"] == []
        assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
        assert sagemaker.list_endpoint_configs()["EndpointConfigs"] == []
        assert sagemaker.list_models()["Models"] == []
        assert sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"] == []
        assert sagemaker.describe_training_job(TrainingJobName=job)["TrainingJobStatus"] == "Stopped"
        assert cloud.client("stepfunctions").list_state_machines()["stateMachines"] == []
        left = cloud.client("cloudformation").describe_stacks()["Stacks"]
        assert [item["StackName"] for item in left if item["StackStatus"] != "DELETE_COMPLETE"] == ["CDKToolkit"]
