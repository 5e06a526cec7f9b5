"""The life of one endpoint: created, updated by a run that is not accepted, updated by one that is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from heartbeat import client, metrics, requests
from heartbeat.execution import run_id
from tests.pipeline.conftest import PATIENCE_SECONDS, QUICK, Cloud, Outcome, delete_endpoint


def ask(cloud: Cloud, endpoint: str, model: str) -> str:
    body = requests.chat(model=model, messages=[{"role": "user", "content": "Who are you?"}], max_tokens=32)
    answer = cloud.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint, ContentType="application/json", Body=json.dumps(body)
    )
    message: dict[str, Any] = json.loads(answer["Body"].read())["choices"][0]["message"]
    return json.dumps(message)


@pytest.fixture(scope="module")
def first(cloud: Cloud) -> Iterator[Outcome]:
    """A run that made the endpoint, of which nothing was left before."""
    name = cloud.outputs["EndpointName"]
    delete_endpoint(cloud, name)
    cloud.forget_deployments()
    outcome = cloud.run(hyperparameters=QUICK)
    assert outcome.status == "SUCCEEDED", outcome.cause
    yield outcome
    delete_endpoint(cloud, name)


def test_trains_passes_and_serves(cloud: Cloud, first: Outcome) -> None:
    outcome, endpoint = first, cloud.outputs["EndpointName"]
    assert outcome.output["endpoint_name"] == endpoint
    assert not outcome.output["stopped_early"]

    states = cloud.states(outcome.arn)
    order = [
        *("Check dataset", "Plan", "Ensure image", "Ensure base weights", "Train", "Read training result"),
        *("Quality gate", "Register model", "Create endpoint", "Acceptance check", "Report"),
    ]
    assert [name for name in states if name in order] == order

    (job,) = cloud.jobs(outcome.stem)
    assert job["StoppingCondition"]["MaxRuntimeInSeconds"] == 28800
    assert job["ResourceConfig"]["InstanceType"] == "ml.p4d.24xlarge"
    assert job["EnableNetworkIsolation"]
    final = {item["MetricName"] for item in job["FinalMetricDataList"]}
    assert {metrics.METRICS["loss"].name, metrics.METRICS["heldout_loss"].name} <= final

    # The adapter that was trained is the one that answers.
    assert ask(cloud, endpoint, requests.TUNED_NAME) != ask(cloud, endpoint, requests.BASE_NAME)

    record = json.loads(cloud.run_file(outcome, "run.json"))
    assert record["gate"]["passed"]
    assert record["acceptance"]["passed"]
    # Held-out rows were asked of the endpoint as well, one turn of each, and what was said is not kept.
    sample, speed = record["acceptance"]["sample"], record["acceptance"]["speed"]
    assert sample["turns"] == speed["calls"] == record["gate"]["scores"]["asked"]["rows"]
    assert [metric["metric"] for metric in sample["metrics"]] == ["persona"]
    assert all(set(one) == {"row", "turn", "problems"} for one in sample["failed"])
    assert 0 < speed["p50_seconds"] <= speed["p95_seconds"]
    assert speed["tokens_per_second"] > 0
    assert record["metrics"]["heldout"]["tuned_loss"] < record["metrics"]["heldout"]["base_loss"]
    page = cloud.run_file(outcome, "report.html").decode()
    assert "is serving" in page
    assert "tokens/s, asked one by one" in page
    packages = cloud.client("sagemaker").list_model_packages(ModelPackageGroupName="heartbeat-dev")
    assert packages["ModelPackageSummaryList"]

    endpoint_arn = cloud.wait_for_endpoint(endpoint)["EndpointArn"]
    planned = record["plan"]["endpoint"]
    assert planned["usd_per_hour"] == record["plan"]["serving"]["usd_per_hour"]
    assert planned["usd_per_month"] == planned["usd_per_hour"] * 730
    assert planned["instances_while_updating"] == 2
    tags = cloud.client("sagemaker").list_tags(ResourceArn=endpoint_arn)["Tags"]
    for name in ("usd_per_hour", "usd_per_month"):
        assert {"Key": f"heartbeat:{name}", "Value": f"{planned[name]:.2f}"} in tags
    assert f"<dd>${planned['usd_per_hour']:,.2f}" in page
    assert f"<dd>${planned['usd_per_month']:,.0f} for 730 hours" in page


def record_of(cloud: Cloud) -> dict[str, Any]:
    """What the app remembers of its endpoint."""
    found: dict[str, Any] = json.loads(cloud.read(f"endpoints/{cloud.outputs['EndpointName']}.json"))
    return found


def serving(cloud: Cloud) -> str:
    """The configuration that the app's endpoint serves, once it is settled."""
    return str(cloud.wait_for_endpoint(cloud.outputs["EndpointName"])["EndpointConfigName"])


def wait_until_it_bakes(cloud: Cloud, arn: str) -> None:
    """Until the run's update has given its model the traffic, and SageMaker watches the alarms."""
    deadline, name = time.monotonic() + PATIENCE_SECONDS, cloud.outputs["EndpointName"]
    while True:
        found = cloud.client("sagemaker").describe_endpoint(EndpointName=name).get("PendingDeploymentSummary", {})
        if found.get("EndpointConfigName", "").startswith(run_id("dev", arn)) and "Baking" in str(found):
            return
        assert time.monotonic() < deadline, f"{arn} does not bake: {found}, {cloud.states(arn)[-1:]}"
        time.sleep(0.1)


@pytest.mark.usefixtures("first")
def test_an_alarm_during_an_update_brings_the_old_model_back(cloud: Cloud) -> None:
    before = serving(cloud)
    cloud.server.set_faults(baking_seconds=PATIENCE_SECONDS)
    arn = cloud.start(hyperparameters=QUICK)
    wait_until_it_bakes(cloud, arn)
    alarm = "HeartBeat-dev-rollback-5xx"
    cloud.client("cloudwatch").set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="a test")
    outcome = cloud.wait(arn)
    assert (outcome.status, outcome.error) == ("FAILED", "RolledBack"), outcome.cause
    assert f"Alarms that went off: {alarm}." in outcome.cause
    assert "Acceptance check" not in cloud.states(arn)
    assert cloud.left_behind(outcome.stem) == []
    assert serving(cloud) == before
    kept = record_of(cloud)
    assert (kept["accepted"], [name for name, value in kept.items() if value]) == ([before], ["accepted"])


@pytest.mark.usefixtures("first")
def test_stopping_a_run_during_its_update_goes_back_to_what_served(cloud: Cloud) -> None:
    """SageMaker cannot be stopped: the update ends first, and what it ends in was never accepted."""
    before = serving(cloud)
    cloud.server.set_faults(baking_seconds=PATIENCE_SECONDS)
    arn = cloud.start(hyperparameters=QUICK)
    wait_until_it_bakes(cloud, arn)
    cloud.client("stepfunctions").stop_execution(executionArn=arn)
    stem = cloud.wait(arn).stem
    time.sleep(3)  # the clean-up has looked, and waits
    assert len(cloud.left_behind(stem)) == 2  # the configuration that the endpoint is on its way to, and its model
    cloud.server.set_faults()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while record_of(cloud)["holder"]:
        assert time.monotonic() < deadline, record_of(cloud)
        time.sleep(0.2)
    assert serving(cloud) == before
    (unaccepted,) = record_of(cloud)["unaccepted"]
    assert unaccepted.startswith(stem)


@pytest.mark.usefixtures("first")
def test_a_second_run_is_refused_if_it_will_not_wait(cloud: Cloud) -> None:
    before = serving(cloud)
    refused = cloud.start(hyperparameters=QUICK, approve=True, wait_for_endpoint=False)
    token = json.loads(cloud.wait_for_file(refused, "approval.json"))["task_token"]
    cloud.server.set_faults(baking_seconds=PATIENCE_SECONDS)
    holder = cloud.start(hyperparameters=QUICK)
    wait_until_it_bakes(cloud, holder)
    cloud.client("stepfunctions").send_task_success(taskToken=token, output="{}")
    outcome = cloud.wait(refused)
    assert (outcome.status, outcome.error) == ("FAILED", "EndpointBusy"), outcome.cause
    assert holder.rsplit(":", 1)[-1] in outcome.cause
    assert "What to do: " in outcome.cause
    assert cloud.left_behind(outcome.stem) == []
    cloud.server.set_faults()
    accepted = cloud.wait(holder)
    assert accepted.status == "SUCCEEDED", accepted.cause
    assert serving(cloud).startswith(accepted.stem)
    assert record_of(cloud)["accepted"] == [serving(cloud), before]


def test_two_runs_at_once_take_turns_and_tidy_up(cloud: Cloud, first: Outcome) -> None:
    cloud.server.set_faults(baking_seconds=5)
    names = ("castor", "pollux")
    # Both as the first run was, which was accepted: this asks about turns, not about what another seed learns.
    runs = [cloud.start(hyperparameters=QUICK, adapter_name=name) for name in names]
    outcomes = [cloud.wait(arn) for arn in runs]
    assert [outcome.status for outcome in outcomes] == ["SUCCEEDED"] * 2, "\n".join(each.cause for each in outcomes)
    times = sorted((cloud.entered(arn, "Update endpoint"), cloud.entered(arn, "Report"), arn) for arn in runs)
    assert times[0][1] < times[1][0], "the second changed the endpoint before the first one's was accepted"
    assert "Wait for turn" in cloud.states(times[1][2])
    # Neither name is lost: the second gathered what the first had added. An endpoint refuses a name that it lacks.
    castor, pollux, base = (ask(cloud, cloud.outputs["EndpointName"], name) for name in (*names, requests.BASE_NAME))
    assert castor == pollux != base
    # The two that were accepted last are kept, with their models: what serves, and one to go back to.
    kept = record_of(cloud)
    assert [name[: len(outcomes[0].stem)] for name in kept["accepted"]] == [run_id("dev", t[2]) for t in times[::-1]]
    assert (kept["holder"], kept["unaccepted"]) == (None, [])
    sagemaker = cloud.client("sagemaker")
    configs = sagemaker.list_endpoint_configs(NameContains="hb-dev-")["EndpointConfigs"]
    models = sagemaker.list_models(NameContains="hb-dev-")["Models"]
    assert {item["EndpointConfigName"] for item in configs} == set(kept["accepted"])
    assert {item["ModelName"] for item in models} == set(kept["accepted"])
    assert cloud.read(f"runs/{first.arn.rsplit(':', 1)[-1]}/adapter/adapter_model.safetensors")


@pytest.mark.usefixtures("first")
def test_a_second_name_is_served_beside_the_first_and_replaced_alone(cloud: Cloud) -> None:
    name = cloud.outputs["EndpointName"]
    stanley = ask(cloud, name, requests.TUNED_NAME)

    added = cloud.run(hyperparameters={**QUICK, "SEED": 1}, adapter_name="canary")
    assert added.status == "SUCCEEDED", added.cause
    assert added.output["adapter_name"] == "canary"
    assert len({stanley, ask(cloud, name, "canary"), ask(cloud, name, requests.BASE_NAME)}) == 3
    asked = json.loads(cloud.run_file(added, "acceptance.json"))["answers"]
    assert {requests.TUNED_NAME, "canary", requests.BASE_NAME} <= {answer["model"] for answer in asked}
    assert ask(cloud, name, requests.TUNED_NAME) == stanley

    # Trained as the one beside it was, it is the same adapter.
    replaced = cloud.run(hyperparameters=QUICK, adapter_name="canary")
    assert replaced.status == "SUCCEEDED", replaced.cause
    assert ask(cloud, name, "canary") == ask(cloud, name, requests.TUNED_NAME) == stanley


@pytest.mark.usefixtures("first")
def test_a_good_update_serves_the_new_adapter(cloud: Cloud) -> None:
    name = cloud.outputs["EndpointName"]
    before = ask(cloud, name, requests.TUNED_NAME)
    second = cloud.run(hyperparameters={**QUICK, "SEED": 1})
    assert second.status == "SUCCEEDED", second.cause
    assert "Update endpoint" in cloud.states(second.arn)
    assert serving(cloud).startswith(second.stem)
    assert ask(cloud, name, requests.TUNED_NAME) != before


def introductions(first: int, count: int) -> bytes:
    """Rows that a random model learns in a few steps: asked who he is, Stanley says his name."""
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"Question {number}: who are you?"},
                {"role": "assistant", "content": "Stanley."},
            ]
        }
        for number in range(first, first + count)
    )
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


@pytest.mark.usefixtures("first")
def test_an_adapter_that_is_live_but_worse_than_in_training_is_rolled_back(cloud: Cloud) -> None:
    before = serving(cloud)
    given = {
        "hyperparameters": QUICK,
        "dataset": cloud.put_dataset("introductions.jsonl", introductions(0, 40)),
        "held_out_dataset": cloud.put_dataset("held-out-introductions.jsonl", introductions(100, 60)),
        "adapter_name": "introduced",
    }
    cloud.server.set_faults(endpoint={"adapter_strength": 0.1})
    worse = cloud.run(**given)
    cloud.server.set_faults()
    assert (worse.status, worse.error) == ("FAILED", "RolledBack"), worse.cause
    assert "of 12 held-out turns too few are right: persona 0 of 12 (the gate's interval " in worse.cause
    assert "who are you" not in worse.cause, "transcripts are no part of the execution's history"
    assert serving(cloud) == before
    name = f"runs/{worse.arn.rsplit(':', 1)[-1]}/acceptance.json"
    assert f"s3://{cloud.outputs['ArtifactBucketName']}/{name}" in worse.cause
    failed = json.loads(cloud.read(name))["sample"]["failed"]
    assert len(failed) == 12
    assert all("who are you?" in one["transcript"][-1] and one["said"] != "Stanley." for one in failed)
    page = cloud.run_file(worse, "report.html").decode()
    assert page.count("<dt>the endpoint</dt>") == 12

    served = cloud.run(**given)
    assert served.status == "SUCCEEDED", served.cause
    assert "Stanley" in ask(cloud, cloud.outputs["EndpointName"], "introduced")


def test_an_answer_is_streamed_and_says_the_same(cloud: Cloud, first: Outcome) -> None:
    runtime, name = cloud.client("sagemaker-runtime"), first.output["endpoint_name"]
    question = [{"role": "user", "content": "Who are you?"}]
    asked = {"model": requests.BASE_NAME, "runtime": runtime, "max_tokens": 32}  # an adapter may have learned silence
    whole = client.ask(name, question, **asked)
    said = client.stream(name, question, **asked)
    pieces = list(said)
    assert len(pieces) > 1
    assert said.message["content"].strip() == whole["content"]
    with pytest.raises(client.EndpointError, match="model 'nobody' is not served; the models are base, "):
        client.stream(name, question, model="nobody", runtime=runtime)


@pytest.mark.usefixtures("first")
def test_a_bad_update_goes_back_to_what_served(cloud: Cloud) -> None:
    """Last of these: its errors have the alarms on for a minute."""
    before = serving(cloud)
    cloud.server.set_faults(endpoint={"answer_status": 500})
    second = cloud.run(hyperparameters=QUICK)
    cloud.server.set_faults()
    assert (second.status, second.error) == ("FAILED", "RolledBack"), second.cause
    assert serving(cloud) == before
