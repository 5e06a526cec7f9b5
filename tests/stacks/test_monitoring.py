from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from heartbeat.metrics import METRICS
from heartbeat.requests import VARIANT
from tests.stacks.reading import Template, listed, only, resources, text


@pytest.fixture
def monitoring(templates: Mapping[str, Template]) -> Template:
    return templates["dev-Monitoring"]


def alarm(template: Template, name: str) -> dict[str, Any]:
    found = resources(template, "AWS::CloudWatch::Alarm")
    (properties,) = (each["Properties"] for key, each in found.items() if key.startswith(name))
    assert isinstance(properties, dict)
    return properties


def test_every_alarm_reaches_the_topic_and_none_sounds_without_data(monitoring: Template) -> None:
    (topic,) = resources(monitoring, "AWS::SNS::Topic")
    alarms = resources(monitoring, "AWS::CloudWatch::Alarm").values()
    for each in alarms:
        assert [text(action) for action in each["Properties"]["AlarmActions"]] == [f"<{topic}>"]
        assert each["Properties"]["TreatMissingData"] == "notBreaching"
        assert each["Properties"]["AlarmDescription"]


def test_each_function_has_an_alarm(templates: Mapping[str, Template]) -> None:
    functions = resources(templates["dev-Pipeline"], "AWS::Lambda::Function")
    watched = {
        text(each["Properties"]["Dimensions"][0]["Value"])
        for each in resources(templates["dev-Monitoring"], "AWS::CloudWatch::Alarm").values()
        if each["Properties"].get("Namespace") == "AWS/Lambda"
    }
    assert len(watched) == len(functions) >= 8
    outputs = templates["dev-Pipeline"]["Outputs"]
    assert {text(outputs[each.split(":")[1].rstrip(">")]["Value"]) for each in watched} == {
        f"<{key}>" for key in functions
    }


@pytest.mark.parametrize(
    ("name", "namespace", "metric"),
    [
        ("RunFailed", "AWS/States", "ExecutionsFailed"),
        ("RunTimedOut", "AWS/States", "ExecutionsTimedOut"),
        ("RunThrottled", "AWS/States", "ExecutionThrottled"),
        ("ImageBuildFailed", "AWS/CodeBuild", "FailedBuilds"),
        ("EndpointErrors", "AWS/SageMaker", "Invocation5XXErrors"),
    ],
)
def test_one_failure_is_enough(monitoring: Template, name: str, namespace: str, metric: str) -> None:
    found = alarm(monitoring, name)
    assert (found["Namespace"], found["MetricName"], found["Statistic"]) == (namespace, metric, "Sum")
    assert (found["Threshold"], found["EvaluationPeriods"]) == (1, 1)
    assert found["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"


def test_a_slow_endpoint_alarms_after_fifteen_minutes(monitoring: Template) -> None:
    found = alarm(monitoring, "EndpointSlow")
    assert (found["MetricName"], found["ExtendedStatistic"]) == ("ModelLatency", "p90")
    assert found["Threshold"] == 30_000_000  # microseconds
    assert found["Period"] * found["EvaluationPeriods"] == 900


def test_an_idle_endpoint_alarms_after_a_day(monitoring: Template) -> None:
    found = alarm(monitoring, "EndpointIdle")
    metrics = {each["Id"]: each for each in found["Metrics"]}
    assert found["EvaluationPeriods"] * metrics["called"]["MetricStat"]["Period"] == 24 * 3600
    assert metrics["called"]["MetricStat"]["Metric"]["MetricName"] == "Invocations"
    assert metrics["running"]["MetricStat"]["Metric"]["Namespace"] == "/aws/sagemaker/Endpoints"
    (expression,) = (each for each in metrics.values() if "Expression" in each)
    assert expression["ReturnData"] is True
    assert expression["Expression"] == "IF(running > 0 AND FILL(called, 0) == 0, 1, 0)"


def test_endpoint_metrics_are_of_the_endpoint_that_runs_deploy(templates: Mapping[str, Template]) -> None:
    name = templates["dev-Pipeline"]["Outputs"]["EndpointName"]["Value"]
    assert alarm(templates["dev-Monitoring"], "EndpointErrors")["Dimensions"] == [
        {"Name": "EndpointName", "Value": name},
        {"Name": "VariantName", "Value": VARIANT},
    ]


def test_alerts_are_encrypted_and_travel_by_tls(monitoring: Template) -> None:
    (key,) = resources(monitoring, "AWS::KMS::Key")
    assert only(monitoring, "AWS::KMS::Key")["EnableKeyRotation"] is True
    assert text(only(monitoring, "AWS::SNS::Topic")["KmsMasterKeyId"]) == f"<{key}.Arn>"
    statements = only(monitoring, "AWS::SNS::TopicPolicy")["PolicyDocument"]["Statement"]
    (deny,) = (each for each in statements if each["Effect"] == "Deny")
    assert (deny["Action"], deny["Condition"]) == ("sns:Publish", {"Bool": {"aws:SecureTransport": "false"}})


@pytest.mark.parametrize("service", ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"])
def test_only_this_accounts_alarms_and_budgets_publish(monitoring: Template, service: str) -> None:
    def allowed(statements: list[dict[str, Any]]) -> list[tuple[list[str], Any]]:
        return [
            (listed(each["Action"]), each["Condition"])
            for each in statements
            if each["Effect"] == "Allow" and service in listed(each["Principal"].get("Service", []))
        ]

    condition = {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
    topic = only(monitoring, "AWS::SNS::TopicPolicy")["PolicyDocument"]["Statement"]
    key = only(monitoring, "AWS::KMS::Key")["KeyPolicy"]["Statement"]
    assert allowed(topic) == [(["sns:Publish"], condition)]
    assert allowed(key) == [(["kms:Decrypt", "kms:GenerateDataKey*"], condition)]


def test_the_budget_counts_what_carries_the_environments_tag(monitoring: Template) -> None:
    found = only(monitoring, "AWS::Budgets::Budget")
    (topic,) = resources(monitoring, "AWS::SNS::Topic")
    assert found["Budget"]["BudgetLimit"] == {"Amount": 500, "Unit": "USD"}
    assert found["Budget"]["TimeUnit"] == "MONTHLY"
    assert found["Budget"]["CostFilters"] == {"TagKeyValue": ["user:heartbeat:environment$dev"]}
    alerts = found["NotificationsWithSubscribers"]
    assert [(each["Notification"]["NotificationType"], each["Notification"]["Threshold"]) for each in alerts] == [
        ("ACTUAL", 80),
        ("ACTUAL", 100),
        ("FORECASTED", 100),
    ]
    for each in alerts:
        (subscriber,) = each["Subscribers"]
        assert (subscriber["SubscriptionType"], text(subscriber["Address"])) == ("SNS", f"<{topic}>")


def test_the_budget_waits_until_it_may_publish(monitoring: Template) -> None:
    (budget,) = resources(monitoring, "AWS::Budgets::Budget").values()
    assert set(resources(monitoring, "AWS::SNS::TopicPolicy")) <= set(budget["DependsOn"])


def test_an_environment_without_a_budget_has_none(templates: Mapping[str, Template]) -> None:
    assert not resources(templates["own-Monitoring"], "AWS::Budgets::Budget")


def test_an_address_is_subscribed(templates: Mapping[str, Template]) -> None:
    subscription = only(templates["own-Monitoring"], "AWS::SNS::Subscription")
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "me@example.com")


def test_without_an_address_nobody_is_subscribed(monitoring: Template) -> None:
    assert not resources(monitoring, "AWS::SNS::Subscription")


def test_the_dashboard_shows_every_figure_of_the_training_log(monitoring: Template) -> None:
    body = json.loads(text(only(monitoring, "AWS::CloudWatch::Dashboard")["DashboardBody"]))
    searches = [
        line[0]["expression"]
        for widget in body["widgets"]
        for line in widget["properties"].get("metrics", [])
        if isinstance(line[0], dict)
    ]
    for metric in METRICS.values():
        schema = "{/aws/sagemaker/TrainingJobs,TrainingJobName}"
        terms = f'{schema} MetricName="{metric.name}" TrainingJobName=hb TrainingJobName=dev'
        assert f"SEARCH('{terms}', 'Average', 60)" in searches
    assert len(searches) == len(METRICS) + 2  # GPU use and memory of the instance


def test_the_dashboard_fits_its_grid(monitoring: Template) -> None:
    body = json.loads(text(only(monitoring, "AWS::CloudWatch::Dashboard")["DashboardBody"]))
    assert all(widget["x"] + widget["width"] <= 24 for widget in body["widgets"])
    titles = [widget["properties"].get("title", "") for widget in body["widgets"]]
    assert "Executions" in titles
    assert "Latency of the model" in titles
