"""One tiny base model for all tests of trainer and server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training import tiny


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # Layers this small only lose time to a second one.
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder of a random Llama 4: hidden 64, 4 layers (the last without RoPE), 4 experts."""
    return tiny.write_base(tmp_path_factory.mktemp("base") / "checkpoint")


@pytest.fixture
def free_port() -> int:
    """For ranks to find each other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
