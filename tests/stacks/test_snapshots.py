"""The whole of each template, so that a change of infrastructure is seen in review.

Twenty lines instead of a snapshot library: the files are plain templates, compared as data, and nothing more is
to be installed. `pytest --snapshot-update` writes them anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.stacks.reading import Template

SNAPSHOTS = Path(__file__).parent / "snapshots"
ASSET_HASH = re.compile(r"\b[0-9a-f]{64}\b")


@pytest.mark.parametrize("stack", ["dev-Storage", "dev-Registry", "dev-Pipeline", "dev-Monitoring", "prod-Storage"])
def test_template_is_as_it_was(templates: Mapping[str, Template], stack: str, pytestconfig: pytest.Config) -> None:
    # Code changes its assets' hashes at every edit; the templates are about infrastructure.
    found = json.loads(ASSET_HASH.sub("<asset hash>", json.dumps(templates[stack])))
    file = SNAPSHOTS / f"{stack}.json"
    if pytestconfig.getoption("--snapshot-update"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(file.read_text(encoding="utf-8")), "run pytest --snapshot-update if this is meant"
