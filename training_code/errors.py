"""The one kind of error that a user is meant to read."""

from __future__ import annotations


class TrainingError(Exception):
    """Something that the user can put right. The message is one sentence: what, where, and the fix."""
