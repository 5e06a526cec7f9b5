"""Inference components: their containers come and go while their endpoint stays."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.local_aws.conftest import JOB_ACTIONS, REGION, Account, allow, wait_for
from tests.local_aws.test_endpoints import PROGRAM, deploy, model, rollback_alarm, settled
from tests.local_aws.test_endpoints import config as config_of_model

COMPUTE = {"MinMemoryRequiredInMb": 1024, "NumberOfAcceleratorDevicesRequired": 4}
ROLLING = {"MaximumBatchSize": {"Type": "COPY_COUNT", "Value": 1}, "WaitIntervalInSeconds": 600}


@pytest.fixture(scope="module")
def role(account: Account) -> str:
    return account.role("sagemaker.amazonaws.com", allow(*JOB_ACTIONS))


@pytest.fixture(scope="module")
def models(account: Account, role: str) -> dict[str, str]:
    """Models by what their containers say of themselves; the one called crash ends at once."""
    image = account.image(PROGRAM)
    named = {name: model(account, image, role, Environment={"NAME": name}) for name in ("old", "new")}
    return {**named, "crash": model(account, image, role, Environment={"MODE": "crash"})}


def config(account: Account, role: str | None, **changes: Any) -> str:
    """A configuration for inference components that has no instance while it has no copy."""
    variant = {
        "VariantName": "main",
        "InstanceType": "ml.g5.12xlarge",
        "InitialInstanceCount": 1,
        "ManagedInstanceScaling": {"Status": "ENABLED", "MinInstanceCount": 0, "MaxInstanceCount": 2},
    }
    request = {"EndpointConfigName": account.name("config"), "ProductionVariants": [{**variant, **changes}]}
    account.client("sagemaker").create_endpoint_config(**request, **({"ExecutionRoleArn": role} if role else {}))
    return str(request["EndpointConfigName"])


@pytest.fixture(scope="module")
def endpoint(account: Account, role: str) -> str:
    described = deploy(account, config(account, role))
    assert described["EndpointStatus"] == "InService"
    return str(described["EndpointName"])


def specification(model_name: str) -> dict[str, Any]:
    return {"ModelName": model_name, "ComputeResourceRequirements": COMPUTE}


def create(account: Account, endpoint: str, model_name: str, **changes: Any) -> str:
    request = {
        "InferenceComponentName": account.name("component"),
        "EndpointName": endpoint,
        "VariantName": "main",
        "Specification": specification(model_name),
        "RuntimeConfig": {"CopyCount": 1},
        **changes,
    }
    account.client("sagemaker").create_inference_component(**request)
    return str(request["InferenceComponentName"])


def describe(account: Account, name: str) -> dict[str, Any]:
    described: dict[str, Any] = account.client("sagemaker").describe_inference_component(InferenceComponentName=name)
    return described


def at_rest(account: Account, name: str) -> dict[str, Any]:
    def look() -> Any:
        described = describe(account, name)
        return described if described["InferenceComponentStatus"] in ("InService", "Failed") else None

    result: dict[str, Any] = wait_for(look)
    return result


def scale(account: Account, name: str, copies: int) -> dict[str, Any]:
    account.client("sagemaker").update_inference_component_runtime_config(
        InferenceComponentName=name, DesiredRuntimeConfig={"CopyCount": copies}
    )
    assert describe(account, name)["RuntimeConfig"]["DesiredCopyCount"] == copies
    return at_rest(account, name)


def ask(account: Account, endpoint: str, component: str | None, body: str = "hello") -> Any:
    named = {"InferenceComponentName": component} if component else {}
    answer = account.client("sagemaker-runtime").invoke_endpoint(EndpointName=endpoint, Body=body.encode(), **named)
    return json.loads(answer["Body"].read())


def recorded(account: Account, metric: str, **dimensions: str) -> float:
    found = account.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
        StartTime=time.time() - 600,
        EndTime=time.time() + 60,
        Period=3600,
        Statistics=["Sum"],
    )
    return float(sum(point["Sum"] for point in found["Datapoints"]))


@pytest.fixture
def component(account: Account, endpoint: str, models: dict[str, str]) -> Iterator[str]:
    """A component that serves the old model; it is gone afterwards."""
    name = create(account, endpoint, models["old"], Tags=[{"Key": "of", "Value": "tests"}])
    assert describe(account, name)["InferenceComponentStatus"] == "Creating"
    described = at_rest(account, name)
    assert described["InferenceComponentStatus"] == "InService", described.get("FailureReason")
    yield name
    at_rest(account, name)
    account.client("sagemaker").delete_inference_component(InferenceComponentName=name)
    wait_for(lambda: gone(account, name))


def gone(account: Account, name: str) -> bool:
    try:
        return bool(describe(account, name)["InferenceComponentStatus"] != "Deleting")
    except ClientError as error:
        return "Could not find inference component" in str(error)


def test_what_a_configuration_may_say(account: Account, role: str, models: dict[str, str]) -> None:
    with pytest.raises(ClientError, match="ExecutionRoleArn is required"):
        config(account, None)
    with pytest.raises(ClientError, match="Could not assume role"):
        config(account, account.role("lambda.amazonaws.com", allow("*")))
    with pytest.raises(ClientError, match="ManagedInstanceScaling is only supported for inference component endpoints"):
        config(account, role, ModelName=models["old"])
    with pytest.raises(ClientError, match="EnableNetworkIsolation is only supported"):
        account.client("sagemaker").create_endpoint_config(
            EndpointConfigName="isolated",
            ProductionVariants=[{"VariantName": "main", "ModelName": models["old"]}],
            EnableNetworkIsolation=True,
        )


def test_an_endpoint_with_a_model_is_another_kind(
    account: Account, endpoint: str, role: str, models: dict[str, str]
) -> None:
    sagemaker = account.client("sagemaker")
    of_model = config_of_model(account, models["old"])
    name = deploy(account, of_model)["EndpointName"]
    with pytest.raises(ClientError, match="Inference Components are not supported in this Endpoint"):
        create(account, name, models["old"])
    with pytest.raises(ClientError, match="header is not allowed"):
        ask(account, name, "component")
    with pytest.raises(ClientError, match="cannot be updated"):
        sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config(account, role))
    with pytest.raises(ClientError, match="cannot be updated"):
        sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=of_model)
    another = config(account, role)
    sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=another)
    assert settled(account, endpoint)["EndpointConfigName"] == another


def test_a_component_that_serves(account: Account, endpoint: str, component: str, models: dict[str, str]) -> None:
    sagemaker = account.client("sagemaker")
    described = describe(account, component)
    assert described["Specification"] == specification(models["old"])
    assert described["RuntimeConfig"] == {"DesiredCopyCount": 1, "CurrentCopyCount": 1}
    (listed,) = sagemaker.list_inference_components(
        EndpointNameEquals=endpoint, NameContains=component, StatusEquals="InService"
    )["InferenceComponents"]
    assert listed["InferenceComponentArn"] == described["InferenceComponentArn"]
    assert not sagemaker.list_inference_components(EndpointNameEquals="other")["InferenceComponents"]
    sagemaker.add_tags(ResourceArn=described["InferenceComponentArn"], Tags=[{"Key": "more", "Value": "yes"}])
    tags = sagemaker.list_tags(ResourceArn=described["InferenceComponentArn"])["Tags"]
    assert {tag["Key"] for tag in tags} == {"of", "more"}

    variant = {"EndpointName": endpoint, "VariantName": "main"}
    before = recorded(account, "Invocations", **variant)
    assert ask(account, endpoint, component)["name"] == "old"
    assert recorded(account, "Invocations", **variant) == before + 1
    assert recorded(account, "Invocations", InferenceComponentName=component) == 1
    streamed = account.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=endpoint, InferenceComponentName=component, Body=b"streamed"
    )
    answer = json.loads(b"".join(event["PayloadPart"]["Bytes"] for event in streamed["Body"]))
    assert answer["asked"] == "streamed"
    group = f"/aws/sagemaker/InferenceComponents/{component}"
    wait_for(lambda: "request /invocations" in account.log_lines(group), 5)

    with pytest.raises(ClientError, match="Inference Component Name header is required"):
        ask(account, endpoint, None)
    with pytest.raises(ClientError, match="not on endpoint"):
        ask(account, endpoint, "another")
    with pytest.raises(ClientError, match="Cannot create already existing inference component"):
        create(account, endpoint, models["old"], InferenceComponentName=component)
    with pytest.raises(ClientError, match="copy count an integer larger than 0"):
        create(account, endpoint, models["old"], RuntimeConfig={"CopyCount": 0})
    with pytest.raises(ClientError, match=rf"inference components {component}\. Delete them first"):
        sagemaker.delete_endpoint(EndpointName=endpoint)


def test_to_zero_and_back(account: Account, endpoint: str, component: str, models: dict[str, str]) -> None:
    sagemaker = account.client("sagemaker")

    def instances() -> int:
        return int(settled(account, endpoint)["ProductionVariants"][0]["CurrentInstanceCount"])

    assert instances() == 1
    assert scale(account, component, 0)["RuntimeConfig"]["CurrentCopyCount"] == 0
    assert instances() == 0
    for _ in range(2):
        with pytest.raises(ClientError, match="Inference Component has no capacity to process this request") as refused:
            ask(account, endpoint, component)
    assert refused.value.response["Error"]["Code"] == "ValidationError"
    assert recorded(account, "NoCapacityInvocationFailures", InferenceComponentName=component) == 2

    sagemaker.update_inference_component(InferenceComponentName=component, Specification=specification(models["crash"]))
    asleep = at_rest(account, component)
    assert (asleep["InferenceComponentStatus"], asleep["Specification"]["ModelName"]) == ("InService", models["crash"])
    failed = scale(account, component, 1)
    assert "ping health check" in failed["FailureReason"]
    assert failed["RuntimeConfig"] == {"DesiredCopyCount": 0, "CurrentCopyCount": 0}

    sagemaker.update_inference_component(
        InferenceComponentName=component,
        Specification=specification(models["new"]),
        RuntimeConfig={"CopyCount": 1},
    )
    assert "FailureReason" not in at_rest(account, component)
    assert ask(account, endpoint, component)["name"] == "new"
    assert scale(account, component, 2)["RuntimeConfig"]["CurrentCopyCount"] == 2
    assert ask(account, endpoint, component)["name"] == "new"


def test_never_healthy(account: Account, endpoint: str, component: str, models: dict[str, str]) -> None:
    sagemaker = account.client("sagemaker")
    account.server.set_faults(endpoint={"never_healthy": True})
    name = create(account, endpoint, models["new"])
    with pytest.raises(ClientError, match="in-progress"):
        sagemaker.delete_inference_component(InferenceComponentName=name)
    failed = at_rest(account, name)
    assert failed["InferenceComponentStatus"] == "Failed"
    assert "ping health check" in failed["FailureReason"]
    sagemaker.delete_inference_component(InferenceComponentName=name)
    wait_for(lambda: gone(account, name))

    sagemaker.update_inference_component(InferenceComponentName=component, Specification=specification(models["new"]))
    with pytest.raises(ClientError, match="in-progress"):
        scale(account, component, 0)
    assert ask(account, endpoint, component)["name"] == "old"
    kept = at_rest(account, component)
    assert (kept["InferenceComponentStatus"], kept["Specification"]["ModelName"]) == ("InService", models["old"])
    assert kept["RuntimeConfig"] == {"DesiredCopyCount": 1, "CurrentCopyCount": 1}
    assert "ping health check" in kept["FailureReason"]
    assert ask(account, endpoint, component)["name"] == "old"


def test_an_alarm_brings_the_old_copy_back(
    account: Account, endpoint: str, component: str, models: dict[str, str]
) -> None:
    alarm = rollback_alarm(account, endpoint)
    update = {
        "InferenceComponentName": component,
        "Specification": specification(models["new"]),
        "DeploymentConfig": {
            "RollingUpdatePolicy": ROLLING,
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]},
        },
    }
    account.server.set_faults(baking_seconds=30)
    account.client("sagemaker").update_inference_component(**update)
    wait_for(lambda: ask(account, endpoint, component)["name"] == "new")  # it has the traffic while it bakes
    account.server.set_faults(baking_seconds=30, endpoint={"answer_status": 500})
    for _ in range(10):
        with pytest.raises(ClientError, match="ModelError"):
            ask(account, endpoint, component)
    account.server.set_faults(baking_seconds=0)
    kept = at_rest(account, component)
    assert kept["Specification"]["ModelName"] == models["old"]
    assert alarm in kept["FailureReason"]
    assert ask(account, endpoint, component)["name"] == "old"

    account.client("cloudwatch").delete_alarms(AlarmNames=[alarm])
    with pytest.raises(ClientError, match="do not exist"):
        account.client("sagemaker").update_inference_component(**update)
    update["DeploymentConfig"] = {"RollingUpdatePolicy": ROLLING}
    account.client("sagemaker").update_inference_component(**update)
    renewed = at_rest(account, component)
    assert "FailureReason" not in renewed
    assert renewed["LastDeploymentConfig"]["RollingUpdatePolicy"] == ROLLING
    assert ask(account, endpoint, component)["name"] == "new"


def test_a_copy_that_is_slow_and_dies(account: Account, endpoint: str, component: str) -> None:
    account.server.set_faults(endpoint={"delay_seconds": 0.3})
    began = time.monotonic()
    ask(account, endpoint, component)
    assert time.monotonic() - began > 0.3
    account.server.set_faults()
    for body in ("die", "hello"):  # nobody is there any more
        with pytest.raises(ClientError, match="InferenceComponents") as refused:
            ask(account, endpoint, component, body)
        assert refused.value.response["Error"]["Code"] == "ModelError"
    assert recorded(account, "Invocation5XXErrors", InferenceComponentName=component) == 2


@pytest.fixture
def caller(account: Account) -> Callable[..., Callable[[str], Any]]:
    """Makes clients of a role that may do these actions on these resources, and no more."""
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    iam, name = account.client("iam"), account.name("caller")
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    keys = account.client("sts").assume_role(RoleArn=arn, RoleSessionName="caller")["Credentials"]

    def permitted(actions: list[str], resources: list[str]) -> Callable[[str], Any]:
        statement = {"Effect": "Allow", "Action": actions, "Resource": resources}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_role_policy(RoleName=name, PolicyName="policy", PolicyDocument=policy)
        return lambda service: boto3.client(
            service,
            region_name=REGION,
            endpoint_url=account.server.url,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
        )

    return permitted


def test_a_caller_needs_both_arns(
    account: Account, endpoint: str, component: str, caller: Callable[..., Callable[[str], Any]]
) -> None:
    endpoint_arn = account.client("sagemaker").describe_endpoint(EndpointName=endpoint)["EndpointArn"]
    component_arn = describe(account, component)["InferenceComponentArn"]
    asked = {"EndpointName": endpoint, "InferenceComponentName": component, "Body": b"hello"}
    invoke = ["sagemaker:InvokeEndpoint"]
    for arn in (endpoint_arn, component_arn):
        with pytest.raises(ClientError, match="not authorized to perform: sagemaker:InvokeEndpoint"):
            caller(invoke, [arn])("sagemaker-runtime").invoke_endpoint(**asked)
    caller(invoke, [endpoint_arn, component_arn])("sagemaker-runtime").invoke_endpoint(**asked)["Body"].read()
    scale_in = ["sagemaker:UpdateInferenceComponentRuntimeConfig"]
    zero = {"InferenceComponentName": component, "DesiredRuntimeConfig": {"CopyCount": 0}}
    with pytest.raises(ClientError, match=f"not authorized to perform: {scale_in[0]}"):
        caller(scale_in, [endpoint_arn])("sagemaker").update_inference_component_runtime_config(**zero)
    caller(scale_in, [component_arn])("sagemaker").update_inference_component_runtime_config(**zero)


def test_an_endpoint_goes_when_its_components_have(account: Account, role: str, models: dict[str, str]) -> None:
    sagemaker = account.client("sagemaker")
    name = deploy(account, config(account, role))["EndpointName"]
    hosted = create(account, name, models["old"])
    at_rest(account, hosted)
    sagemaker.delete_inference_component(InferenceComponentName=hosted)
    wait_for(lambda: gone(account, hosted))
    sagemaker.delete_endpoint(EndpointName=name)
    assert sagemaker.list_endpoints(NameContains=name)["Endpoints"] == []


def scaled(component: str) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"inference-component/{component}",
        "ScalableDimension": "sagemaker:inference-component:DesiredCopyCount",
    }


def put_tracking(account: Account, component: str, cooldown: int) -> None:
    metric = "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution"
    account.client("application-autoscaling").put_scaling_policy(
        **scaled(component),
        PolicyName="tracking",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": 5,
            "PredefinedMetricSpecification": {"PredefinedMetricType": metric},
            "ScaleInCooldown": cooldown,
        },
    )


def wake_alarm(component: str, policy_arn: str) -> dict[str, Any]:
    return {
        "AlarmName": f"wake-{component}",
        "Namespace": "AWS/SageMaker",
        "MetricName": "NoCapacityInvocationFailures",
        "Dimensions": [{"Name": "InferenceComponentName", "Value": component}],
        "Statistic": "Maximum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
        "AlarmActions": [policy_arn],
    }


def test_asleep_when_idle_and_woken_by_a_call(account: Account, endpoint: str, component: str) -> None:
    scaling = account.client("application-autoscaling")

    def has(copies: int) -> Callable[[], bool]:
        return lambda: bool(at_rest(account, component)["RuntimeConfig"]["CurrentCopyCount"] == copies)

    def refused() -> None:
        with pytest.raises(ClientError, match="has no capacity"):
            ask(account, endpoint, component)

    scaling.register_scalable_target(**scaled(component), MinCapacity=0, MaxCapacity=1)
    step = scaling.put_scaling_policy(
        **scaled(component),
        PolicyName="wake",
        PolicyType="StepScaling",
        StepScalingPolicyConfiguration={
            "AdjustmentType": "ChangeInCapacity",
            "MetricAggregationType": "Maximum",
            "Cooldown": 60,
            "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
        },
    )
    put_tracking(account, component, cooldown=1)
    wait_for(has(0))
    put_tracking(account, component, cooldown=3600)
    refused()  # nothing listens yet
    assert not has(1)()

    alarm = wake_alarm(component, step["PolicyARN"])
    account.client("cloudwatch").put_metric_alarm(**alarm)  # sees the call of just now
    wait_for(has(1))
    assert ask(account, endpoint, component)["name"] == "old"
    account.server.set_faults(scale_in_seconds=0.5)
    wait_for(has(0))
    account.server.set_faults()
    refused()  # the alarm has not been back yet
    wait_for(has(1))
    assert ask(account, endpoint, component)["name"] == "old"
    (described,) = account.client("cloudwatch").describe_alarms(AlarmNames=[alarm["AlarmName"]])["MetricAlarms"]
    assert (described["StateValue"], described["AlarmActions"]) == ("ALARM", [step["PolicyARN"]])

    scaling.register_scalable_target(**scaled(component), MinCapacity=2, MaxCapacity=2)
    wait_for(has(2))
    listed = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert scaled(component)["ResourceId"] in [target["ResourceId"] for target in listed]
    assert len(scaling.describe_scaling_policies(**scaled(component))["ScalingPolicies"]) == 2

    scaling.deregister_scalable_target(**scaled(component))
    assert not scaling.describe_scaling_policies(**scaled(component))["ScalingPolicies"]
    scale(account, component, 0)
    refused()  # the alarm's action leads nowhere
    time.sleep(0.3)
    assert has(0)()


def test_an_alarm_goes_by_its_own_arn(account: Account, caller: Callable[..., Callable[[str], Any]]) -> None:
    alarm = wake_alarm(account.name("component"), "arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:none")
    arn = f"arn:aws:cloudwatch:{REGION}:123456789012:alarm:{alarm['AlarmName']}"
    actions = ["cloudwatch:PutMetricAlarm", "cloudwatch:DeleteAlarms"]
    with pytest.raises(ClientError, match="not authorized to perform: cloudwatch:DeleteAlarms"):
        caller(actions, [f"{arn}-of-another"])("cloudwatch").delete_alarms(AlarmNames=[alarm["AlarmName"]])
    cloudwatch = caller(actions, [arn])("cloudwatch")
    cloudwatch.put_metric_alarm(**alarm)
    for _ in range(2):  # the second time there is none, which is no error
        cloudwatch.delete_alarms(AlarmNames=[alarm["AlarmName"]])
    assert not account.client("cloudwatch").describe_alarms(AlarmNames=[alarm["AlarmName"]])["MetricAlarms"]
