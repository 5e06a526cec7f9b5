"""The whole of each template, so that a change of infrastructure is seen in review.

Twenty lines instead of a snapshot library: the files are plain templates, compared as data, and nothing more is
to be installed. `pytest --snapshot-update` writes them anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.stacks.reading import Template, listed, resources, role_statements, text

SNAPSHOTS = Path(__file__).parent / "snapshots"
ASSET_HASH = re.compile(r"\b[0-9a-f]{64}\b")


@pytest.mark.parametrize("stack", ["dev-Storage", "dev-Registry", "dev-Pipeline", "dev-Monitoring", "prod-Storage"])
def test_template_is_as_it_was(templates: Mapping[str, Template], stack: str, pytestconfig: pytest.Config) -> None:
    compare(stack, templates[stack], pytestconfig)


def test_an_endpoint_that_scales_to_zero_changes_this(
    templates: Mapping[str, Template], pytestconfig: pytest.Config
) -> None:
    """Against the same environment without it. The state machine's definition has tests of its own."""
    written = json.dumps(templates["zero-Pipeline"])
    for name in ("HeartBeat-{}", "heartbeat-{}", "hb-{}", '"{}"'):
        written = written.replace(name.format("zero"), name.format("dev"))
    found, before = facts(json.loads(written)), facts(templates["dev-Pipeline"])
    compare("zero-Pipeline", {"added": sorted(found - before), "gone": sorted(before - found)}, pytestconfig)


def facts(template: Template) -> set[str]:
    """A line for each resource, each action on each of its resources, and each variable of a function."""
    lines = {f"{resource['Type']} {key}" for key, resource in template["Resources"].items()}
    for key, statement in role_statements(template):
        for action in listed(statement["Action"]):
            for resource in listed(statement["Resource"]):
                lines.add(f"{key}: {action} on {text(resource)} {statement.get('Condition', '')}".strip())
    for key, function in resources(template, "AWS::Lambda::Function").items():
        variables = function["Properties"].get("Environment", {}).get("Variables", {})
        lines |= {f"{key}: {name}={text(value)}" for name, value in variables.items()}
    return lines


def compare(stack: str, template: Mapping[str, Any], pytestconfig: pytest.Config) -> None:
    # Code changes its assets' hashes at every edit; the templates are about infrastructure.
    found = json.loads(ASSET_HASH.sub("<asset hash>", json.dumps(template)))
    file = SNAPSHOTS / f"{stack}.json"
    if pytestconfig.getoption("--snapshot-update"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(file.read_text(encoding="utf-8")), "run pytest --snapshot-update if this is meant"
