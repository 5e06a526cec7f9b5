"""The handlers of an endpoint that scales to zero, against components that start, fail, sleep and are taken away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

import accept_endpoint
import claim_endpoint
import clean_up
import components
import end_all
import endpoint_records
import endpoints
import host_model
import scaling
import served
from heartbeat import requests
from heartbeat.endpoint_record import EndpointRecord
from heartbeat.execution import run_id
from heartbeat.failures import EndpointFailed, PlanRefused, RolledBack
from tests.local_aws.conftest import BUCKET, JOB_ACTIONS, Account, allow, wait_for
from tests.local_aws.test_endpoints import PROGRAM, rollback_alarm

INSTANCE = "ml.g5.12xlarge"
TAGS = requests.tags(environment="test", run="a-run")


@dataclass
class Zero:
    """One endpoint's name, for which the handlers' environment is set, and models to host there."""

    account: Account
    image: str
    role: str
    name: str
    alarm: str

    @property
    def run(self) -> str:
        """ARN of the execution that deploys."""
        return f"arn:aws:states:us-east-1:123456789012:execution:HeartBeat-test:{self.name}"

    @property
    def stem(self) -> str:
        return run_id("test", self.run)

    def model(self, stem: str = "hb-test-before", **environment: str) -> str:
        """A new model; its container crashes with MODE=crash."""
        name = self.account.name(stem)
        self.account.put(f"{name}/config.json", b"{}")
        source = {
            "S3DataSource": {"S3Uri": f"s3://{BUCKET}/{name}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
        }
        self.account.client("sagemaker").create_model(
            ModelName=name,
            ExecutionRoleArn=self.role,
            PrimaryContainer={"Image": self.image, "Environment": environment, "ModelDataSource": source},
        )
        return name

    def event(self, model: str, asked: str = "") -> dict[str, Any]:
        return {"endpoint_name": self.name, "model": model, "instance_type": INSTANCE, "tags": TAGS, "asked": asked}

    def host(self, model: str, asked: str = "") -> list[str]:
        """Calls the handler as the state machine does; what it said."""
        said: list[str] = []

        def call() -> bool:
            nonlocal asked
            answer = host_model.handler(self.event(model, asked), None)
            asked = answer["asked"]
            said.extend([answer["said"]] if answer["said"] not in said[-1:] else [])
            return bool(answer["done"])

        wait_for(call)
        return said

    def sleep(self) -> None:
        self.account.client("sagemaker").update_inference_component_runtime_config(
            **requests.component_copies(endpoint=self.name, copies=0)
        )
        self.settled()

    def settled(self) -> dict[str, Any]:
        found = components.settled(self.name, time.monotonic() + 20)
        assert found is not None
        return found

    def serving(self) -> str:
        found = self.settled()
        assert components.is_awake(found), found
        return components.model_of(found)

    def is_scaled(self) -> bool:
        return self.name in scaling.scaled_components()

    def is_gone(self) -> bool:
        return endpoints.describe(self.name) is None and components.describe(self.name) is None


@pytest.fixture(scope="module")
def image(account: Account) -> str:
    return account.image(PROGRAM)


@pytest.fixture(scope="module")
def role(account: Account) -> str:
    return account.role("sagemaker.amazonaws.com", allow(*JOB_ACTIONS))


@pytest.fixture
def zero(
    account: Account, image: str, role: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Zero]:
    request.getfixturevalue("handlers_signed_in")
    monkeypatch.setattr(endpoints, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(clean_up, "PATIENCE_SECONDS", 20)
    name = account.name("heartbeat-zero")
    zero = Zero(account, image, role, name, rollback_alarm(account, name))
    for name, value in {
        "ENVIRONMENT": "test",
        "SCALE_TO_ZERO": "true",
        "ENDPOINT_NAME": zero.name,
        "ENDPOINT_MAX_INSTANCES": "2",
        "ENDPOINT_CONCURRENCY": "4",
        "ENDPOINT_ROLE_ARN": role,
        "SERVING_INTERNET": "false",
        "ROLLBACK_ALARMS": zero.alarm,
        "KEEP_PREVIOUS": "0",
        "STATE_MACHINE_ARNS": "",
        "MODEL_PACKAGE_GROUP": "",
    }.items():
        monkeypatch.setenv(name, value)
    yield zero
    account.server.set_faults()
    components.end(zero.name, time.monotonic() + 20)
    scaling.remove(zero.name)
    if endpoints.describe(zero.name):
        account.client("sagemaker").delete_endpoint(EndpointName=zero.name)


@pytest.fixture
def old(zero: Zero) -> str:
    """The model that the endpoint serves, scaled as after a deployment."""
    name = zero.model()
    zero.host(name)
    scaling.apply(zero.name)
    return name


# --- Host model -----------------------------------------------------------------------------------------------


def test_a_first_deployment_makes_configuration_endpoint_and_component(zero: Zero) -> None:
    model = zero.model()
    said = zero.host(model)
    assert said[0] == "scaling is held"
    assert said[1] == f"endpoint {zero.name} is made"
    assert said[-1] == f"inference component {zero.name} serves"
    assert zero.serving() == model
    found = zero.settled()
    assert found["Specification"]["ComputeResourceRequirements"]["NumberOfAcceleratorDevicesRequired"] == 4
    config = (endpoints.describe(zero.name) or {})["EndpointConfigName"]
    assert config == model
    variant = components.variant(config)
    assert (variant["InstanceType"], variant["ManagedInstanceScaling"]["MaxInstanceCount"]) == (INSTANCE, 3)
    assert zero.host(model, host_model.ASKED) == said[-1:], "called again, it is done"


def test_a_call_whose_answer_was_lost_is_made_again(zero: Zero) -> None:
    model = zero.model()
    body = requests.create_component_endpoint_config(
        name=model, role_arn=zero.role, instance_type=INSTANCE, most_copies=2, config_tags=TAGS
    )
    zero.account.client("sagemaker").create_endpoint_config(**body)
    zero.host(model)
    assert zero.serving() == model


def test_an_endpoint_that_is_awake_is_updated_with_the_alarms_of_its_stack(
    zero: Zero, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, new = zero.settled(), zero.model()
    said = zero.host(new)
    assert f"inference component {zero.name} is updated from {old} to {new}" in said
    assert not zero.is_scaled(), "held until the model is accepted"
    after = zero.settled()
    assert (zero.serving(), after["CreationTime"]) == (new, before["CreationTime"])
    rollback = after["LastDeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert [item["AlarmName"] for item in rollback] == [zero.alarm]
    monkeypatch.setenv("ENDPOINT_NAME", "another")
    zero.host(old)
    assert "AutoRollbackConfiguration" not in zero.settled()["LastDeploymentConfig"]


@pytest.mark.usefixtures("old")
def test_one_that_is_asleep_is_made_anew(zero: Zero) -> None:
    zero.sleep()
    before, new = zero.settled(), zero.model()
    said = zero.host(new)
    assert f"inference component {zero.name} is deleted, to be made anew" in said
    assert zero.serving() == new
    assert zero.settled()["CreationTime"] > before["CreationTime"]


def test_a_model_that_does_not_start_beside_the_old_one_is_a_roll_back(zero: Zero, old: str) -> None:
    new = zero.model(MODE="crash")
    with pytest.raises(RolledBack, match=f"went back from {new} to {old}, which serves again: .*ping health check"):
        zero.host(new)
    assert zero.serving() == old


def test_a_model_that_does_not_start_alone_is_a_failure(zero: Zero) -> None:
    with pytest.raises(EndpointFailed, match=f"inference component {zero.name} failed: .*ping health check"):
        zero.host(zero.model(MODE="crash"))


def test_a_component_that_had_failed_before_is_made_anew(zero: Zero) -> None:
    with pytest.raises(EndpointFailed):
        zero.host(zero.model(MODE="crash"))
    new = zero.model()
    assert f"inference component {zero.name} is deleted, to be made anew" in zero.host(new)
    assert zero.serving() == new


def test_the_runs_model_is_woken_where_somebody_sent_it_to_sleep(zero: Zero, old: str) -> None:
    zero.sleep()
    assert f"inference component {zero.name} has no copy yet" in zero.host(old)
    assert zero.serving() == old


@pytest.mark.usefixtures("old")
def test_a_broken_endpoint_is_refused_with_the_way_out(zero: Zero, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {**(endpoints.describe(zero.name) or {}), "EndpointStatus": "Failed", "FailureReason": "no capacity"}
    says = r"is Failed: no capacity\. Delete it with: aws .*component.* and when that is gone aws"
    with monkeypatch.context() as broken:
        broken.setattr(endpoints, "describe", lambda _: found)
        with pytest.raises(EndpointFailed, match=says):
            host_model.handler(zero.event("new", host_model.HELD), None)


@pytest.mark.usefixtures("old")
def test_a_component_that_outlived_its_endpoint_gives_its_name_back(
    zero: Zero, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as deleted:
        deleted.setattr(endpoints, "describe", lambda _: None)
        answer = host_model.handler(zero.event("new", host_model.HELD), None)
    assert answer == {
        "done": False,
        "asked": host_model.HELD,
        "said": f"inference component {zero.name} is deleted, to be made anew",
    }
    wait_for(lambda: components.describe(zero.name) is None)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize(
    ("module", "status", "says"),
    [
        (components, "InferenceComponentStatus", "inference component {} is Updating"),
        (endpoints, "EndpointStatus", "endpoint {} is Updating"),
    ],
)
def test_what_is_being_changed_is_waited_for(
    zero: Zero, monkeypatch: pytest.MonkeyPatch, module: Any, status: str, says: str
) -> None:
    found = {**module.describe(zero.name), status: "Updating"}
    with monkeypatch.context() as changing:
        changing.setattr(module, "describe", lambda _: found)
        answer = host_model.handler(zero.event("new", host_model.HELD), None)
    assert answer == {"done": False, "asked": host_model.HELD, "said": says.format(zero.name)}


# --- Claiming, gathering and accepting ------------------------------------------------------------------------


def claim(zero: Zero, config: str) -> dict[str, Any]:
    event = {"endpoint_name": zero.name, "config": config, "execution": {"arn": zero.run}}
    found: dict[str, Any] = claim_endpoint.handler(event, None)
    return found


def test_a_claim_notes_the_model_that_serves(zero: Zero, old: str) -> None:
    assert claim(zero, "new")["claimed"]
    assert endpoint_records.read(zero.name).previous_config == old


@pytest.mark.usefixtures("old")
def test_a_component_that_is_being_scaled_is_busy(zero: Zero, monkeypatch: pytest.MonkeyPatch) -> None:
    component = {**zero.settled(), "InferenceComponentStatus": "Updating"}
    with monkeypatch.context() as scaled:
        scaled.setattr(components, "describe", lambda _: component)
        found = claim(zero, "new")
    assert (found["claimed"], found["busy"]) == (False, f"inference component {zero.name} is Updating")


def test_adapters_are_read_from_the_component_and_survive_the_endpoint(zero: Zero, old: str) -> None:
    def base() -> str:
        found = served.served(zero.name)
        return found.base_uri if found else ""

    assert base() == f"s3://{BUCKET}/{old}/"
    endpoint_records.change(zero.name, lambda record: replace(record, accepted=(old,)))
    components.end(zero.name, time.monotonic() + 20)
    zero.account.client("sagemaker").delete_endpoint(EndpointName=zero.name)
    assert base() == f"s3://{BUCKET}/{old}/"
    zero.account.client("sagemaker").delete_model(ModelName=old)
    assert served.served(zero.name) is None


def test_acceptance_deletes_old_models_but_not_the_configuration_in_use(zero: Zero, old: str) -> None:
    new = zero.model("hb-test-new")
    claim(zero, new)
    zero.host(new)
    done = accept_endpoint.handler(
        {"endpoint_name": zero.name, "config": new, "execution": {"arn": zero.run}, "tags": TAGS}, None
    )
    assert done["kept"] == [new]
    assert done["deleted"] == [f"model {old} deleted"], "the configuration of its name is the endpoint's"
    assert done["scaling"] == "0 to 2 instances, 4 requests at once on each"
    assert (endpoints.describe(zero.name) or {})["EndpointConfigName"] == old


def variant(**changes: Any) -> dict[str, Any]:
    hosting = {"InstanceType": INSTANCE, "ManagedInstanceScaling": {"MaxInstanceCount": 3}}
    return {**hosting, **changes}


@pytest.mark.parametrize(
    ("wanted", "found", "says"),
    [
        (
            "true",
            {"ModelName": "m", "InstanceType": INSTANCE},
            "endpoint heartbeat-test holds a model of its own, and endpoint_scale_to_zero=true needs inference"
            " components: set endpoint_scale_to_zero to false, or delete the endpoint, which the next run makes again"
            " with its adapters: aws sagemaker delete-endpoint --endpoint-name heartbeat-test",
        ),
        (
            "",
            variant(),
            "endpoint heartbeat-test holds inference components, and endpoint_scale_to_zero=false needs a model of its"
            " own: set endpoint_scale_to_zero to true, or delete the endpoint, which the next run makes again with its"
            " own adapter alone: aws sagemaker delete-inference-component --inference-component-name heartbeat-test,"
            " and when that is gone aws sagemaker delete-endpoint --endpoint-name heartbeat-test",
        ),
        (
            "true",
            variant(ManagedInstanceScaling={"MaxInstanceCount": 2}),
            "may have 2 instances, and endpoint_max_instances=2 needs 3, as an update starts one more: set"
            " endpoint_max_instances to 1, or delete",
        ),
        (
            "true",
            variant(InstanceType="ml.g5.xlarge"),
            f'is of ml.g5.xlarge, and the plan chose {INSTANCE}: set serving_instance_types to ["ml.g5.xlarge"], or',
        ),
    ],
)
def test_an_endpoint_that_cannot_host_is_refused(
    monkeypatch: pytest.MonkeyPatch, wanted: str, found: dict[str, Any], says: str
) -> None:
    monkeypatch.setenv("SCALE_TO_ZERO", wanted)
    monkeypatch.setenv("ENDPOINT_MAX_INSTANCES", "2")
    with pytest.raises(PlanRefused) as refused:
        components.refuse_other("heartbeat-test", found, instance_type=INSTANCE)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_that_can_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALE_TO_ZERO", "true")
    monkeypatch.setenv("ENDPOINT_MAX_INSTANCES", "2")
    components.refuse_other("heartbeat-test", variant(), instance_type=INSTANCE)
    components.refuse_other("heartbeat-test", variant())  # before the plan has chosen
    monkeypatch.delenv("SCALE_TO_ZERO")
    components.refuse_other("heartbeat-test", {"ModelName": "m", "InstanceType": "ml.g5.xlarge"})


@pytest.mark.usefixtures("old")
def test_another_instance_is_refused_as_soon_as_it_is_planned(zero: Zero, monkeypatch: pytest.MonkeyPatch) -> None:
    components.require_instance(zero.name, INSTANCE)
    components.require_instance("heartbeat-test-new", "ml.g5.xlarge")
    with pytest.raises(PlanRefused, match=rf"is of {INSTANCE}, and the plan chose ml\.g5\.xlarge"):
        components.require_instance(zero.name, "ml.g5.xlarge")
    monkeypatch.delenv("SCALE_TO_ZERO")
    components.require_instance(zero.name, "ml.g5.xlarge")


# --- Scaling --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("old")
def test_scaling_goes_to_zero_and_has_what_wakes_it(zero: Zero) -> None:
    client = zero.account.client("application-autoscaling")
    resource = f"inference-component/{zero.name}"
    (target,) = client.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=[resource])[
        "ScalableTargets"
    ]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (0, 2)
    policies = client.describe_scaling_policies(ServiceNamespace="sagemaker", ResourceId=resource)["ScalingPolicies"]
    by_type = {policy["PolicyType"]: policy for policy in policies}
    assert set(by_type) == {"TargetTrackingScaling", "StepScaling"}
    (wake,) = wake_alarms(zero)
    assert wake["AlarmActions"] == [by_type["StepScaling"]["PolicyARN"]]

    for _ in range(2):  # where there is none any more, nothing happens
        scaling.remove(zero.name)
    assert not zero.is_scaled()
    assert wake_alarms(zero) == []


def wake_alarms(zero: Zero) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = zero.account.client("cloudwatch").describe_alarms(
        AlarmNamePrefix=f"HeartBeat-test-wake-{zero.name}"
    )["MetricAlarms"]
    return found


# --- Going back -----------------------------------------------------------------------------------------------


def clean(zero: Zero) -> clean_up.Done:
    return clean_up.clean(zero.run, endpoint_name=zero.name)


def test_a_run_that_is_not_accepted_goes_back_while_awake(zero: Zero, old: str) -> None:
    new = zero.model(zero.stem)
    claim(zero, new)
    zero.host(new)
    done = clean(zero)
    assert done.rolled_back
    assert f"inference component {zero.name} goes back to {old}" in done.actions
    assert f"model {new} deleted" in done.actions
    assert zero.serving() == old
    assert zero.is_scaled()
    assert endpoint_records.read(zero.name) == EndpointRecord()


def test_it_goes_back_to_a_model_that_was_asleep(zero: Zero, old: str) -> None:
    zero.sleep()
    new = zero.model(zero.stem, MODE="crash")
    claim(zero, new)
    with pytest.raises(EndpointFailed):
        zero.host(new)
    assert clean(zero).rolled_back
    assert zero.serving() == old, "until nobody calls for a while"
    assert zero.is_scaled()


def test_it_goes_back_where_the_component_was_already_deleted(zero: Zero, old: str) -> None:
    claim(zero, zero.model(zero.stem))
    components.end(zero.name, time.monotonic() + 20)
    assert clean(zero).rolled_back
    assert zero.serving() == old


def test_a_run_that_failed_before_it_asked_leaves_what_serves_and_scales_it(zero: Zero, old: str) -> None:
    new = zero.model(zero.stem)
    claim(zero, new)
    host_model.handler(zero.event(new), None)
    assert not zero.is_scaled()
    done = clean(zero)
    assert not done.rolled_back
    assert zero.serving() == old
    assert zero.is_scaled()


def test_a_clean_up_that_was_cut_off_is_told_as_a_roll_back_when_it_ends(
    zero: Zero, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = zero.model(zero.stem)
    claim(zero, new)
    zero.host(new)
    with monkeypatch.context() as cut_off:
        cut_off.setattr(clean_up, "PATIENCE_SECONDS", -1)
        with pytest.raises(endpoints.StillChanging, match="is still Updating"):
            clean(zero)
    assert endpoint_records.read(zero.name).going_back
    assert clean(zero).rolled_back
    assert zero.serving() == old


def test_what_cannot_come_back_is_said_and_not_tried_for_ever(zero: Zero, old: str) -> None:
    new = zero.model(zero.stem)
    claim(zero, new)
    zero.host(new)
    zero.account.server.set_faults(endpoint={"crash_on_start": True})
    done = clean(zero)
    assert not done.rolled_back
    assert any(f"did not go back to {old}, it is InService: " in line for line in done.actions), done.actions
    assert f"model {new} deleted" not in done.actions, "it serves"


@pytest.mark.usefixtures("old")
def test_somebody_elses_model_is_left(zero: Zero) -> None:
    claim(zero, zero.model(zero.stem))
    other = zero.model("by-hand")
    zero.host(other)
    done = clean(zero)
    assert any("not the run's: left as it is" in line for line in done.actions)
    assert zero.serving() == other


@pytest.mark.parametrize("mode", ["", "crash"])
def test_a_first_deployment_that_is_not_accepted_leaves_nothing(zero: Zero, mode: str) -> None:
    new = zero.model(zero.stem, MODE=mode)
    claim(zero, new)
    if mode:
        with pytest.raises(EndpointFailed):
            zero.host(new)
    else:
        zero.host(new)
    done = clean(zero)
    assert not done.rolled_back
    assert done.actions == [
        f"inference component {zero.name} deleted",
        f"endpoint {zero.name} deleted",
        f"endpoint configuration {new} deleted",
        f"model {new} deleted",
    ]
    assert zero.is_gone()


# --- The end --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("old")
def test_the_stacks_end_ends_components_before_their_endpoints(zero: Zero) -> None:
    end_all._end_components(time.monotonic() + 20)
    end_all._delete_endpoint(zero.name, time.monotonic() + 20)
    assert zero.is_gone()
    assert not zero.is_scaled()
    assert wake_alarms(zero) == []


@pytest.mark.usefixtures("old")
def test_it_waits_for_what_is_being_changed_and_no_longer(zero: Zero) -> None:
    zero.account.client("sagemaker").update_inference_component(
        **requests.update_component(
            endpoint=zero.name, specification=requests.component_specification(model=zero.model(), accelerators=4)
        )
    )
    with pytest.raises(endpoints.StillChanging):
        end_all._end_components(time.monotonic() - 1)
    end_all._end_components(time.monotonic() + 20)
    assert components.describe(zero.name) is None
