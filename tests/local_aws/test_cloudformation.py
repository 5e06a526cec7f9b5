"""CloudFormation: every type that the app uses, with the properties that must not be dropped."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError, WaiterError

from tests.local_aws.conftest import Account

Resources = dict[str, Any]

TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": ["states.amazonaws.com", "lambda.amazonaws.com", "codebuild.amazonaws.com"]},
            "Action": "sts:AssumeRole",
        }
    ],
}


def deploy(account: Account, resources: Resources, outputs: dict[str, Any] | None = None) -> dict[str, str]:
    """A new stack; its outputs and the physical ids of its resources. Fails with CloudFormation's reasons."""
    name = account.name("stack")
    cloudformation = account.client("cloudformation")
    template = {"Resources": resources, "Outputs": outputs or {}}
    cloudformation.create_stack(
        StackName=name, TemplateBody=json.dumps(template), Capabilities=["CAPABILITY_NAMED_IAM"]
    )
    try:
        cloudformation.get_waiter("stack_create_complete").wait(
            StackName=name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 100}
        )
    except WaiterError:
        pytest.fail(" ".join(reasons(account, name)))
    found = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
    stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    return {
        "stack": name,
        **{resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in found},
        **{output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])},
    }


def reasons(account: Account, stack: str) -> list[str]:
    events = account.client("cloudformation").describe_stack_events(StackName=stack)["StackEvents"]
    return [event["ResourceStatusReason"] for event in events if event.get("ResourceStatusReason")]


def refused(account: Account, resources: Resources) -> str:
    """Why the stack was not created."""
    with pytest.raises((pytest.fail.Exception, ClientError)) as failure:
        deploy(account, resources)
    return str(failure.value)


def delete(account: Account, stack: str) -> None:
    cloudformation = account.client("cloudformation")
    cloudformation.delete_stack(StackName=stack)
    cloudformation.get_waiter("stack_delete_complete").wait(
        StackName=stack, WaiterConfig={"Delay": 0.2, "MaxAttempts": 100}
    )


def test_a_bucket_keeps_its_properties(account: Account) -> None:
    bucket = {
        "VersioningConfiguration": {"Status": "Enabled"},
        "BucketEncryption": {
            "ServerSideEncryptionConfiguration": [
                {
                    "BucketKeyEnabled": True,
                    "ServerSideEncryptionByDefault": {
                        "SSEAlgorithm": "aws:kms",
                        "KMSMasterKeyID": {"Fn::GetAtt": ["Key", "Arn"]},
                    },
                }
            ]
        },
        "PublicAccessBlockConfiguration": {"BlockPublicAcls": True, "RestrictPublicBuckets": True},
        "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
        "LoggingConfiguration": {"DestinationBucketName": {"Ref": "Logs"}, "LogFilePrefix": "data/"},
        "LifecycleConfiguration": {
            "Rules": [
                {
                    "Id": "old",
                    "Status": "Enabled",
                    "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
                    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
                }
            ]
        },
        "Tags": [{"Key": "run", "Value": "one"}],
    }
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}],
    }
    made = deploy(
        account,
        {
            "Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy, "EnableKeyRotation": True}},
            "Alias": {
                "Type": "AWS::KMS::Alias",
                "Properties": {"AliasName": "alias/data", "TargetKeyId": {"Ref": "Key"}},
            },
            "Logs": {"Type": "AWS::S3::Bucket"},
            "Data": {"Type": "AWS::S3::Bucket", "Properties": bucket},
        },
    )
    s3, name = account.client("s3"), made["Data"]
    assert s3.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
    rule = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["BucketKeyEnabled"] is True
    assert made["Key"] in rule["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"]
    assert s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]["BlockPublicAcls"] is True
    ownership = s3.get_bucket_ownership_controls(Bucket=name)["OwnershipControls"]["Rules"]
    assert ownership == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert s3.get_bucket_logging(Bucket=name)["LoggingEnabled"]["TargetBucket"] == made["Logs"]
    lifecycle = s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"][0]
    assert lifecycle["NoncurrentVersionExpiration"]["NoncurrentDays"] == 30
    tags = {tag["Key"]: tag["Value"] for tag in s3.get_bucket_tagging(Bucket=name)["TagSet"]}
    assert tags["run"] == "one"
    s3.put_object(Bucket=name, Key="k", Body=b"1")
    assert made["Key"] in s3.head_object(Bucket=name, Key="k")["SSEKMSKeyId"]


def test_a_bucket_that_is_not_empty_is_not_deleted(account: Account) -> None:
    made = deploy(account, {"Data": {"Type": "AWS::S3::Bucket"}})
    s3 = account.client("s3")
    s3.put_object(Bucket=made["Data"], Key="k", Body=b"1")
    with pytest.raises(WaiterError):
        delete(account, made["stack"])
    assert any("not empty" in reason for reason in reasons(account, made["stack"]))
    s3.delete_object(Bucket=made["Data"], Key="k")
    delete(account, made["stack"])


def test_sagemaker_and_budget_types(account: Account) -> None:
    subscribers = [{"SubscriptionType": "EMAIL", "Address": "someone@example.com"}]
    notification = {"NotificationType": "ACTUAL", "ComparisonOperator": "GREATER_THAN", "Threshold": 80}
    made = deploy(
        account,
        {
            "Group": {
                "Type": "AWS::SageMaker::ModelPackageGroup",
                "Properties": {"ModelPackageGroupName": "adapters", "Tags": [{"Key": "a", "Value": "b"}]},
            },
            "Budget": {
                "Type": "AWS::Budgets::Budget",
                "Properties": {
                    "Budget": {
                        "BudgetName": "monthly",
                        "BudgetType": "COST",
                        "TimeUnit": "MONTHLY",
                        "BudgetLimit": {"Amount": 500, "Unit": "USD"},
                    },
                    "NotificationsWithSubscribers": [{"Notification": notification, "Subscribers": subscribers}],
                },
            },
        },
        {"Arn": {"Value": {"Fn::GetAtt": ["Group", "ModelPackageGroupArn"]}}},
    )
    sagemaker, budgets = account.client("sagemaker"), account.client("budgets")
    described = sagemaker.describe_model_package_group(ModelPackageGroupName="adapters")
    assert described["ModelPackageGroupArn"] == made["Arn"]
    budget = budgets.describe_budget(AccountId="123456789012", BudgetName="monthly")["Budget"]
    assert float(budget["BudgetLimit"]["Amount"]) == 500
    delete(account, made["stack"])
    assert sagemaker.list_model_package_groups(NameContains="adapters")["ModelPackageGroupSummaryList"] == []


def test_a_topic_keeps_its_key(account: Account) -> None:
    made = deploy(account, {"Topic": {"Type": "AWS::SNS::Topic", "Properties": {"KmsMasterKeyId": "alias/data"}}})
    attributes = account.client("sns").get_topic_attributes(TopicArn=made["Topic"])["Attributes"]
    assert attributes["KmsMasterKeyId"] == "alias/data"


def test_an_alarm_looks_at_its_own_dimensions(account: Account) -> None:
    def alarm(endpoint: str) -> Resources:
        return {
            "Type": "AWS::CloudWatch::Alarm",
            "Properties": {
                "Namespace": "Test",
                "MetricName": "Errors",
                "Dimensions": [{"Name": "Endpoint", "Value": endpoint}],
                "Statistic": "Sum",
                "Period": 60,
                "EvaluationPeriods": 1,
                "Threshold": 1,
                "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            },
        }

    math = {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "Metrics": [{"Id": "e", "Expression": "1 + 1", "ReturnData": True}],
            "EvaluationPeriods": 1,
            "Threshold": 1,
            "ComparisonOperator": "GreaterThanThreshold",
        },
    }
    made = deploy(account, {"One": alarm("one"), "Two": alarm("two"), "Math": math})
    cloudwatch = account.client("cloudwatch")
    dimensions = [{"Name": "Endpoint", "Value": "one"}]
    cloudwatch.put_metric_data(
        Namespace="Test", MetricData=[{"MetricName": "Errors", "Dimensions": dimensions, "Value": 3}]
    )
    names = [made["One"], made["Two"], made["Math"]]
    alarms = cloudwatch.describe_alarms(AlarmNames=names)["MetricAlarms"]
    states = {alarm["AlarmName"]: alarm["StateValue"] for alarm in alarms}
    assert [states[name] for name in names] == ["ALARM", "INSUFFICIENT_DATA", "INSUFFICIENT_DATA"]


def machine(definition: dict[str, Any], role: Any) -> Resources:
    return {
        "Type": "AWS::StepFunctions::StateMachine",
        "Properties": {"DefinitionString": json.dumps(definition), "RoleArn": role},
    }


def test_a_state_machine_keeps_its_logging_and_is_checked(account: Account) -> None:
    delivery = {"Effect": "Allow", "Action": "logs:*", "Resource": "*"}
    role: Resources = {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": TRUST,
            "Policies": [{"PolicyName": "logs", "PolicyDocument": {"Version": "2012-10-17", "Statement": [delivery]}}],
        },
    }
    arn = {"Fn::GetAtt": ["Role", "Arn"]}
    good = machine({"StartAt": "S", "States": {"S": {"Type": "Succeed"}}}, arn)
    good["Properties"]["LoggingConfiguration"] = {
        "Level": "ERROR",
        "IncludeExecutionData": "true",
        "Destinations": [{"CloudWatchLogsLogGroup": {"LogGroupArn": {"Fn::GetAtt": ["Log", "Arn"]}}}],
    }
    log = {"Type": "AWS::Logs::LogGroup", "Properties": {"RetentionInDays": 30}}
    made = deploy(account, {"Role": role, "Log": log, "Machine": good})
    described = account.client("stepfunctions").describe_state_machine(stateMachineArn=made["Machine"])
    assert described["loggingConfiguration"]["level"] == "ERROR"
    assert described["loggingConfiguration"]["includeExecutionData"] is True
    bare = {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": TRUST}}
    assert "logs:CreateLogDelivery" in refused(account, {"Role": bare, "Log": log, "Machine": good})
    dangling = machine({"StartAt": "S", "States": {"S": {"Type": "Pass", "Next": "T"}}}, arn)
    assert "MISSING_TRANSITION_TARGET" in refused(account, {"Role": bare, "Machine": dangling})


@pytest.mark.parametrize(
    ("resource_type", "properties"),
    [
        (
            "AWS::Lambda::Function",
            {
                "Runtime": "python3.13",
                "Handler": "index.handler",
                "Code": {"ZipFile": "def handler(e, c): pass"},
                "Role": "arn:aws:iam::123456789012:role/nobody",
            },
        ),
        (
            "AWS::StepFunctions::StateMachine",
            {
                "DefinitionString": '{"StartAt":"S","States":{"S":{"Type":"Succeed"}}}',
                "RoleArn": "arn:aws:iam::123456789012:role/nobody",
            },
        ),
        (
            "AWS::CodeBuild::Project",
            {
                "ServiceRole": "arn:aws:iam::123456789012:role/nobody",
                "Source": {"Type": "NO_SOURCE"},
                "Artifacts": {"Type": "NO_ARTIFACTS"},
                "Environment": {"Type": "LINUX_CONTAINER", "Image": "i", "ComputeType": "BUILD_GENERAL1_SMALL"},
            },
        ),
    ],
)
def test_a_role_must_exist(account: Account, resource_type: str, properties: dict[str, Any]) -> None:
    why = refused(account, {"It": {"Type": resource_type, "Properties": properties}})
    assert "nobody cannot be found" in why


def test_a_type_that_is_not_handled_fails_the_deploy(account: Account) -> None:
    why = refused(account, {"It": {"Type": "AWS::SageMaker::Pipeline", "Properties": {}}})
    assert "AWS::SageMaker::Pipeline" in why


def test_an_export_reaches_another_stack(account: Account) -> None:
    name = account.name("export")
    deploy(
        account,
        {"Topic": {"Type": "AWS::SNS::Topic"}},
        {"Arn": {"Value": {"Ref": "Topic"}, "Export": {"Name": name}}},
    )
    parameter = {"Type": "String", "Value": {"Fn::ImportValue": name}}
    made = deploy(account, {"Parameter": {"Type": "AWS::SSM::Parameter", "Properties": parameter}})
    value = account.client("ssm").get_parameter(Name=made["Parameter"])["Parameter"]["Value"]
    assert value.startswith("arn:aws:sns:")
