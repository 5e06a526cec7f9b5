"""Both environments of the app, synthesised once: the slow part of these tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import app as heartbeat_app
from stacks.settings import Settings

Template = dict[str, Any]


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Template]:
    """Templates by stack, such as `dev-Storage`. dev and prod are in one app, as they may be in one account."""
    app = heartbeat_app.make_app(str(tmp_path_factory.mktemp("cdk.out")))
    for environment in ("dev", "prod"):
        heartbeat_app.compose(app, Settings.from_context(app.node, environment))
    return {stack.stack_name.removeprefix("HeartBeat-"): stack.template for stack in app.synth().stacks}
