"""The life of one endpoint: created, updated by a run that is not accepted, updated by one that is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from heartbeat import client, metrics, requests
from tests.pipeline.conftest import QUICK, Cloud, Outcome, delete_endpoint


def ask(cloud: Cloud, endpoint: str, model: str) -> str:
    body = requests.chat(model=model, messages=[{"role": "user", "content": "Who are you?"}], max_tokens=32)
    answer = cloud.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint, ContentType="application/json", Body=json.dumps(body)
    )
    message: dict[str, Any] = json.loads(answer["Body"].read())["choices"][0]["message"]
    return json.dumps(message)


@pytest.fixture(scope="module")
def first(cloud: Cloud) -> Iterator[Outcome]:
    """A run that made the endpoint."""
    name = cloud.outputs["EndpointName"]
    delete_endpoint(cloud, name)
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
    assert record["metrics"]["heldout"]["tuned_loss"] < record["metrics"]["heldout"]["base_loss"]
    page = cloud.run_file(outcome, "report.html").decode()
    assert "is serving" in page
    packages = cloud.client("sagemaker").list_model_packages(ModelPackageGroupName="heartbeat-dev")
    assert packages["ModelPackageSummaryList"]


def test_a_bad_update_goes_back_to_what_served(cloud: Cloud, first: Outcome) -> None:
    cloud.server.set_faults(endpoint={"answer_status": 500})
    second = cloud.run(hyperparameters={**QUICK, "SEED": 1})
    cloud.server.set_faults()
    assert (second.status, second.error) == ("FAILED", "RolledBack"), second.cause
    endpoint = cloud.wait_for_endpoint(cloud.outputs["EndpointName"])
    assert endpoint["EndpointStatus"] == "InService"
    assert endpoint["EndpointConfigName"].startswith(first.stem)


@pytest.mark.usefixtures("first")
def test_a_second_name_is_served_beside_the_first_and_replaced_alone(cloud: Cloud) -> None:
    name = cloud.outputs["EndpointName"]
    stanley = ask(cloud, name, requests.TUNED_NAME)

    added = cloud.run(hyperparameters={**QUICK, "SEED": 1}, adapter_name="canary")
    assert added.status == "SUCCEEDED", added.cause
    assert added.output["adapter_name"] == "canary"
    assert len({stanley, ask(cloud, name, "canary"), ask(cloud, name, requests.BASE_NAME)}) == 3
    assert ask(cloud, name, requests.TUNED_NAME) == stanley

    # Trained as the first one was, it is the same adapter.
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
    assert cloud.wait_for_endpoint(name)["EndpointConfigName"].startswith(second.stem)
    assert ask(cloud, name, requests.TUNED_NAME) != before


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
