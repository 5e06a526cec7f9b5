"""State `Plan`: memory, hours and dollars of this run on each instance asked for; refuses what cannot work."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import aws
import base_folder
import components
import served
from heartbeat import catalog, layout, requests
from heartbeat.adapters import NewAdapter
from heartbeat.candidates import Candidate
from heartbeat.dataset import DatasetStats
from heartbeat.failures import InputInvalid, PlanRefused
from heartbeat.job import SettingError
from heartbeat.plan import plan_run, plan_serving
from heartbeat.scout import SCOUT, ModelShape
from heartbeat.serving_plan import HOURS_PER_MONTH

MAX_MODEL_LEN = 8192
"""Context of the endpoint, tokens: twice the card's MAX_LENGTH, so that a long prompt leaves room to answer."""


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    run = event["run"]
    bucket, folder = base_folder.of_run(run)
    config = aws.read_json(folder + "config.json", bucket=bucket)
    shape = ModelShape.from_config(config) if config else SCOUT
    stats = DatasetStats.from_dict(event["dataset"])
    job, sources = base_folder.job_of(run)
    try:
        plan = plan_run(
            shape=shape,
            stats=stats,
            job=job,
            catalog=catalog.load(),
            instance_types=run["instance_types"],
            max_runtime_seconds=job.max_runtime_seconds,
            budget_usd=run["budget_usd"],
            use_spot=run["use_spot"],
        )
        adapter = NewAdapter(
            name=run["adapter_name"],
            uri="",
            base_uri=layout.uri(bucket, folder),
            max_lora_rank=job.max_lora_rank,
        )
        endpoint = served.served(run["endpoint_name"]) if run["deploy"] else None
        adapters, max_lora_rank = adapter.together(endpoint)
        serving = plan_serving(
            shape=shape,
            catalog=catalog.load(),
            instance_types=os.environ["SERVING_INSTANCE_TYPES"].split(",")
            if os.environ["SERVING_INSTANCE_TYPES"]
            else None,
            max_model_len=MAX_MODEL_LEN,
            adapters=len(adapters),
            max_lora_rank=max_lora_rank,
        )
        if run["deploy"] and serving.instance_type:
            components.require_instance(run["endpoint_name"], serving.instance_type)
        container = {"tensor_parallel_size": serving.tensor_parallel, "max_model_len": MAX_MODEL_LEN}
        replace(adapter, container=container).beside(endpoint)  # what does not fit is said before a dollar is spent
    except (SettingError, catalog.UnknownInstance) as error:
        raise InputInvalid(str(error)) from None
    instances, sleeps = int(os.environ["ENDPOINT_INSTANCES"]), components.wanted()
    hourly = None if serving.usd_per_hour is None else serving.usd_per_hour * instances
    hours = float(os.environ["ENDPOINT_HOURS_PER_MONTH"] or HOURS_PER_MONTH)
    monthly = None if hourly is None else hourly * hours
    record = {
        **plan.to_dict(),
        "hyperparameters": job.to_hyperparameters(),
        "hyperparameter_sources": sources,
        "base_model": {"name": os.environ["BASE_MODEL"], "config_found": config is not None},
        "serving": serving.to_dict(),
        "endpoint": {
            "instances": instances,
            "usd_per_hour": hourly,
            "hours_per_month": hours,
            "usd_per_month": monthly,
            "scales_to_zero": sleeps,
            "cold_start_seconds": sum(serving.cold_start_seconds.values()),
            "usd_per_cold_start": serving.usd_per_cold_start,
            "instances_while_updating": requests.instances_while_updating(
                "rolling" if sleeps else os.environ["ENDPOINT_UPDATE"], instances
            ),
        },
    }
    aws.write_json(aws.run_of(event).plan, record)
    if not plan.feasible:
        raise PlanRefused(plan.refusal)
    if run["deploy"] and serving.refusal:
        raise PlanRefused(f"{serving.refusal} Set deploy to false to train without an endpoint.")
    volume = requests.volume_size_gib(
        base_model_bytes=shape.bytes_bf16,
        dataset_bytes=stats.bytes,
        at_least=int(os.environ["VOLUME_SIZE_GIB"]),
    )
    return {
        "candidates": [_candidate(item, job.to_hyperparameters(), volume) for item in plan.candidates],
        "warnings": list(plan.warnings),
        "serving": {
            "instance_type": serving.instance_type,
            "usd_per_hour": _tag(hourly),
            "usd_per_month": _tag(monthly),
            "instance_pools": requests.instance_pools([serving.instance_type, *serving.fallbacks])
            if serving.instance_type
            else [],
            "max_lora_rank": job.max_lora_rank,
            "container": container,
        },
    }


def _tag(usd: float | None) -> str:
    return "unknown" if usd is None else f"{usd:.2f}"


def _candidate(item: Candidate, hyperparameters: dict[str, str], volume: int) -> dict[str, Any]:
    """What `Train` needs of one ranked instance; the stop is never above what the plan allows."""
    price = {} if item.usd_per_hour is None else {"USD_PER_HOUR": f"{item.usd_per_hour:g}"}
    return {
        "instance_type": item.instance_type,
        "mode": item.mode,
        "volume_size_gib": volume,
        "max_runtime_seconds": item.max_runtime_seconds,
        "hyperparameters": {
            **hyperparameters,
            "MODE": item.mode,
            "MAX_RUNTIME_SECONDS": str(item.max_runtime_seconds),
            **price,
        },
    }
