"""What pytest must know before it collects: the project's own options."""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--snapshot-update", action="store_true", help="write the templates of tests/stacks/snapshots anew"
    )


class ByFolder(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps each folder's tests in one worker: what they share (a deployed app, synthesised templates) is made once."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.split("::")[0].split("/")[1]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    return ByFolder(config, log)
