"""Credentials for tests: those of an embedded AWS, and no others."""

from __future__ import annotations

import os

import pytest

from local_aws.server import Server


def sign_in(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points this process at the server; whatever else names an account or an address is gone."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
