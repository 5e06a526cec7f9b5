"""Tool arguments held against the JSON schema that `tools` declares.

The part of JSON Schema that function definitions use; `unchecked` names any keyword beyond it, so that none is passed
over in silence. Meanings are those of draft 2020-12 (tests hold them against the package `jsonschema`); `nullable`
is OpenAPI's.
"""

from __future__ import annotations

import functools
import json
import marshal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from heartbeat import patterns

_DEEPEST = 32
"""Levels of schemas in schemas that are looked into; a `$ref` to itself ends here."""
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "strict"}
    | {"$schema", "$id", "$comment", "$defs", "definitions", "format"}
)
"""Keywords that say nothing which arguments could break."""
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
}


def mismatch(value: Any, schema: Any) -> str | None:
    """What of `value` does not fit, as the end of a sentence; None where it fits.

    A malformed keyword is not held against the value, nor is a pattern that could take for ever (heartbeat.patterns).
    """
    return next(_mismatches(value, schema, schema, "", 0), None)


def unchecked(schema: Any) -> str | None:
    """The first keyword in `schema` that `mismatch` does not check; None where it checks all."""
    return next(_unknown(schema, 0), None)


@functools.lru_cache(maxsize=256)
def unchecked_in(marshalled: bytes) -> str | None:
    """`unchecked` of a schema in marshal's bytes: the same tools come again in row after row."""
    return unchecked(marshal.loads(marshalled))


def _mismatches(value: Any, schema: Any, root: Any, at: str, depth: int) -> Iterator[str]:
    if schema is False:
        yield f"have {at or 'a value'}, which may not be given"
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return
    where = at or "the object"
    if "$ref" in schema:
        yield from _mismatches(value, _referred(schema["$ref"], root), root, at, depth + 1)
    if value is None and schema.get("nullable") is True:
        return
    types = schema.get("type")
    if types is not None:
        names = [types] if isinstance(types, str) else types if isinstance(types, list) else []
        known = [name for name in names if isinstance(name, str) and name in _TYPES]
        if known and not any(_TYPES[name](value) for name in known):
            yield f"have {_shown(value)} as {where}, which must be of type {' or '.join(known)}"
            return
    if isinstance(schema.get("enum"), list) and not any(same(value, one) for one in schema["enum"]):
        yield f"have {_shown(value)} as {where}, which must be one of {_shown(schema['enum'])}"
    if "const" in schema and not same(value, schema["const"]):
        yield f"have {_shown(value)} as {where}, which must be {_shown(schema['const'])}"
    if isinstance(value, dict):
        yield from _of_object(value, schema, root, at, depth)
    elif isinstance(value, list):
        yield from _limits(len(value), schema, "minItems", "maxItems", f"{where}, items in it")
        if "items" in schema:
            for i, item in enumerate(value):
                yield from _mismatches(item, schema["items"], root, f"{at}[{i}]", depth + 1)
    elif isinstance(value, str):
        yield from _limits(len(value), schema, "minLength", "maxLength", f"{where}, characters in it")
        yield from _pattern(value, schema, where)
    elif _TYPES["number"](value):
        yield from _limits(value, schema, "minimum", "maximum", where)
        yield from _exclusive(value, schema, where)
    yield from _combined(value, schema, root, at, depth)


def _of_object(value: Mapping[str, Any], schema: Mapping[str, Any], root: Any, at: str, depth: int) -> Iterator[str]:
    required, properties = schema.get("required"), schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str) and name not in value:
            yield f"lack {_inside(at, name)}"
    further = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in properties:
            yield from _mismatches(item, properties[name], root, _inside(at, name), depth + 1)
        elif further is False:
            yield f"have {_inside(at, name)}, which is not declared"
        else:
            yield from _mismatches(item, further, root, _inside(at, name), depth + 1)


def _combined(value: Any, schema: Mapping[str, Any], root: Any, at: str, depth: int) -> Iterator[str]:
    def fits(one: Any) -> bool:
        return next(_mismatches(value, one, root, at, depth + 1), None) is None

    where = at or "the object"
    for one in _list(schema, "allOf"):
        yield from _mismatches(value, one, root, at, depth + 1)
    some, only = _list(schema, "anyOf"), _list(schema, "oneOf")
    if some and not any(fits(one) for one in some):
        yield f"have {_shown(value)} as {where}, which fits none of anyOf"
    if only:
        count = sum(fits(one) for one in only)
        if count != 1:
            yield f"have {_shown(value)} as {where}, which fits {count} of oneOf, not one"


def _limits(size: float, schema: Mapping[str, Any], low: str, high: str, what: str) -> Iterator[str]:
    least, most = _number(schema, low), _number(schema, high)
    if least is not None and size < least:
        yield f"have {size} as {what}, which must be at least {least}"
    if most is not None and size > most:
        yield f"have {size} as {what}, which must be at most {most}"


def _exclusive(value: float, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    low, high = _number(schema, "exclusiveMinimum"), _number(schema, "exclusiveMaximum")
    if low is not None and value <= low:
        yield f"have {value} as {where}, which must be over {low}"
    if high is not None and value >= high:
        yield f"have {value} as {where}, which must be under {high}"


def _pattern(value: str, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and patterns.found(pattern, value) is False:
        yield f"have {_shown(value)} as {where}, which must match {pattern}"


_KEYWORDS = frozenset(
    {"$ref", "type", "enum", "const", "properties", "required", "additionalProperties", "items", "minItems", "maxItems"}
    | {"minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    | {"allOf", "anyOf", "oneOf", "nullable"}
)


def _unknown(schema: Any, depth: int) -> Iterator[str]:
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return
    for keyword, value in schema.items():
        if keyword not in _KEYWORDS and keyword not in _ANNOTATIONS:
            yield keyword
        elif keyword in ("properties", "$defs", "definitions") and isinstance(value, dict):
            for part in value.values():
                yield from _unknown(part, depth + 1)
        elif keyword in ("items", "additionalProperties"):
            yield from _unknown(value, depth + 1)
        elif keyword in ("allOf", "anyOf", "oneOf") and isinstance(value, list):
            for part in value:
                yield from _unknown(part, depth + 1)
        elif keyword == "pattern" and isinstance(value, str) and not patterns.is_searched(value):
            yield f"pattern {value[:40]}"
        elif keyword == "$ref" and not (isinstance(value, str) and value.startswith("#")):
            yield "$ref to another document"


def _referred(reference: Any, root: Any) -> Any:
    """The schema that a `$ref` within the document names; None where there is none."""
    found = root
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def _number(schema: Mapping[str, Any], keyword: str) -> float | None:
    found = schema.get(keyword)
    return found if _TYPES["number"](found) else None


def _list(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    found = schema.get(keyword)
    return found if isinstance(found, list) else []


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal as JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return bool(one == other)


def _inside(at: str, name: str) -> str:
    return f"{at}.{name[:60]}" if at else json.dumps(name[:60], ensure_ascii=False)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
