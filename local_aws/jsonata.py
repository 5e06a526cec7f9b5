"""JSONata as Step Functions evaluates it: the language, and the functions that Step Functions adds."""

from __future__ import annotations

import hashlib
import json
import random
import re
import uuid
from collections.abc import Mapping
from typing import Any

from jsonata.jsonata import Jsonata
from jsonata.utils import Utils

MAX_RANGE = 1000
"""Step Functions' limit on what $range returns."""
TIMEOUT_MILLISECONDS = 5000
_HASHES = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}
_EVAL = re.compile(r"\$eval\s*\(")


class UndefinedError(Exception):
    """The expression yields nothing, which is not null."""


def evaluate(expression: str, bindings: Mapping[str, Any]) -> Any:
    """The value of the expression, as JSON. Raises UndefinedError, or the language's own error."""
    if _EVAL.search(expression):
        raise ValueError("the function $eval is not available in Step Functions: use $parse")
    bound = {name: _bindable(value) for name, value in bindings.items()}
    value = _compile(expression).evaluate(None, bound)
    if value is None and not _compile(f"$exists(({expression}))").evaluate(None, bound):
        raise UndefinedError
    return _as_json(value)


def _compile(expression: str) -> Any:
    compiled = Jsonata.jsonata(expression, timeout=TIMEOUT_MILLISECONDS)
    compiled.register_lambda("uuid", lambda: str(uuid.uuid4()))
    compiled.register_lambda("hash", _hash)
    compiled.register_lambda("parse", lambda text: _bindable(json.loads(text)))
    compiled.register_lambda("random", lambda seed=None: random.Random(seed).random())
    compiled.register_lambda("partition", _partition)
    compiled.register_lambda("range", _range)
    return compiled


def _hash(text: str, algorithm: str) -> str:
    if algorithm not in _HASHES:
        raise ValueError(f"$hash: {algorithm!r} is not one of {', '.join(_HASHES)}")
    return hashlib.new(_HASHES[algorithm], text.encode()).hexdigest()


def _partition(items: list[Any], size: float) -> list[list[Any]]:
    step = int(size)
    if step < 1:
        raise ValueError(f"$partition: the size {size} must be at least 1")
    return [items[start : start + step] for start in range(0, len(items), step)]


def _range(first: float, last: float, step: float) -> list[float]:
    if step == 0:
        raise ValueError("$range: the step must not be 0")
    values: list[float] = []
    value = first
    while (value <= last) if step > 0 else (value >= last):
        if len(values) == MAX_RANGE:
            raise ValueError(f"$range: more than {MAX_RANGE} values")
        values.append(value)
        value += step
    return values


def _bindable(value: Any) -> Any:
    """A top-level null is bound as the language's own null: None would mean undefined."""
    return Utils.NULL_VALUE if value is None else value


def _as_json(value: Any) -> Any:
    """Plain Python of the language's own types; whole numbers are integers, as in JavaScript."""
    if value is None or value is Utils.NULL_VALUE:
        return None
    if isinstance(value, Mapping):
        return {str(key): _as_json(member) for key, member in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_as_json(member) for member in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"the result type {type(value).__name__} is not supported")
