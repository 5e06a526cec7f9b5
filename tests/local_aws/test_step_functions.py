"""State machines: JSONata, task integrations under the machine's role, errors, stopping, history."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_aws.conftest import (
    BUCKET,
    REGION,
    REPOSITORY,
    Account,
    allow,
    wait_for,
    zip_of,
)

FUNCTION = """
import json

class DatasetInvalid(Exception):
    pass

def handler(event, context):
    if event.get("mode") == "raise":
        raise DatasetInvalid("row 3 has no messages")
    if event.get("mode") == "exit":
        import os
        os._exit(1)
    return {"seen": event}
"""
PROGRAM = """
import json, os, pathlib, sys, time
ml = pathlib.Path(os.environ["HEARTBEAT_OPT_ML"])
mode = json.loads((ml / "input/config/hyperparameters.json").read_text()).get("MODE")
if mode == "fail":
    (ml / "output/failure").write_text("no rows")
    sys.exit(1)
if mode == "hang":
    time.sleep(60)
(ml / "model/w.bin").write_text("1")
"""
STATES_ACTIONS = [
    "lambda:InvokeFunction",
    "events:PutRule",
    "events:PutTargets",
    "events:DescribeRule",
    "sagemaker:CreateTrainingJob",
    "sagemaker:DescribeTrainingJob",
    "sagemaker:StopTrainingJob",
    "sagemaker:ListTags",
    "sagemaker:AddTags",
    "iam:PassRole",
]


@pytest.fixture(scope="module")
def admin(account: Account) -> str:
    return account.role("states.amazonaws.com", allow("*"))


@pytest.fixture(scope="module")
def function(account: Account) -> str:
    return make_function(account, FUNCTION)


def make_function(account: Account, code: str) -> str:
    name = account.name("function")
    account.client("lambda").create_function(
        FunctionName=name,
        Runtime="python3.13",
        Handler="handler.handler",
        Role=account.role("lambda.amazonaws.com", allow("logs:*")),
        Code={"ZipFile": zip_of({"handler.py": code})},
        Timeout=10,
    )
    return name


@pytest.fixture(scope="module")
def image(account: Account) -> str:
    return account.image(PROGRAM)


def create(account: Account, role: str, definition: dict[str, Any], **options: Any) -> str:
    text = json.dumps({"QueryLanguage": "JSONata", **definition})
    created = account.client("stepfunctions").create_state_machine(
        name=account.name("machine"), definition=text, roleArn=role, **options
    )
    return str(created["stateMachineArn"])


def start(account: Account, machine: str, **given: Any) -> str:
    started = account.client("stepfunctions").start_execution(stateMachineArn=machine, input=json.dumps(given))
    return str(started["executionArn"])


def ended(account: Account, execution: str) -> dict[str, Any]:
    def look() -> Any:
        described = account.client("stepfunctions").describe_execution(executionArn=execution)
        return described if described["status"] != "RUNNING" else None

    result: dict[str, Any] = wait_for(look)
    return result


def run(account: Account, role: str, definition: dict[str, Any], **given: Any) -> dict[str, Any]:
    return ended(account, start(account, create(account, role, definition), **given))


def output(execution: dict[str, Any]) -> Any:
    assert execution["status"] == "SUCCEEDED", (execution.get("error"), execution.get("cause"))
    return json.loads(execution["output"])


def one(state: dict[str, Any], **others: dict[str, Any]) -> dict[str, Any]:
    """A machine of one state, S, and those that it leads to."""
    ends = state if state["Type"] in ("Choice", "Fail", "Succeed") or "Next" in state else {**state, "End": True}
    return {"StartAt": "S", "States": {"S": ends, **others}}


def test_expressions_variables_and_context(account: Account, admin: str) -> None:
    first = {
        "Type": "Pass",
        "Assign": {"n": "{% $states.input.n * 2 %}", "nothing": "{% null %}"},
        "Output": {"kept": "{% $states.input.n %}"},
        "Next": "Second",
    }
    second = {
        "Type": "Pass",
        "End": True,
        "Output": {
            "n": "{% $n %}",
            "nothing": "{% $nothing = null %}",
            "kept": "{% $states.input.kept %}",
            "name": "{% $states.context.Execution.Name %}",
            "id": "{% $states.context.Execution.Id %}",
            "input": "{% $states.context.Execution.Input %}",
            "redrives": "{% $states.context.Execution.RedriveCount %}",
            "state": "{% $states.context.State.Name %}",
            "entered": "{% $toMillis($states.context.State.EnteredTime) %}",
            "hash": "{% $hash('abc', 'SHA-256') %}",
            "uuid": "{% $uuid() %}",
            "parsed": "{% $parse('{\"a\": [1]}') %}",
            "parts": "{% $partition([1..5], 2) %}",
            "range": "{% $range(0, 6, 3) %}",
            "random": "{% $random() < 1 %}",
        },
    }
    arn = start(account, create(account, admin, one(first, Second=second)), n=21)
    result = output(ended(account, arn))
    assert (result["n"], result["nothing"], result["kept"]) == (42, True, 21)
    assert (result["name"], result["id"]) == (arn.rsplit(":", 1)[-1], arn)
    assert (result["input"], result["redrives"], result["state"]) == ({"n": 21}, 0, "Second")
    assert abs(result["entered"] / 1000 - time.time()) < 60
    assert result["hash"].startswith("ba7816bf")
    assert re.fullmatch(r"[0-9a-f-]{36}", result["uuid"])
    assert (result["parsed"], result["parts"], result["range"]) == ({"a": [1]}, [[1, 2], [3, 4], [5]], [0, 3, 6])
    assert result["random"] is True


def test_choice_wait_and_fail_take_expressions(account: Account, admin: str) -> None:
    choice = {
        "Type": "Choice",
        "Choices": [{"Condition": "{% $states.input.n > 10 %}", "Next": "Wait", "Assign": {"why": "big"}}],
        "Default": "Small",
    }
    states = {
        "Wait": {"Type": "Wait", "Seconds": "{% $states.input.n - 10 %}", "Next": "Refuse"},
        "Refuse": {"Type": "Fail", "Error": "{% 'Too' & $why %}", "Cause": "{% 'n=' & $states.input.n %}"},
        "Small": {"Type": "Succeed", "Output": "{% $states.input.n %}"},
    }
    machine = create(account, admin, one(choice, **states))
    assert output(ended(account, start(account, machine, n=3))) == 3
    started = time.monotonic()
    big = ended(account, start(account, machine, n=11))
    assert time.monotonic() - started >= 1
    assert (big["status"], big["error"], big["cause"]) == ("FAILED", "Toobig", "n=11")


def test_an_undefined_expression_is_a_query_evaluation_error(account: Account, admin: str) -> None:
    result = run(account, admin, one({"Type": "Pass", "Output": "{% $states.input.missing %}"}))
    assert result["error"] == "States.QueryEvaluationError"
    assert "returned nothing (undefined)" in result["cause"]


def invoke(function: str, **payload: Any) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Arguments": {"FunctionName": function, "Payload": payload},
    }


def test_lambda_invoke(account: Account, admin: str, function: str) -> None:
    state = {**invoke(function, n="{% $states.input.n %}"), "Output": "{% $states.result.Payload.seen %}"}
    assert output(run(account, admin, one(state), n=5)) == {"n": 5}


def test_lambda_errors_are_caught_by_their_class(account: Account, admin: str, function: str) -> None:
    catch = {
        "ErrorEquals": ["DatasetInvalid"],
        "Next": "Explain",
        "Assign": {"failed": "{% $states.errorOutput.Error %}"},
        "Output": {"cause": "{% $parse($states.errorOutput.Cause).errorMessage %}"},
    }
    explain = {"Type": "Pass", "End": True, "Output": {"error": "{% $failed %}", "was": "{% $states.input.cause %}"}}
    state = {**invoke(function, mode="raise"), "Catch": [catch], "Next": "Explain"}
    result = output(run(account, admin, one(state, Explain=explain)))
    assert result == {"error": "DatasetInvalid", "was": "row 3 has no messages"}


def test_a_function_that_dies_has_an_error_of_the_runtime(account: Account, admin: str, function: str) -> None:
    assert run(account, admin, one(invoke(function, mode="exit")))["error"] == "Runtime.ExitError"


def test_a_function_sees_its_zip_and_boto3_only(account: Account, admin: str) -> None:
    code = "import boto3\ndef handler(event, context):\n    import torch\n"
    result = run(account, admin, one(invoke(make_function(account, code))))
    assert result["error"] == "ModuleNotFoundError"
    assert "No module named 'torch'" in result["cause"]
    missing = run(account, admin, one(invoke(make_function(account, "import rich\n"))))
    assert missing["error"] == "Runtime.ImportModuleError"


def test_retry_counts_and_passes_through(account: Account, admin: str, function: str) -> None:
    retry = {
        "ErrorEquals": ["DatasetInvalid"],
        "IntervalSeconds": 1,
        "MaxAttempts": 2,
        "BackoffRate": 1,
        "JitterStrategy": "FULL",
    }
    state = {**invoke(function, mode="raise", tries="{% $states.context.State.RetryCount %}"), "Retry": [retry]}
    arn = start(account, create(account, admin, one(state)))
    assert ended(account, arn)["error"] == "DatasetInvalid"
    events = account.client("stepfunctions").get_execution_history(executionArn=arn)["events"]
    payloads = [
        json.loads(event["taskScheduledEventDetails"]["parameters"])["Payload"]["tries"]
        for event in events
        if event["type"] == "TaskScheduled"
    ]
    assert payloads == [0, 1, 2]


def test_task_tokens(account: Account, admin: str, function: str) -> None:
    state = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
        "Arguments": {"FunctionName": function, "Payload": {"token": "{% $states.context.Task.Token %}"}},
    }
    stepfunctions = account.client("stepfunctions")
    machine = create(account, admin, one(state))

    def token(arn: str) -> Any:
        for event in stepfunctions.get_execution_history(executionArn=arn)["events"]:
            if event["type"] == "TaskScheduled":
                return json.loads(event["taskScheduledEventDetails"]["parameters"])["Payload"]["token"]
        return None

    approved, refused = start(account, machine), start(account, machine)
    given = wait_for(lambda: token(approved))
    time.sleep(0.3)
    stepfunctions.send_task_success(taskToken=given, output='{"approved": true}')
    assert output(ended(account, approved)) == {"approved": True}
    stepfunctions.send_task_failure(taskToken=wait_for(lambda: token(refused)), error="Refused", cause="too dear")
    result = ended(account, refused)
    assert (result["error"], result["cause"]) == ("Refused", "too dear")
    with pytest.raises(ClientError, match="does not exist anymore"):
        stepfunctions.send_task_success(taskToken="none", output="{}")


def train(account: Account, image: str, mode: str = "", **changes: Any) -> dict[str, Any]:
    request = account.job_request(image, HyperParameters={"MODE": mode})
    request["TrainingJobName"] = "{% $states.input.job %}"
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::sagemaker:createTrainingJob.sync",
        "Arguments": {**request, **changes},
    }


def test_create_training_job_sync(account: Account, image: str) -> None:
    role = account.role("states.amazonaws.com", allow(*STATES_ACTIONS))
    state = {**train(account, image), "Output": "{% $states.result %}"}
    result = output(run(account, role, one(state), job=account.name("sync")))
    assert result["TrainingJobStatus"] == "Completed"
    assert isinstance(result["TrainingStartTime"], int)
    tags = account.client("sagemaker").list_tags(ResourceArn=result["TrainingJobArn"])["Tags"]
    assert {"Key": "MANAGED_BY_AWS", "Value": "STARTED_BY_STEP_FUNCTIONS"} in tags


def test_a_failed_job_is_a_task_failure_with_its_description(account: Account, admin: str, image: str) -> None:
    result = run(account, admin, one(train(account, image, "fail")), job=account.name("sync"))
    assert result["error"] == "States.TaskFailed"
    described = json.loads(result["cause"])
    assert described["FailureReason"] == "AlgorithmError: no rows, exit code: 1"


def test_a_quota_is_named_as_the_sdk_names_it(account: Account, admin: str, image: str) -> None:
    account.server.set_faults(quota=["ml.g5.12xlarge"])
    result = run(account, admin, one(train(account, image)), job=account.name("sync"))
    assert result["error"] == "SageMaker.ResourceLimitExceededException"


def test_stopping_an_execution_stops_its_job(account: Account, admin: str, image: str) -> None:
    job = account.name("sync")
    arn = start(account, create(account, admin, one(train(account, image, "hang"))), job=job)
    sagemaker = account.client("sagemaker")

    def is_training() -> bool:
        found = sagemaker.list_training_jobs(NameContains=job)["TrainingJobSummaries"]
        return bool(found) and found[0]["SecondaryStatus"] == "Training"

    wait_for(is_training)
    stepfunctions = account.client("stepfunctions")
    stepfunctions.stop_execution(executionArn=arn, error="Stopped", cause="by hand")
    assert account.ended(job)["TrainingJobStatus"] == "Stopped"
    described = ended(account, arn)
    assert (described["status"], described["cause"]) == ("ABORTED", "by hand")
    events = stepfunctions.get_execution_history(executionArn=arn)["events"]
    assert events[-1]["type"] == "ExecutionAborted"


def test_a_state_timeout_stops_its_job(account: Account, admin: str, image: str) -> None:
    job = account.name("sync")
    state = {**train(account, image, "hang"), "TimeoutSeconds": "{% 1 + 1 %}"}
    result = run(account, admin, one(state), job=job)
    assert result["error"] == "States.Timeout"
    assert account.ended(job)["TrainingJobStatus"] == "Stopped"


@pytest.mark.parametrize(
    "action", ["sagemaker:CreateTrainingJob", "sagemaker:DescribeTrainingJob", "sagemaker:AddTags",
               "sagemaker:ListTags", "iam:PassRole", "events:PutRule"],
)  # fmt: skip
def test_a_sync_task_needs_each_permission(account: Account, image: str, action: str) -> None:
    role = account.role("states.amazonaws.com", allow(*STATES_ACTIONS))
    machine = create(account, role, one(train(account, image)))
    account.deny(role, action)
    result = ended(account, start(account, machine, job=account.name("sync")))
    assert result["status"] == "FAILED"
    assert action in result["cause"]


def test_a_machine_with_sync_needs_the_managed_rule_when_it_is_made(account: Account, image: str) -> None:
    without = [action for action in STATES_ACTIONS if not action.startswith("events:")]
    role = account.role("states.amazonaws.com", allow(*without))
    with pytest.raises(ClientError, match="not authorized to create managed-rule"):
        create(account, role, one(train(account, image)))


def test_codebuild_sync(account: Account, admin: str) -> None:
    dockerfile = 'FROM python:3.11\nCOPY . .\nENTRYPOINT ["python", "p.py"]\n'
    project = account.project({"Dockerfile": dockerfile, "p.py": ""})
    variable = {"Name": "IMAGE_TAG", "Value": "from-states", "Type": "PLAINTEXT"}
    state = {
        "Type": "Task",
        "Resource": "arn:aws:states:::codebuild:startBuild.sync",
        "Arguments": {"ProjectName": project, "EnvironmentVariablesOverride": [variable]},
    }
    assert output(run(account, admin, one(state)))["Build"]["BuildStatus"] == "SUCCEEDED"
    account.client("ecr").describe_images(repositoryName=REPOSITORY, imageIds=[{"imageTag": "from-states"}])
    broken = account.project({"Dockerfile": "FROM a\nCOPY b c\n"})
    failing = {**state, "Arguments": {"ProjectName": broken}}
    result = run(account, admin, one(failing))
    assert result["error"] == "States.TaskFailed"
    assert json.loads(result["cause"])["Build"]["BuildStatus"] == "FAILED"


def sdk(action: str, **arguments: Any) -> dict[str, Any]:
    return {"Type": "Task", "Resource": f"arn:aws:states:::aws-sdk:{action}", "Arguments": arguments}


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (
            sdk("ecr:describeImages", RepositoryName=REPOSITORY, ImageIds=[{"ImageTag": "no"}]),
            "Ecr.ImageNotFoundException",
        ),
        (sdk("s3:headObject", Bucket=BUCKET, Key="no"), "S3.NoSuchKeyException"),
        (sdk("s3:getObject", Bucket=BUCKET, Key="no"), "S3.NoSuchKeyException"),
        (sdk("sagemaker:describeEndpoint", EndpointName="no"), "SageMaker.SageMakerException"),
        (sdk("ssm:getParameter", Name="/no"), "Ssm.ParameterNotFoundException"),
        (sdk("s3:headObject", Bucket=BUCKET, Keys="no"), "States.Runtime"),
        (sdk("lambda:getFunction", FunctionName="no"), "Lambda.ResourceNotFoundException"),
    ],
)
def test_sdk_errors_have_the_names_that_aws_gives(
    account: Account, admin: str, state: dict[str, Any], error: str
) -> None:
    assert run(account, admin, one(state))["error"] == error


def test_sdk_results_are_pascal_case(account: Account, admin: str) -> None:
    account.put("sdk/one.txt", b"1")
    described = output(run(account, admin, one(sdk("s3:headObject", Bucket=BUCKET, Key="sdk/one.txt"))))
    assert described["ContentLength"] == 1
    assert described["LastModified"].endswith("Z")
    images = output(run(account, admin, one(sdk("ecr:describeImages", RepositoryName=REPOSITORY))))
    assert images["ImageDetails"][0]["RepositoryName"] == REPOSITORY
    tokens = one(sdk("s3:putObject", Bucket=BUCKET, Key="sdk/two.json", Body={"a": 1}))
    output(run(account, admin, tokens))
    assert json.loads(account.get("sdk/two.json")) == {"a": 1}


def test_tasks_run_as_the_machines_role(account: Account, function: str) -> None:
    role = account.role("states.amazonaws.com", allow("s3:GetObject"))
    result = run(account, role, one(invoke(function)))
    assert result["error"] == "Lambda.AWSLambdaException"
    assert "lambda:InvokeFunction" in result["cause"]


def test_states_all_does_not_catch_a_runtime_error(account: Account, admin: str) -> None:
    state = sdk("s3:headObject", Bucket=BUCKET, Keys="no")
    caught = {**state, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "After"}], "Next": "After"}
    result = run(account, admin, one(caught, After={"Type": "Succeed"}))
    assert result["error"] == "States.Runtime"


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (one({"Type": "Pass", "Next": "Nowhere"}), "Nowhere"),
        (one({"Type": "Pass", "Output": "{% $a + %}"}), "INVALID_JSONATA_EXPRESSION"),
        ({"StartAt": "T", "States": {"S": {"Type": "Succeed"}}}, "StartAt"),
        (one({"Type": "Pass", "Outputs": "x"}), "SCHEMA_VALIDATION_FAILED"),
    ],
)
def test_a_wrong_definition_is_refused(account: Account, admin: str, definition: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=message):
        create(account, admin, definition)


def test_logs_and_metrics_of_executions(account: Account, admin: str) -> None:
    group = f"/aws/vendedlogs/states/{account.name('log')}"
    account.client("logs").create_log_group(logGroupName=group)
    logging = {
        "level": "ALL",
        "includeExecutionData": True,
        "destinations": [
            {"cloudWatchLogsLogGroup": {"logGroupArn": f"arn:aws:logs:{REGION}:123456789012:log-group:{group}:*"}}
        ],
    }
    machine = create(account, admin, one({"Type": "Pass", "Output": 7}), loggingConfiguration=logging)
    assert output(ended(account, start(account, machine))) == 7
    entries = wait_for(lambda: account.log_lines(group)[3:])
    assert json.loads(entries[-1])["type"] == "ExecutionSucceeded"
    counted = account.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/States",
        MetricName="ExecutionsSucceeded",
        Dimensions=[{"Name": "StateMachineArn", "Value": machine}],
        StartTime=time.time() - 300,
        EndTime=time.time() + 60,
        Period=3600,
        Statistics=["Sum"],
    )["Datapoints"]
    assert sum(point["Sum"] for point in counted) == 1


def test_an_aborted_execution_reaches_a_rule(account: Account, admin: str, function: str) -> None:
    machine = create(account, admin, one({"Type": "Wait", "Seconds": 60}))
    lambda_client, events = account.client("lambda"), account.client("events")
    arn = lambda_client.get_function(FunctionName=function)["Configuration"]["FunctionArn"]
    pattern = {"source": ["aws.states"], "detail": {"stateMachineArn": [machine], "status": ["ABORTED"]}}
    rule = events.put_rule(Name=account.name("rule"), EventPattern=json.dumps(pattern))["RuleArn"]
    events.put_targets(Rule=rule.rsplit("/", 1)[-1], Targets=[{"Id": "clean-up", "Arn": arn}])
    group = f"/aws/lambda/{function}"

    def invocations() -> int:
        return sum(line.startswith("START ") for line in account.log_lines(group))

    def abort() -> None:
        execution = start(account, machine)
        wait_for(lambda: history(account, execution))
        account.client("stepfunctions").stop_execution(executionArn=execution)

    before = invocations()
    abort()
    time.sleep(0.5)
    assert invocations() == before  # the function's policy does not let the rule in
    lambda_client.add_permission(
        FunctionName=function,
        StatementId="events",
        Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com",
        SourceArn=rule,
    )
    abort()
    wait_for(lambda: invocations() == before + 1)


def history(account: Account, execution: str) -> list[dict[str, Any]]:
    found = account.client("stepfunctions").get_execution_history(executionArn=execution)["events"]
    return [event for event in found if event["type"].endswith("StateEntered")]


def test_a_machine_times_out(account: Account, admin: str) -> None:
    definition = {**one({"Type": "Wait", "Seconds": 60}), "TimeoutSeconds": 1}
    result = run(account, admin, definition)
    assert (result["status"], result["error"]) == ("TIMED_OUT", "States.Timeout")


def test_redrive_begins_again_at_the_failed_state(account: Account, admin: str) -> None:
    read = {
        **sdk("s3:getObject", Bucket=BUCKET, Key="{% $key %}"),
        "Output": "{% $states.result.Body & ' ' & $states.context.Execution.RedriveCount %}",
        "End": True,
    }
    key = account.name("redriven")
    first = {"Type": "Pass", "Assign": {"key": key}, "Next": "Read"}
    arn = start(account, create(account, admin, one(first, Read=read)))
    failed = ended(account, arn)
    assert (failed["error"], failed["redriveStatus"]) == ("S3.NoSuchKeyException", "REDRIVABLE")
    account.put(key, b"found")
    account.client("stepfunctions").redrive_execution(executionArn=arn)
    redriven = ended(account, arn)
    assert output(redriven) == "found 1"
    assert [event["stateEnteredEventDetails"]["name"] for event in history(account, arn)] == ["S", "Read", "Read"]


def test_executions_are_listed(account: Account, admin: str) -> None:
    machine = create(account, admin, one({"Type": "Succeed"}))
    arns = {start(account, machine) for _ in range(3)}
    for arn in arns:
        ended(account, arn)
    pages = (
        account.client("stepfunctions")
        .get_paginator("list_executions")
        .paginate(stateMachineArn=machine, statusFilter="SUCCEEDED", PaginationConfig={"PageSize": 2})
    )
    assert {execution["executionArn"] for page in pages for execution in page["executions"]} == arns
