"""Llama 4's vocabulary on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

from heartbeat import tokens
from heartbeat.tokens import TokenCounter, TokenizerError


def counter() -> TokenCounter:
    """The counter of the environment's vocabulary. Raises TokenizerError where `make environment` did not bring it."""
    return tokens.load(Path(sys.prefix) / tokens.FOLDER / tokens.FILE_NAME)


def counter_if_any() -> TokenCounter | None:
    """None where tokens have to be estimated."""
    try:
        return counter()
    except TokenizerError:
        return None
