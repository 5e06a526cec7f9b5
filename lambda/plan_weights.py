"""State `Plan weights`: what of the base weights is not there yet, and on which instance it is brought."""

from __future__ import annotations

import os
from typing import Any

import aws
import base_folder
from heartbeat import base_weights, layout
from heartbeat.base_weights import BringJob, BringRequest
from heartbeat.execution import InputError
from heartbeat.failures import BaseModelUnavailable, InputInvalid
from heartbeat.scout import SCOUT, ModelShape


def handler(event: aws.Event, _context: object) -> dict[str, Any]:
    model, bucket = os.environ["BASE_MODEL"], aws.artifact_bucket()
    try:
        request = BringRequest.parse(event["input"])
        make = _missing(model, request)
        # The checkpoint's own shape is known once its config.json is there.
        config = aws.read_json(layout.base_model_prefix(model) + "config.json")
        candidates = base_weights.candidates(
            ModelShape.from_config(config) if config else SCOUT,
            make,
            names=request.instance_types,
            max_runtime_seconds=request.max_runtime_seconds,
        )
    except InputError as error:
        raise InputInvalid(str(error)) from None
    if "bf16" in make and not base_folder.has_token():
        raise BaseModelUnavailable(f"no Hugging Face token is stored to bring {model} with")
    job = BringJob(
        model=model,
        revision=request.revision,
        make=make or request.make,
        bucket=bucket,
        folder=layout.base_model_root(model),
        token_secret=os.environ["TOKEN_SECRET"],
        hub=os.environ["HUB_URL"],
    )
    return {
        "make": list(make),
        "uri": layout.uri(bucket, job.folder),
        "hyperparameters": job.to_hyperparameters(),
        "candidates": [candidate.to_dict() for candidate in candidates],
    }


def _missing(model: str, request: BringRequest) -> tuple[str, ...]:
    """What is to be made: not what is there, and bf16 first where the others need it."""
    there = {
        one: not base_folder.look(aws.artifact_bucket(), layout.base_model_prefix(model, one)).missing
        for one in base_weights.FORMATS
    }
    make = {one for one in request.make if not there[one]}
    if make and not there["bf16"]:
        make.add("bf16")
    return tuple(one for one in base_weights.FORMATS if one in make)
