"""What pytest must know before it collects: the project's own options."""

from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--snapshot-update", action="store_true", help="write the templates of tests/stacks/snapshots anew"
    )


# A busy machine is not a failure.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")

_HALVES = {"test_endpoint.py": "pipeline 1", "test_permissions.py": "pipeline 1", "": "pipeline 2"}
"""The pipeline's tests take most of the time: two workers take about half each, and deploy an app of their own."""


class ByFolder(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps each folder's tests in one worker: what they share (a deployed app, synthesised templates) is made once."""

    def _split_scope(self, nodeid: str) -> str:
        _, folder, *rest = nodeid.split("::")[0].split("/")
        return _HALVES.get(rest[0], _HALVES[""]) if folder == "pipeline" else folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is idle while another still has much to do."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/pipeline/"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    config.option.loadscopereorder = False  # it would begin with the folder of the most tests
    return ByFolder(config, log)
