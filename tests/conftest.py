"""What pytest must know before it collects: the project's own options."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--snapshot-update", action="store_true", help="write the templates of tests/stacks/snapshots anew"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps each folder's tests in one worker: what they share (a deployed app, synthesised templates) is made once."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.path.relative_to(ROOT).parts[0]))
