"""The endpoint on and off by the clock, where the settings say so, and nothing of it where they do not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.stacks.reading import Template, listed, resources, role_statements, text


@pytest.fixture
def own(templates: Mapping[str, Template]) -> Template:
    return templates["own-Pipeline"]


def schedule(template: Template, switch: str) -> dict[str, Any]:
    found = [item["Properties"] for item in resources(template, "AWS::Scheduler::Schedule").values()]
    (properties,) = (item for item in found if item["Name"].endswith(f"-{switch}"))
    assert isinstance(properties, dict)
    return properties


def test_times_are_those_of_the_settings_zone(own: Template) -> None:
    on, off = schedule(own, "on"), schedule(own, "off")
    assert on["ScheduleExpression"] == "cron(30 7 ? * MON,TUE,WED,THU,FRI *)"
    assert off["ScheduleExpression"] == "cron(0 20 ? * * *)", "on Saturday a run may have deployed"
    for one in (on, off):
        assert one["ScheduleExpressionTimezone"] == "America/Toronto"
        assert one["FlexibleTimeWindow"] == {"Mode": "OFF"}
    given = [json.loads(one["Target"]["Input"]) for one in (on, off)]
    # Neither goes on trying when it is the other's turn.
    assert given == [{"switch": "on", "minutes": 750}, {"switch": "off", "minutes": 690}]


def test_both_start_the_machine_that_switches_and_may_do_no_more(own: Template) -> None:
    (key,) = (key for key, item in resources(own, "AWS::StepFunctions::StateMachine").items() if "Schedule" in key)
    assert own["Resources"][key]["Properties"]["StateMachineName"] == "HeartBeat-own-Schedule"
    assert {text(schedule(own, switch)["Target"]["Arn"]) for switch in ("on", "off")} == {f"<{key}>"}
    role = text(schedule(own, "on")["Target"]["RoleArn"]).strip("<>").partition(".")[0]
    (trust,) = own["Resources"][role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "scheduler.amazonaws.com"}
    assert "aws:SourceAccount" in trust["Condition"]["StringEquals"]
    allowed = [item for name, item in role_statements(own) if name.startswith("ScheduleRole")]
    assert [(listed(item["Action"]), text(item["Resource"])) for item in allowed] == [
        (["states:StartExecution"], f"<{key}>")
    ]


def test_an_endpoint_that_is_always_there_has_no_schedule(templates: Mapping[str, Template]) -> None:
    for stack in ("dev-Pipeline", "prod-Pipeline"):
        assert not resources(templates[stack], "AWS::Scheduler::Schedule")
        assert "SwitchEndpoint" not in json.dumps(templates[stack])


def test_a_failed_switch_raises_an_alarm_where_there_is_a_schedule(templates: Mapping[str, Template]) -> None:
    there = {stack: "EndpointNotSwitched" in json.dumps(templates[f"{stack}-Monitoring"]) for stack in ("dev", "own")}
    assert there == {"dev": False, "own": True}


def test_the_plan_counts_the_hours_that_bill(templates: Mapping[str, Template]) -> None:
    hours = {}
    for stack in ("dev", "own"):
        functions = resources(templates[f"{stack}-Pipeline"], "AWS::Lambda::Function").values()
        (plan,) = (item["Properties"] for item in functions if item["Properties"]["Handler"] == "make_plan.handler")
        hours[stack] = plan["Environment"]["Variables"]["ENDPOINT_HOURS_PER_MONTH"]
    assert hours == {"dev": "", "own": f"{12.5 * 5 * 730 / 168:.1f}"}
