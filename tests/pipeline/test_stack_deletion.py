"""Deleting the stacks with a live endpoint and a run in progress: nothing that bills is left behind."""

from __future__ import annotations

from pathlib import Path

from tests.pipeline.conftest import QUICK, cdk, deployed


def test_cdk_destroy_ends_what_runs_left(tmp_path: Path) -> None:
    with deployed(tmp_path) as cloud:
        outcome = cloud.run(hyperparameters=QUICK)
        assert outcome.status == "SUCCEEDED", outcome.cause
        running = cloud.start(hyperparameters={**QUICK, "MAX_STEPS": 100_000})
        job = cloud.wait_for_job(running)["TrainingJobName"]
        cdk(cloud.server, "destroy", "--all", "--force", "--output", str(tmp_path / "cdk.out"))

        sagemaker = cloud.client("sagemaker")
        assert sagemaker.list_endpoints()["Endpoints"] == []
        assert sagemaker.list_endpoint_configs()["EndpointConfigs"] == []
        assert sagemaker.list_models()["Models"] == []
        assert sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"] == []
        assert sagemaker.describe_training_job(TrainingJobName=job)["TrainingJobStatus"] in {"Stopping", "Stopped"}
        assert cloud.client("stepfunctions").list_state_machines()["stateMachines"] == []
        left = cloud.client("cloudformation").list_stacks(StackStatusFilter=["CREATE_COMPLETE", "DELETE_FAILED"])
        assert [item["StackName"] for item in left["StackSummaries"]] == ["CDKToolkit"]
