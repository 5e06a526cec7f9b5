"""`status`: what an environment runs now, and what it costs an hour."""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError
from rich import box
from rich.table import Table

from heartbeat import catalog, layout
from heartbeat.cli import executions, screen
from heartbeat.cli.account import App, client, connect, is_local

HOURS_PER_MONTH = 730


@dataclass(frozen=True, kw_only=True)
class Running:
    """Something that runs. The price is of the catalogue; None is unknown."""

    kind: str
    name: str
    status: str
    instances: str
    since: datetime
    usd_per_hour: float | None


def run(arguments: argparse.Namespace) -> int:
    app = connect(arguments.environment)
    found = [*endpoints(app.environment), *training_jobs(app.environment)]
    runs = executions.recent(app, 50, "RUNNING")
    if arguments.json:
        record = {"running": [asdict(item) for item in found], "executions": [item["name"] for item in runs]}
        print(json.dumps(record, indent=1, default=str))
    else:
        _say_off(app)
        _show(app.environment, found, [item["name"] for item in runs])
    return 0


def _say_off(app: App) -> None:
    """Whether the app's endpoint is off by its schedule, and how it comes on before its time."""
    record = None
    with contextlib.suppress(ClientError):  # who may not read the bucket is still told what bills
        record = app.read_json(layout.endpoint_record(app.endpoint_name))
    if record and record.get("asleep"):
        screen.say(f"Endpoint {app.endpoint_name} is off by its schedule. To switch it on now:")
        screen.say(
            f"  aws stepfunctions start-execution --state-machine-arn {app.state_machine_arn}-Schedule"
            """ --input '{"switch": "on"}'"""
        )


def endpoints(environment: str) -> list[Running]:
    """Endpoints whose name begins as the environment's do: the names that its roles may touch."""
    sagemaker = client("sagemaker")
    pages = sagemaker.get_paginator("list_endpoints").paginate(NameContains=f"heartbeat-{environment}")
    names = [item["EndpointName"] for page in pages for item in page["Endpoints"]]
    return [_endpoint(sagemaker.describe_endpoint(EndpointName=name)) for name in names if is_of(name, environment)]


def components(environment: str) -> list[str]:
    """Names of inference components, which those of endpoints that scale to zero are too."""
    pages = client("sagemaker").get_paginator("list_inference_components")
    found = [
        item["InferenceComponentName"]
        for page in pages.paginate(NameContains=f"heartbeat-{environment}")
        for item in page["InferenceComponents"]
    ]
    return [name for name in found if is_of(name, environment)]


def training_jobs(environment: str) -> list[Running]:
    sagemaker = client("sagemaker")
    pages = sagemaker.get_paginator("list_training_jobs").paginate(
        NameContains=f"hb-{environment}-", StatusEquals="InProgress"
    )
    names = [item["TrainingJobName"] for page in pages for item in page["TrainingJobSummaries"]]
    return [_job(sagemaker.describe_training_job(TrainingJobName=name)) for name in names]


def is_of(endpoint: str, environment: str) -> bool:
    """`heartbeat-dev` and `heartbeat-dev-canary` are of dev; `heartbeat-development` is not."""
    stem = f"heartbeat-{environment}"
    return endpoint == stem or endpoint.startswith(f"{stem}-")


def _endpoint(endpoint: dict[str, Any]) -> Running:
    config = client("sagemaker").describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    kinds = {variant["VariantName"]: _instance_type(variant) for variant in config["ProductionVariants"]}
    variants = endpoint.get("ProductionVariants") or config["ProductionVariants"]
    numbers = {
        variant["VariantName"]: variant.get("CurrentInstanceCount", variant.get("InitialInstanceCount", 1))
        for variant in variants
    }
    return Running(
        kind="endpoint",
        name=endpoint["EndpointName"],
        status=_status(endpoint, config["ProductionVariants"]),
        instances=", ".join(f"{numbers.get(name, 1)} x {kind}" for name, kind in kinds.items()),
        since=endpoint["CreationTime"],
        usd_per_hour=_sum([_price(kind, numbers.get(name, 1)) for name, kind in kinds.items()]),
    )


def _status(endpoint: dict[str, Any], variants: list[dict[str, Any]]) -> str:
    """Of one that hosts an inference component, also how that is: `InService, asleep`."""
    status, name = str(endpoint["EndpointStatus"]), endpoint["EndpointName"]
    if any("ModelName" in variant for variant in variants):
        return status
    try:
        component = client("sagemaker").describe_inference_component(InferenceComponentName=name)
    except ClientError as error:
        if "Could not find" not in str(error):
            raise
        return f"{status}, serves nothing"
    if component["InferenceComponentStatus"] != "InService":
        return f"{status}, component {component['InferenceComponentStatus']}"
    awake = component.get("RuntimeConfig", {}).get("CurrentCopyCount", 0)
    return status if awake else f"{status}, asleep"


def _job(job: dict[str, Any]) -> Running:
    resources = job["ResourceConfig"]
    return Running(
        kind="training job",
        name=job["TrainingJobName"],
        status=job["SecondaryStatus"],
        instances=f"{resources['InstanceCount']} x {resources['InstanceType']}",
        since=job["CreationTime"],
        usd_per_hour=_price(resources["InstanceType"], resources["InstanceCount"]),
    )


def _instance_type(variant: dict[str, Any]) -> str:
    """The first of several that may stand in for each other: which of them runs is not told."""
    pools = variant.get("InstancePools") or [{"InstanceType": ""}]
    return str(variant.get("InstanceType") or pools[0]["InstanceType"])


def _price(instance_type: str, number: int) -> float | None:
    instance = catalog.load().instances.get(instance_type)
    return None if instance is None or instance.usd_per_hour is None else instance.usd_per_hour * number


def _price_notes(found: list[Running]) -> str:
    """`unverified, us-east-1, as of 2026-11`, of all that are among these, and that one is old."""
    today = datetime.now(UTC).date()
    shown = [
        i for i in catalog.load() if any(i.instance_type in item.instances.replace(",", "").split() for item in found)
    ]
    return "; ".join(dict.fromkeys(instance.price_note(today) for instance in shown)) or "of heartbeat/instances.csv"


def _sum(prices: list[float | None]) -> float | None:
    """Unknown as soon as one of them is."""
    known = [price for price in prices if price is not None]
    return sum(known) if len(known) == len(prices) else None


def _show(environment: str, found: list[Running], runs: list[str]) -> None:
    if runs:
        screen.say(f"Runs in progress: {', '.join(runs)} (python -m heartbeat watch NAME)")
    if not found:
        screen.say(f"Nothing of environment {environment} bills: no endpoint, no training job.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("", "name", "status", "instances", "for", "an hour"):
        table.add_column(title, justify="right" if title in {"for", "an hour"} else "left", no_wrap=True)
    for item in found:
        age = screen.duration((datetime.now(UTC) - item.since).total_seconds())
        table.add_row(item.kind, item.name, item.status, item.instances, age, screen.usd(item.usd_per_hour))
    screen.console().print(table)
    if is_local():
        screen.say("These run on this machine and bill nothing; the prices are those of AWS.")
        return
    known = [item.usd_per_hour for item in found if item.usd_per_hour is not None]
    unknown = len(found) - len(known)
    total = f"{screen.usd(sum(known))} an hour, {screen.usd(sum(known) * HOURS_PER_MONTH)} a month if left alone"
    screen.say(f"Together {total}" + (f", and {unknown} of unknown price" if unknown else "") + ".")
    screen.say(f"Prices: on demand, {_price_notes(found)}. To end it all: python -m heartbeat destroy")
