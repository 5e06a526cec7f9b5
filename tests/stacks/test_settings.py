from __future__ import annotations

import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_logs as logs

from heartbeat.job import SettingError
from stacks import bundling
from stacks.settings import Settings


def settings(**values: Any) -> Settings:
    return Settings.from_context({"heartbeat": {"dev": values}}, "dev")


def test_defaults_are_the_cards() -> None:
    made = settings()
    assert made.instance_types == ("ml.p4d.24xlarge", "ml.p3.8xlarge", "ml.g5.12xlarge")
    assert made.max_runtime_seconds == 28_800
    assert made.base_model == "meta-llama/Llama-4-Scout-17B-16E-Instruct"
    assert made.endpoint_name == "heartbeat-dev"
    assert made.retain_data


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_cdk_json_holds_usable_settings(environment: str) -> None:
    context = json.loads((bundling.ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    made = Settings.from_context(context, environment)
    assert made.environment == environment
    assert made.retain_data == made.termination_protection == (environment == "prod")


def test_a_construct_node_will_do() -> None:
    app = cdk.App(context={"heartbeat": {"dev": {"use_spot": True}}})
    assert Settings.from_context(app.node, "dev").use_spot


def test_the_command_line_overrides_cdk_json() -> None:
    context = {
        "heartbeat": {"dev": {"log_retention_days": 30, "alarm_email": "a@example.com"}, "prod": {}},
        "heartbeat.dev.log_retention_days": "7",
        "heartbeat.dev.alarm_email": "b@example.com",
        "heartbeat.dev.instance_types": '["ml.g5.12xlarge"]',
        "heartbeat.prod.log_retention_days": "365",
    }
    made = Settings.from_context(context, "dev")
    assert made.log_retention_days == 7
    assert made.alarm_email == "b@example.com"
    assert made.instance_types == ("ml.g5.12xlarge",)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("log_retention_days", "log_retention_days needs its environment; write -c heartbeat.dev.log_retention_days="),
        ("heartbeat.dve.use_spot", "heartbeat.dve.use_spot is for environment dve, which is not in cdk.json (did you"),
        ("heartbeat.dev.use_spto", "heartbeat.dev.use_spto is not a setting (did you mean use_spot?)"),
    ],
)
def test_a_setting_that_nothing_would_read_is_refused(key: str, says: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_context({"heartbeat": {"dev": {}, "prod": {}}, "environment": "dev", key: "7"}, "dev")
    assert str(caught.value).startswith(says)


def test_null_leaves_an_optional_setting_out() -> None:
    assert settings(monthly_budget_usd=None, alarm_email=None).monthly_budget_usd is None


@pytest.mark.parametrize("section", [None, "dev", {"dev": None}, {"dev": []}])
def test_a_malformed_section_is_refused(section: Any) -> None:
    with pytest.raises(SettingError, match=r"context\.heartbeat of cdk\.json must be an object"):
        Settings.from_context({"heartbeat": section}, "dev")


def test_settings_are_frozen() -> None:
    given = {"team": "hockey"}
    made = settings(tags=given)
    given["team"] = "baseball"
    assert made.tags == {"team": "hockey"}
    with pytest.raises(AttributeError):
        made.environment = "prod"  # type: ignore[misc]
    with pytest.raises(TypeError):
        made.tags["team"] = "baseball"  # type: ignore[index]


def test_own_tags_are_kept_beside_those_of_the_user() -> None:
    assert settings(tags={"team": "hockey"}, project="rink").all_tags == {
        "team": "hockey",
        "heartbeat:environment": "dev",
        "heartbeat:project": "rink",
    }


@pytest.mark.parametrize(
    "days", [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653]
)
def test_a_log_group_gets_the_retention_that_was_set(days: int) -> None:
    stack = cdk.Stack()
    made = logs.LogGroup(stack, "Log", retention=settings(log_retention_days=days).log_retention)
    child = made.node.default_child
    assert isinstance(child, logs.CfnLogGroup)
    assert child.retention_in_days == days


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("log_retention_days", 45, "=45 is not a retention that CloudWatch Logs has (1, 3, 5, "),
        ("log_retention_days", 45, "; use 30"),
        ("log_retention_days", 30.0, "=30.0 must be a whole number"),
        ("log_retention_days", True, "=true must be a whole number"),
        ("log_retention_days", "30", '="30" must be a whole number'),
        ("retain_data", None, "=null must be true or false"),
        ("retain_data", "yes", '="yes" must be true or false'),
        ("retain_data", 1, "=1 must be true or false"),
        ("budget_usd", 0, "=0.0 must be a number of dollars above 0; leave it out for no limit"),
        ("budget_usd", "5", '="5" must be a number'),
        ("monthly_budget_usd", -5, "=-5.0 must be a number of dollars above 0"),
        ("monthly_budget_usd", float("inf"), "must be a number of dollars above 0"),
        ("max_runtime_seconds", 28_800_000, "must be from 600 to 2419200; leave it out for 28800"),
        ("max_runtime_seconds", 60, "=60 must be from 600 to"),
        ("volume_size_gib", 10, "=10 must be from 50 to 16384"),
        ("noncurrent_version_days", 0, "=0 must be from 1"),
        ("checkpoint_days", 0, "=0 must be from 1"),
        ("access_log_days", 4000, "=4000 must be from 1"),
        ("instance_types", [], "=[] names no instance"),
        ("instance_types", "ml.p4d.24xlarge", "must be a list of texts"),
        ("instance_types", [1], "must be a list of texts"),
        ("instance_types", ["ml.p4d.24xlarg"], "did you mean ml.p4d.24xlarge"),
        ("instance_types", ["ml.g5.12xlarge", "ml.g5.12xlarge"], "names an instance twice"),
        ("serving_instance_types", ["g5"], "cannot be planned"),
        ("alarm_email", "me", '="me" must be one e-mail address'),
        ("endpoint_name", "heart_beat", "must be 1 to 63 letters, digits and single hyphens"),
        ("endpoint_name", "-x", "must be 1 to 63 letters"),
        ("endpoint_instances", 0, "must be from 1 to 100"),
        ("endpoint_update", "slowly", "must be one of all_at_once, canary, rolling"),
        ("endpoint_update", "canary", "set endpoint_instances to 2"),
        ("endpoint_max_instances", 1, "must be above endpoint_instances=1"),
        ("endpoint_schedule", {"on": "20:00", "off": "07:00"}, "must have off later than on"),
        ("endpoint_schedule", {"on": "07:00", "of": "20:00"}, "has the field 'of'"),
        ("keep_previous", -1, "must be from 0 to 100"),
        ("base_model", "a b", "must be a Hugging Face model id"),
        ("base_model_uri", "s3://bucket", "must be a folder in S3"),
        ("base_model_uri", "s3://bucket/scout", "must be a folder in S3"),
        ("hub_url", "http://hub.example.com", "must be the https address"),
        ("extra_model_buckets", ["s3://models/"], "give bucket names"),
        ("weight_format", "fp4", '="fp4" must be bf16 or nf4'),
        ("vllm_image", "vllm", "must be an image of Amazon ECR with its tag"),
        ("vllm_image", "docker.io/vllm/vllm:1", "must be an image of Amazon ECR"),
        ("default_dataset_key", "stanley.jsonl", "must begin with datasets/"),
        ("extra_dataset_buckets", ["s3://mine"], "give bucket names, without s3://"),
        ("gate_file", "nothing.toml", "cannot be read (No such file or directory); name a file"),
        ("gate_file", "cdk.json", "has a mistake: cdk.json is not TOML"),
        ("project", "", "must be a tag value"),
        ("tags", {"aws:x": "1"}, "sets 'aws:x', which is not yours to set"),
        ("tags", {"heartbeat:environment": "1"}, "sets 'heartbeat:environment'"),
        ("tags", {"x": 1}, "must be an object of texts"),
        ("log_retenton_days", 30, "is not a setting (did you mean log_retention_days?)"),
        ("environment", "prod", "is not a setting"),
        ("zzz", 1, "is not a setting; stacks/settings.py describes"),
    ],
)
def test_a_bad_setting_is_named_with_its_value_and_the_fix(name: str, value: Any, says: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings(**{name: value})
    assert str(caught.value).startswith(f"heartbeat.dev.{name}")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("endpoint_schedule", {"on": "07:00", "off": "20:00"}, "bills nothing at night either; leave one of them out"),
        ("endpoint_update", "canary", "which always updates copy by copy; leave it out"),
        ("endpoint_instances", 2, "where the least is none; leave it out"),
        ("endpoint_max_instances", 0, "must be from 1 to 1000; leave it out for 1"),
    ],
)
def test_what_an_endpoint_that_scales_to_zero_cannot_have(name: str, value: Any, says: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings(endpoint_scale_to_zero=True, **{name: value})
    assert str(caught.value).startswith(f"heartbeat.dev.{name}=")
    assert says in str(caught.value)


def test_an_endpoint_that_scales_to_zero_may_have_one_instance_at_the_most() -> None:
    assert settings(endpoint_scale_to_zero=True, endpoint_max_instances=1).endpoint_max_instances == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("soon", 'heartbeat.dev.max_runtime_seconds="soon" must be a whole number'),
        ("1e3", "heartbeat.dev.max_runtime_seconds=1000.0 must be a whole number"),
    ],
)
def test_a_bad_value_of_the_command_line_is_named(text: str, says: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_context({"heartbeat": {"dev": {}}, "heartbeat.dev.max_runtime_seconds": text}, "dev")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ("prd", "environment=prd is not in cdk.json (did you mean prod?); choose one of dev, prod"),
        ("x", "environment=x is not in cdk.json; choose one of dev, prod"),
        ("a-b", "environment=a-b must be 1 to 10 lower-case letters or digits"),
    ],
)
def test_an_unusable_environment_is_refused(environment: str, says: str) -> None:
    sections: dict[str, Any] = {"dev": {}, "prod": {}} | ({"a-b": {}} if environment == "a-b" else {})
    with pytest.raises(SettingError) as caught:
        Settings.from_context({"heartbeat": sections}, environment)
    assert says in str(caught.value)
