"""Endpoints: real servers behind InvokeEndpoint, their health, their updates and their ends."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_aws.conftest import BUCKET, JOB_ACTIONS, REPOSITORY_URI, Account, allow, wait_for

PROGRAM = """
import json, os, pathlib, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
ml = pathlib.Path(os.environ["HEARTBEAT_OPT_ML"])
if os.environ.get("MODE") == "crash":
    print("no memory left", flush=True)
    sys.exit(1)

class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(200, b"")
    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if asked == "die":
            os._exit(1)
        if asked == "half":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"half an answer")
            self.wfile.flush()
            self.connection.shutdown(2)
            return
        if asked == "refuse":
            return self.answer(400, b"not like this")
        if asked == "stream":
            self.send_response(200)
            self.end_headers()
            for word in (b"one ", b"two ", b"three"):
                self.wfile.write(word)
                self.wfile.flush()
                time.sleep(0.3)
            return
        files = sorted(str(p.relative_to(ml)) for p in ml.rglob("*") if p.is_file())
        said = {"name": os.environ.get("NAME"), "asked": asked, "files": files}
        self.answer(200, json.dumps(said).encode())
    def log_message(self, *args):
        print("request", self.path, flush=True)

HTTPServer((os.environ["SAGEMAKER_BIND_HOST"], int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def image(account: Account) -> str:
    return account.image(PROGRAM)


@pytest.fixture(scope="module")
def role(account: Account) -> str:
    return account.role("sagemaker.amazonaws.com", allow(*JOB_ACTIONS))


def model(account: Account, image: str, role: str, **container: Any) -> str:
    name = account.name("model")
    account.client("sagemaker").create_model(
        ModelName=name, ExecutionRoleArn=role, PrimaryContainer={"Image": image, **container}
    )
    return name


def config(account: Account, model_name: str, **production: Any) -> str:
    name = account.name("config")
    variant = {"VariantName": "main", "ModelName": model_name, "InstanceType": "ml.g5.12xlarge"}
    account.client("sagemaker").create_endpoint_config(
        EndpointConfigName=name, ProductionVariants=[{**variant, "InitialInstanceCount": 1, **production}]
    )
    return name


def settled(account: Account, name: str) -> dict[str, Any]:
    def look() -> Any:
        described = account.client("sagemaker").describe_endpoint(EndpointName=name)
        return described if described["EndpointStatus"] not in ("Creating", "Updating") else None

    result: dict[str, Any] = wait_for(look)
    return result


def deploy(account: Account, config_name: str) -> dict[str, Any]:
    name = account.name("endpoint")
    account.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=config_name)
    return settled(account, name)


def invoke(account: Account, name: str, body: str) -> Any:
    answer = account.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=name, Body=body.encode(), ContentType="application/json"
    )
    return json.loads(answer["Body"].read())


def test_model_data_reaches_the_container(account: Account, image: str, role: str) -> None:
    account.put("bases/tiny/config.json", b"{}")
    account.put("adapters/one/weights.bin", b"1")

    def source(prefix: str) -> dict[str, Any]:
        uri = f"s3://{BUCKET}/{prefix}/"
        return {"S3DataSource": {"S3Uri": uri, "S3DataType": "S3Prefix", "CompressionType": "None"}}

    adapter = {"ChannelName": "adapter", **source("adapters/one")}
    name = model(
        account,
        image,
        role,
        ModelDataSource=source("bases/tiny"),
        AdditionalModelDataSources=[adapter],
        Environment={"NAME": "first"},
    )
    endpoint = deploy(account, config(account, name))
    assert endpoint["EndpointStatus"] == "InService", endpoint.get("FailureReason")
    assert endpoint["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    assert invoke(account, endpoint["EndpointName"], "hello") == {
        "name": "first",
        "asked": "hello",
        "files": ["additional-model-data-sources/adapter/weights.bin", "model/config.json"],
    }
    group = f"/aws/sagemaker/Endpoints/{endpoint['EndpointName']}"
    wait_for(lambda: "request /invocations" in account.log_lines(group), 5)


def test_response_stream(account: Account, image: str, role: str) -> None:
    endpoint = deploy(account, config(account, model(account, image, role)))
    answer = account.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=endpoint["EndpointName"], Body=b"hi"
    )
    parts = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
    assert json.loads(b"".join(parts))["asked"] == "hi"


def test_a_stream_comes_as_it_is_said(account: Account, image: str, role: str) -> None:
    endpoint = deploy(account, config(account, model(account, image, role)))
    answer = account.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=endpoint["EndpointName"], Body=b"stream"
    )
    came = []
    for event in answer["Body"]:
        came.append((event["PayloadPart"]["Bytes"], time.monotonic()))
    assert [part for part, _ in came] == [b"one ", b"two ", b"three"]
    assert came[-1][1] - came[0][1] > 0.3  # they were not kept until the end


def test_a_crash_fails_the_endpoint(account: Account, image: str, role: str) -> None:
    endpoint = deploy(account, config(account, model(account, image, role, Environment={"MODE": "crash"})))
    assert endpoint["EndpointStatus"] == "Failed"
    assert "did not pass the ping health check" in endpoint["FailureReason"]
    assert account.log_lines(f"/aws/sagemaker/Endpoints/{endpoint['EndpointName']}") == ["no memory left"]
    with pytest.raises(ClientError, match="not found"):
        invoke(account, endpoint["EndpointName"], "hello")


@pytest.mark.parametrize("fault", ["never_healthy", "crash_on_start"])
def test_faults_fail_the_endpoint(account: Account, image: str, role: str, fault: str) -> None:
    account.server.set_faults(endpoint={fault: True})
    endpoint = deploy(account, config(account, model(account, image, role)))
    assert endpoint["EndpointStatus"] == "Failed"


def test_an_update_that_fails_keeps_the_old_one_serving(account: Account, image: str, role: str) -> None:
    good = config(account, model(account, image, role, Environment={"NAME": "old"}))
    bad = config(account, model(account, image, role, Environment={"MODE": "crash"}))
    name = deploy(account, good)["EndpointName"]
    account.client("sagemaker").update_endpoint(EndpointName=name, EndpointConfigName=bad)
    with pytest.raises(ClientError, match="in-progress"):
        account.client("sagemaker").update_endpoint(EndpointName=name, EndpointConfigName=good)
    assert invoke(account, name, "now")["name"] == "old"
    endpoint = settled(account, name)
    assert endpoint["EndpointStatus"] == "InService"
    assert endpoint["EndpointConfigName"] == good
    assert "ping health check" in endpoint["FailureReason"]
    assert invoke(account, name, "after")["name"] == "old"


def test_an_update_replaces_the_old_one(account: Account, image: str, role: str) -> None:
    name = deploy(account, config(account, model(account, image, role, Environment={"NAME": "old"})))["EndpointName"]
    new = config(account, model(account, image, role, Environment={"NAME": "new"}))
    account.client("sagemaker").update_endpoint(EndpointName=name, EndpointConfigName=new)
    endpoint = settled(account, name)
    assert endpoint["EndpointConfigName"] == new
    assert "FailureReason" not in endpoint
    assert invoke(account, name, "after")["name"] == "new"


def rollback_alarm(account: Account, endpoint: str) -> str:
    """An alarm on more than 5% of a minute's calls answered 5xx; no call is no alarm."""
    name = account.name("alarm")
    account.client("cloudwatch").put_metric_alarm(
        AlarmName=name,
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": "main"}],
        Statistic="Average",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0.05,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )
    return name


def update(account: Account, name: str, config_name: str, alarm: str) -> None:
    account.client("sagemaker").update_endpoint(
        EndpointName=name,
        EndpointConfigName=config_name,
        DeploymentConfig={
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 600}
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]},
        },
    )


def test_an_alarm_brings_the_old_one_back(account: Account, image: str, role: str) -> None:
    old = config(account, model(account, image, role, Environment={"NAME": "old"}))
    new = config(account, model(account, image, role, Environment={"NAME": "new"}))
    name = deploy(account, old)["EndpointName"]
    alarm = rollback_alarm(account, name)
    account.server.set_faults(baking_seconds=30)
    update(account, name, new, alarm)
    described = account.client("sagemaker").describe_endpoint(EndpointName=name)
    assert described["PendingDeploymentSummary"]["EndpointConfigName"] == new
    wait_for(lambda: invoke(account, name, "who serves?")["name"] == "new")  # it has the traffic while it bakes
    account.server.set_faults(baking_seconds=30, endpoint={"answer_status": 500})
    for _ in range(10):
        with pytest.raises(ClientError, match="ModelError"):
            invoke(account, name, "hello")
    account.server.set_faults()
    endpoint = wait_for(lambda: in_service(account, name))
    assert endpoint["EndpointConfigName"] == old
    assert alarm in endpoint["FailureReason"]
    assert "PendingDeploymentSummary" not in endpoint
    assert invoke(account, name, "after")["name"] == "old"


def test_an_update_without_calls_is_not_undone(account: Account, image: str, role: str) -> None:
    name = deploy(account, config(account, model(account, image, role)))["EndpointName"]
    alarm = rollback_alarm(account, name)
    account.client("cloudwatch").set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="of long ago")
    new = config(account, model(account, image, role))
    update(account, name, new, alarm)
    endpoint = wait_for(lambda: in_service(account, name))
    assert endpoint["EndpointConfigName"] == new
    with pytest.raises(ClientError, match="do not exist"):
        update(account, name, new, "no-such-alarm")


def in_service(account: Account, name: str) -> dict[str, Any] | None:
    described: dict[str, Any] = account.client("sagemaker").describe_endpoint(EndpointName=name)
    return described if described["EndpointStatus"] == "InService" else None


def test_errors_of_the_container_are_model_errors(account: Account, image: str, role: str) -> None:
    name = deploy(account, config(account, model(account, image, role)))["EndpointName"]
    with pytest.raises(ClientError, match="not like this") as refused:
        invoke(account, name, "refuse")
    assert refused.value.response["Error"]["Code"] == "ModelError"
    assert refused.value.response["OriginalStatusCode"] == 400
    with pytest.raises(ClientError, match="ModelError"):
        invoke(account, name, "half")
    with pytest.raises(ClientError, match="ModelError"):
        invoke(account, name, "die")
    with pytest.raises(ClientError, match="ModelError"):  # nobody is there any more
        invoke(account, name, "hello")


def test_answer_status_fault(account: Account, image: str, role: str) -> None:
    name = deploy(account, config(account, model(account, image, role)))["EndpointName"]
    account.server.set_faults(endpoint={"answer_status": 503})
    with pytest.raises(ClientError) as refused:
        invoke(account, name, "hello")
    assert refused.value.response["OriginalStatusCode"] == 503
    account.server.set_faults()
    assert invoke(account, name, "hello")["asked"] == "hello"


def test_missing_model_data_fails_the_endpoint(account: Account, image: str, role: str) -> None:
    location = {"S3Uri": f"s3://{BUCKET}/no/such/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    name = model(account, image, role, ModelDataSource={"S3DataSource": location})
    endpoint = deploy(account, config(account, name))
    assert endpoint["EndpointStatus"] == "Failed"
    assert "Failed to download model data" in endpoint["FailureReason"]


def test_a_model_needs_an_image_that_exists(account: Account, role: str) -> None:
    with pytest.raises(ClientError, match="not found"):
        model(account, f"{REPOSITORY_URI}:none", role)


def test_a_model_package_is_served(account: Account, image: str, role: str) -> None:
    sagemaker = account.client("sagemaker")
    group = account.name("group")
    sagemaker.create_model_package_group(ModelPackageGroupName=group)
    container = {"Image": image, "Environment": {"NAME": "packaged"}}
    arns = [
        sagemaker.create_model_package(
            ModelPackageGroupName=group,
            InferenceSpecification={
                "Containers": [container],
                "SupportedContentTypes": ["application/json"],
                "SupportedResponseMIMETypes": ["application/json"],
            },
        )["ModelPackageArn"]
        for _ in range(2)
    ]
    assert [arn.rsplit("/", 1)[-1] for arn in arns] == ["1", "2"]
    sagemaker.update_model_package(ModelPackageArn=arns[1], ModelApprovalStatus="Approved")
    approved = sagemaker.list_model_packages(ModelPackageGroupName=group, ModelApprovalStatus="Approved")
    assert [p["ModelPackageArn"] for p in approved["ModelPackageSummaryList"]] == [arns[1]]
    name = account.name("model")
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=role, PrimaryContainer={"ModelPackageName": arns[1]})
    endpoint = deploy(account, config(account, name))
    assert invoke(account, endpoint["EndpointName"], "x")["name"] == "packaged"
    with pytest.raises(ClientError, match="contains versions"):
        sagemaker.delete_model_package_group(ModelPackageGroupName=group)
    for arn in arns:
        sagemaker.delete_model_package(ModelPackageName=arn)
    sagemaker.delete_model_package_group(ModelPackageGroupName=group)


def test_deleting_leaves_nothing(account: Account, image: str, role: str) -> None:
    sagemaker = account.client("sagemaker")
    model_name = model(account, image, role)
    config_name = config(account, model_name)
    name = deploy(account, config_name)["EndpointName"]
    sagemaker.delete_endpoint(EndpointName=name)
    sagemaker.delete_endpoint_config(EndpointConfigName=config_name)
    sagemaker.delete_model(ModelName=model_name)
    assert sagemaker.list_endpoints(NameContains=name)["Endpoints"] == []
    assert sagemaker.list_endpoint_configs(NameContains=config_name)["EndpointConfigs"] == []
    assert sagemaker.list_models(NameContains=model_name)["Models"] == []
    with pytest.raises(ClientError, match="Could not find endpoint"):
        sagemaker.describe_endpoint(EndpointName=name)


def test_a_role_that_may_not_pull_cannot_be_given_to_a_model(account: Account, image: str) -> None:
    role = account.role("sagemaker.amazonaws.com", allow(*JOB_ACTIONS))
    account.deny(role, "ecr:BatchGetImage")
    with pytest.raises(ClientError, match="ecr:BatchGetImage"):
        model(account, image, role)
