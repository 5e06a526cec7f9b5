"""What pytest must know before it collects: the project's own options."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--snapshot-update", action="store_true", help="write the templates of tests/stacks/snapshots anew"
    )
