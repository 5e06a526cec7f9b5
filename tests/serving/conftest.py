"""The server's tests serve what the trainer's tests train."""

from tests.training.conftest import base, one_thread

__all__ = ["base", "one_thread"]
