"""The state machine as it is deployed: valid by an independent validator, and valid requests in every task."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from jsonata.jsonata import Jsonata

from heartbeat import failures, requests
from heartbeat.container_settings import ContainerSettings
from heartbeat.execution import run_id

Definition = dict[str, Any]

_ROOT = Path(__file__).resolve().parents[2]
_ARN = "arn:aws:states:us-east-1:123456789012:execution:HeartBeat-dev:a-run"

EXPLAINED = ("HeartBeat-dev", "HeartBeat-dev-Weights", "HeartBeat-zero")
"""State machines whose failures go through `Explain failure`."""
MACHINES = (*EXPLAINED, "HeartBeat-dev-CleanUp", "HeartBeat-own-Schedule")

NAMED_IN_THE_DESIGN = (
    "Check dataset",
    "Plan",
    "Ensure image",
    "Ensure base weights",
    "Bring base weights",
    "Train",
    "Read training result",
    "Quality gate",
    "Register model",
    "Deploy endpoint",
    "Wait for endpoint",
    "Acceptance check",
    "Report",
    "Explain failure",
)

VARIABLES: dict[str, Any] = {
    "states": {
        "context": {"Execution": {"Name": "a-run", "Id": _ARN, "Input": {}, "StartTime": "2026-11-22T00:00:00Z"}}
    },
    "execution": {"name": "a-run", "arn": _ARN},
    "runId": "hb-dev-0123456789ab",
    "run": {
        "dataset": "s3://data/datasets/a.jsonl",
        "use_spot": False,
        "endpoint_name": "heartbeat-dev",
        "adapter_name": "stanley",
    },
    "dataset": {"sha256": "0" * 64},
    "base": {"uri": "s3://artifacts/base-models/m/bf16/"},
    "attempt": 1,
    "candidate": {
        "instance_type": "ml.p4d.24xlarge",
        "volume_size_gib": 500,
        "max_runtime_seconds": 28800,
        "hyperparameters": {"MAX_STEPS": "400"},
    },
    "plan": {
        "hyperparameters": {"MODEL": "m"},
        "serving": {
            "instance_type": "ml.p4d.24xlarge",
            "usd_per_hour": "25.25",
            "usd_per_month": "18432.50",
            "instance_pools": requests.instance_pools(["ml.p4d.24xlarge"]),
            "max_lora_rank": 16,
            "container": {"tensor_parallel_size": 8, "max_model_len": 8192},
        },
    },
    "container": requests.container(
        image="123456789012.dkr.ecr.us-east-1.amazonaws.com/vllm:1",
        base_model_uri="s3://artifacts/base-models/m/bf16/",
        adapter_uris={"stanley": "s3://artifacts/runs/a-run/adapter/"},
        environment=ContainerSettings(tensor_parallel_size=8, max_model_len=8192, adapters=("stanley",)).environment(),
    ),
    "training": {"adapter_uri": "s3://artifacts/runs/a-run/adapter/", "job_name": "hb-dev-0123456789ab-1-deadbeef"},
    "servingName": "hb-dev-0123456789ab-deadbeef",
    "adapters": ["stanley"],
    "polls": 3,
    "asked": "held",
    "updateBegan": "",
}
"""What a run's variables look like when a task is reached."""


def evaluate(value: Any, variables: dict[str, Any]) -> Any:
    """`value` with every JSONata expression in it evaluated, by a JSONata implementation of its own."""
    if isinstance(value, dict):
        return {name: evaluate(item, variables) for name, item in value.items()}
    if isinstance(value, list):
        return [evaluate(item, variables) for item in value]
    if not (isinstance(value, str) and value.startswith("{%")):
        return value
    expression = Jsonata(value.removeprefix("{%").removesuffix("%}").strip())
    expression.register_lambda("uuid", lambda: "deadbeef-0000-4000-8000-000000000000")
    result = expression.evaluate(None, variables)
    assert result is not None, f"{value} is undefined"
    return result


def service_call(state: dict[str, Any]) -> tuple[str, str] | None:
    """(boto service, operation) of a task; None for a state that calls no service of its own."""
    parts = (
        state.get("Resource", "")
        .split(":::")[-1]
        .removeprefix("aws-sdk:")
        .removesuffix(":2")
        .removesuffix(".sync")
        .split(":")
    )
    if state["Type"] != "Task" or parts[0] == "lambda":
        return None
    return {"states": "stepfunctions"}.get(parts[0], parts[0]), parts[1][0].upper() + parts[1][1:]


def _as_boto(value: Any, shape: Any) -> Any:
    """Step Functions writes every member with a capital; some services' own members begin with a small letter."""
    if shape is not None and shape.type_name == "structure" and isinstance(value, dict):
        own = {name[0].upper() + name[1:]: name for name in shape.members}
        return {own.get(key, key): _as_boto(item, shape.members.get(own.get(key))) for key, item in value.items()}
    if shape is not None and shape.type_name == "list" and isinstance(value, list):
        return [_as_boto(item, shape.member) for item in value]
    return value


def problems_of_requests(definition: Definition) -> Iterator[str]:
    session = botocore.session.get_session()
    for name, state in definition["States"].items():
        call = service_call(state)
        if call is None:
            continue
        service, operation = call
        shape = session.get_service_model(service).operation_model(operation).input_shape
        given = evaluate(state["Arguments"], VARIABLES)
        if call == ("stepfunctions", "StartExecution"):
            given["Input"] = json.dumps(given["Input"])  # Step Functions makes text of its own
        report = ParamValidator().validate(_as_boto(given, shape), shape)
        if report.has_errors():
            yield f"{name}: {report.generate_report()}"


@pytest.fixture(scope="module")
def validate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Definition], str]:
    """What asl-validator says against a definition; empty when it is valid."""
    node, script = os.environ["JSII_NODE"], _ROOT / "node_modules/asl-validator/dist/bin/asl-validator.js"
    assert script.exists(), "npm packages are missing; run `make test`, which installs them"

    def run(definition: Definition) -> str:
        path = tmp_path_factory.mktemp("asl") / "definition.json"
        path.write_text(json.dumps(definition))
        done = subprocess.run([node, script, "--json-path", path], capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    return run


def test_valid_by_an_independent_validator(any_definition: Definition, validate: Callable[[Definition], str]) -> None:
    assert validate(any_definition) == ""


def _missing_next(definition: Definition) -> None:
    definition["States"]["Plan"]["Next"] = "Nowhere"


def _unreachable(definition: Definition) -> None:
    definition["States"]["Island"] = {"Type": "Succeed"}


def _bad_expression(definition: Definition) -> None:
    definition["States"]["Wait for endpoint"]["Seconds"] = "{% $min([30 %}"


def _no_end(definition: Definition) -> None:
    del definition["States"]["Report"]["Next"]


@pytest.mark.parametrize("break_it", [_missing_next, _unreachable, _bad_expression, _no_end])
def test_the_validator_notices(
    break_it: Callable[[Definition], None], definition: Definition, validate: Callable[[Definition], str]
) -> None:
    broken = copy.deepcopy(definition)
    break_it(broken)
    assert validate(broken)


def test_every_request_is_one_the_service_takes(any_definition: Definition) -> None:
    assert list(problems_of_requests(any_definition)) == []


@pytest.mark.parametrize(
    "name", ["Train", "Create model", "Update endpoint", "Build image", "Register model", "Bring base weights"]
)
def test_a_wrong_argument_name_is_noticed(name: str, definition: Definition) -> None:
    broken = copy.deepcopy(definition)
    arguments = broken["States"][name]["Arguments"]
    key = next(iter(arguments))
    arguments[key + "s"] = arguments.pop(key)
    assert [problem for problem in problems_of_requests(broken) if problem.startswith(name)]


def test_the_stop_is_eight_hours(definition: Definition) -> None:
    check = definition["States"]["Check dataset"]["Arguments"]["Payload"]
    assert check["defaults"]["max_runtime_seconds"] == 28800
    arguments = evaluate(definition["States"]["Train"]["Arguments"], VARIABLES)
    assert arguments["StoppingCondition"] == {"MaxRuntimeInSeconds": 28800}
    spot = {**VARIABLES, "run": {**VARIABLES["run"], "use_spot": True}}
    arguments = evaluate(definition["States"]["Train"]["Arguments"], spot)
    assert arguments["StoppingCondition"] == {"MaxRuntimeInSeconds": 28800, "MaxWaitTimeInSeconds": 32400}


def test_a_held_out_file_is_a_channel_of_its_own(definition: Definition) -> None:
    def channels(**run: str | None) -> dict[str, str]:
        variables = {**VARIABLES, "run": {**VARIABLES["run"], **run}}
        given = evaluate(definition["States"]["Train"]["Arguments"], variables)["InputDataConfig"]
        return {channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"] for channel in given}

    usual = {"training": "s3://data/datasets/a.jsonl", "model": "s3://artifacts/base-models/m/bf16/"}
    assert channels() == channels(held_out_dataset=None) == usual
    assert channels(held_out_dataset="s3://data/datasets/b.jsonl") == {**usual, "heldout": "s3://data/datasets/b.jsonl"}


def test_the_instances_are_the_cards(definition: Definition) -> None:
    defaults = definition["States"]["Check dataset"]["Arguments"]["Payload"]["defaults"]
    assert defaults["instance_types"] == ["ml.p4d.24xlarge", "ml.p3.8xlarge", "ml.g5.12xlarge"]


def test_an_update_is_undone_by_the_stacks_alarms(definition: Definition, templates: Mapping[str, Any]) -> None:
    alarms = [
        item["Properties"]
        for item in templates["dev-Pipeline"]["Resources"].values()
        if item["Type"] == "AWS::CloudWatch::Alarm"
    ]
    assert {each["MetricName"] for each in alarms} == {
        "Invocation5XXErrors",
        "InvocationModelErrors",
        "ModelLatency",
    }
    assert {each["TreatMissingData"] for each in alarms} == {"notBreaching"}
    expression = definition["States"]["Update endpoint"]["Arguments"]["DeploymentConfig"]["AutoRollbackConfiguration"]
    named = evaluate(expression, VARIABLES)["Alarms"]
    assert len(named) == len(alarms)
    other = {**VARIABLES, "run": {**VARIABLES["run"], "endpoint_name": "heartbeat-dev-canary"}}
    assert evaluate(expression, other) == {}  # there are no alarms on it


@pytest.mark.parametrize(
    ("claimed", "waits", "turns", "expected"),
    [
        (True, False, 0, "Gather adapters"),
        (False, True, 0, "Wait for turn"),
        (False, True, 480, "Endpoint is taken"),
        (False, False, 0, "Endpoint is taken"),
    ],
)
def test_whose_turn_it_is(definition: Definition, claimed: bool, waits: bool, turns: int, expected: str) -> None:
    variables = {"claim": {"claimed": claimed}, "run": {"wait_for_endpoint": waits}, "turns": turns}
    assert choice(definition, "Our turn?", variables) == expected


@pytest.mark.parametrize(
    ("status", "config", "polls", "expected"),
    [
        ("InService", "new", 3, "Acceptance check"),
        ("InService", "old", 3, "Endpoint was rolled back"),
        ("Updating", "old", 3, "Wait for endpoint"),
        ("RollingBack", "old", 3, "Wait for endpoint"),
        ("UpdateRollbackFailed", "old", 3, "Endpoint did not come"),
        ("Failed", "new", 3, "Endpoint did not come"),
        ("Updating", "old", 1000, "Endpoint did not come"),
    ],
)
def test_a_rollback_is_told_from_a_success(
    definition: Definition, status: str, config: str, polls: int, expected: str
) -> None:
    variables = {"endpointStatus": status, "endpointConfig": config, "servingName": "new", "polls": polls}
    assert choice(definition, "In service?", variables) == expected


@pytest.mark.parametrize(
    ("done", "polls", "expected"),
    [
        (True, 3, "Acceptance check"),
        (True, 1000, "Acceptance check"),
        (False, 3, "Wait for endpoint"),
        (False, 1000, "Endpoint did not come"),
    ],
)
def test_a_component_is_looked_at_until_it_is_done(
    templates: Mapping[str, Any], done: bool, polls: int, expected: str
) -> None:
    hosting = _definition(_machine(templates, "HeartBeat-zero"))
    assert choice(hosting, "In service?", {"hosted": {"done": done}, "polls": polls}) == expected
    assert hosting["States"]["Wait for endpoint"]["Next"] == "Host model"


def test_a_component_is_asked_for_once_and_under_the_runs_names(templates: Mapping[str, Any]) -> None:
    states = _definition(_machine(templates, "HeartBeat-zero"))["States"]
    assert states["Create model"]["Next"] == "Deploy endpoint"
    assert states["Deploy endpoint"]["Assign"]["asked"] == "{% '' %}"
    payload = evaluate(states["Host model"]["Arguments"], VARIABLES)["Payload"]
    assert (payload["asked"], payload["model"]) == ("held", VARIABLES["servingName"])
    assert payload["instance_type"] == "ml.p4d.24xlarge"
    began = {"states": {"context": {"State": {"EnteredTime": "now"}}}, "updateBegan": ""}
    expression = states["Host model"]["Assign"]["updateBegan"]
    assert evaluate(expression, began) == "now"
    assert evaluate(expression, {**began, "updateBegan": "before"}) == "before"
    asked = evaluate(states["Acceptance check"]["Arguments"]["Payload"], VARIABLES)
    assert asked["component"] == asked["endpoint_name"]
    gone = {"Create endpoint config", "Create endpoint", "Update endpoint", "Read endpoint"}
    assert not gone & states.keys()


def choice(definition: Definition, name: str, variables: dict[str, Any]) -> str:
    """Where a Choice goes on."""
    state = definition["States"][name]
    for rule in state["Choices"]:
        if evaluate(rule["Condition"], variables):
            return str(rule["Next"])
    return str(state["Default"])


@pytest.mark.parametrize("count", [0, 1, 5, 900, 5000])
def test_pauses_are_half_a_minute_at_the_most(definition: Definition, count: int) -> None:
    for name in ("Wait for endpoint", "Wait for turn"):
        assert 1 <= evaluate(definition["States"][name]["Seconds"], {"polls": count, "turns": count}) <= 30


def test_job_names_are_unique_and_short(definition: Definition) -> None:
    expression = definition["States"]["Train"]["Arguments"]["TrainingJobName"]
    assert "$uuid()" in expression
    longest = evaluate(expression, {**VARIABLES, "runId": run_id("abcdefghij", _ARN), "attempt": 99})
    assert len(longest) < 63


def test_the_run_id_is_the_handlers(definition: Definition) -> None:
    expression = definition["States"]["Start"]["Assign"]["runId"]
    inner = expression.replace("$hash($states.context.Execution.Id, 'SHA-256')", "$hashed")
    hashed = hashlib.sha256(_ARN.encode()).hexdigest()
    assert evaluate(inner, {**VARIABLES, "hashed": hashed}) == run_id("dev", _ARN)


@pytest.mark.parametrize("name", NAMED_IN_THE_DESIGN)
def test_the_designs_states_are_there(name: str, definition: Definition) -> None:
    assert name in definition["States"]


def test_states_explain_themselves(any_definition: Definition) -> None:
    assert [name for name, state in any_definition["States"].items() if not state.get("Comment")] == []
    assert any_definition["QueryLanguage"] == "JSONata"


def test_tasks_time_out_retry_and_catch(explained_definition: Definition) -> None:
    for name, state in explained_definition["States"].items():
        if state["Type"] != "Task":
            continue
        assert state["TimeoutSeconds"], name
        assert all(retry["JitterStrategy"] == "FULL" and retry["MaxAttempts"] >= 1 for retry in state["Retry"]), name
        assert "States.ALL" in state["Catch"][-1]["ErrorEquals"], name


def test_failures_reach_the_explanation_with_their_step(explained_definition: Definition) -> None:
    named = set()
    for name, state in explained_definition["States"].items():
        for catch in state.get("Catch", []):
            if catch["Next"] == "Explain failure":
                assert catch["Assign"]["failed"] == {"step": name, "error": "{% $states.errorOutput %}"}
                named.add(name)
    assert named >= {"Ensure image", "Build image"}
    of_a_run = {
        "Check dataset",
        "Plan",
        "Ensure base weights",
        "Bring base weights",
        "Quality gate",
        "Acceptance check",
    }
    assert named >= of_a_run or named >= {"Plan weights", "Read result"}


def test_every_step_that_fails_has_a_name(any_definition: Definition) -> None:
    steps = {name for name, state in any_definition["States"].items() if state["Type"] == "Task"}
    for step in steps:
        assert failures.explain(step=step, error="States.Timeout", cause=None).what == (
            f"{step} did not end within its time limit."
        )


def test_a_clean_up_waits_as_long_as_an_update_may_take(definition: Definition, templates: Mapping[str, Any]) -> None:
    clean_up = _definition(_machine(templates, "HeartBeat-dev-CleanUp"))["States"]["Clean up"]
    assert clean_up["Arguments"]["Payload"] == "{% $states.input %}"
    for state in (clean_up, definition["States"]["Explain failure"]):
        (retry,) = (item for item in state["Retry"] if item["ErrorEquals"] == ["StillChanging"])
        assert retry["MaxAttempts"] * 780 > requests.ROLLING_SECONDS >= requests.BLUE_GREEN_SECONDS
        assert state["TimeoutSeconds"] > 780


@pytest.mark.parametrize("name", MACHINES)
def test_no_secret_and_no_task_token_in_the_log(name: str, templates: Mapping[str, Any]) -> None:
    machine = _machine(templates, name)
    assert machine["LoggingConfiguration"]["IncludeExecutionData"] is False
    assert machine["LoggingConfiguration"]["Level"] == "ALL"
    assert machine["TracingConfiguration"] == {"Enabled": True}


def test_weights_are_brought_by_a_job_that_alone_has_a_network(templates: Mapping[str, Any]) -> None:
    train = _definition(_machine(templates, MACHINES[0]))["States"]["Train"]["Arguments"]
    bring = evaluate(_definition(_machine(templates, MACHINES[1]))["States"]["Bring weights"]["Arguments"], VARIABLES)
    assert (train["EnableNetworkIsolation"], bring["EnableNetworkIsolation"]) == (True, False)
    assert bring["StoppingCondition"] == {"MaxRuntimeInSeconds": 28800}
    assert "Environment" not in bring


def _machine(templates: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Properties of a state machine in the template."""
    resources = (item for template in templates.values() for item in template["Resources"].values())
    machines = (item["Properties"] for item in resources if item["Type"] == "AWS::StepFunctions::StateMachine")
    (found,) = (machine for machine in machines if machine["StateMachineName"] == name)
    return dict(found)


@pytest.fixture(scope="module", params=MACHINES)
def any_definition(templates: Mapping[str, Any], request: pytest.FixtureRequest) -> Definition:
    return _definition(_machine(templates, request.param))


@pytest.fixture(scope="module", params=EXPLAINED)
def explained_definition(templates: Mapping[str, Any], request: pytest.FixtureRequest) -> Definition:
    return _definition(_machine(templates, request.param))


@pytest.fixture(scope="module")
def definition(templates: Mapping[str, Any]) -> Definition:
    return _definition(_machine(templates, MACHINES[0]))


def _definition(machine: dict[str, Any]) -> Definition:
    """A state machine's definition with a value in place of each reference."""
    text = "".join(
        part if isinstance(part, str) else _stand_in(part) for part in machine["DefinitionString"]["Fn::Join"][1]
    )
    found: Definition = json.loads(text)
    return found


def _stand_in(reference: dict[str, Any]) -> str:
    if reference == {"Ref": "AWS::Partition"}:
        return "aws"
    if "Fn::GetAtt" in reference:
        return "arn:aws:iam::123456789012:role/of-the-app"
    return "stand-in"


def test_the_picture_in_the_readme_is_of_this_definition(definition: Definition) -> None:
    """`make picture` draws it."""
    drawn = re.findall(r'class="node">\s*<title>([^<]*)</title>', (_ROOT / "docs/state-machine.svg").read_text())
    assert set(drawn) == {*definition["States"], "any task"}
