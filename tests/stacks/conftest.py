"""Both environments of the app, synthesised once: the slow part of these tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

import app as heartbeat_app
from stacks.settings import Settings

Template = dict[str, Any]

OWN = Settings(
    environment="own",
    alarm_email="me@example.com",
    monthly_budget_usd=None,
    tags={"team": "hockey"},
    extra_dataset_buckets=("elsewhere",),
    base_model_uri="s3://models-elsewhere/scout/",
    endpoint_name="Habs",
    endpoint_schedule={"on": "07:30", "off": "20:00", "days": "MON-FRI", "time_zone": "America/Toronto"},
    vllm_image="123456789012.dkr.ecr.eu-west-1.amazonaws.com/mine/vllm:1",
)


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Template]:
    """Templates by stack, such as `dev-Storage`: cdk.json's environments, `own`, which has other settings, and `zero`,
    which is as dev but for an endpoint that scales to zero.

    They are in one app, as they may be in one account.
    """
    app = heartbeat_app.make_app(str(tmp_path_factory.mktemp("cdk.out")))
    for environment in ("dev", "prod"):
        heartbeat_app.compose(app, Settings.from_context(app.node, environment))
    heartbeat_app.compose(app, OWN)
    dev = Settings.from_context(app.node, "dev")
    heartbeat_app.compose(app, replace(dev, environment="zero", endpoint_name="", endpoint_scale_to_zero=True))
    return {stack.stack_name.removeprefix("HeartBeat-"): stack.template for stack in app.synth().stacks}
