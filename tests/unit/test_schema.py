"""Arguments against schemas: the same verdict as the package jsonschema, which the environment holds."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.schema import mismatch, unchecked

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, "", "a", "ab", "query"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "query"]), inner, max_size=3)
    ),
    max_leaves=6,
)
TYPES = st.sampled_from(["object", "array", "string", "boolean", "null", "number", "integer"])
SMALL = st.integers(0, 3)


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "properties": st.dictionaries(st.sampled_from(["a", "b", "query"]), inner, max_size=2),
            "required": st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True),
            "additionalProperties": inner,
            "items": inner,
            "minItems": SMALL,
            "maxItems": SMALL,
            "minLength": SMALL,
            "maxLength": SMALL,
            "pattern": st.sampled_from(["^a", "b$", "x"]),
            "minimum": SMALL,
            "maximum": SMALL,
            "exclusiveMinimum": SMALL,
            "exclusiveMaximum": SMALL,
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "$ref": st.just("#/$defs/one"),
            "description": st.just("what it is"),
        },
    )


SCHEMAS = st.recursive(st.booleans() | schemas(st.booleans()), schemas, max_leaves=5)


@given(VALUES, SCHEMAS)
def test_the_verdict_is_jsonschemas(value: Any, schema: Any) -> None:
    whole = {"$defs": {"one": {"type": ["object", "string", "integer"]}}, "allOf": [schema]}
    fits = jsonschema.Draft202012Validator(whole).is_valid(value)
    assert (mismatch(value, whole) is None) == fits
    assert unchecked(whole) is None


@given(VALUES, VALUES)
def test_nothing_is_raised_for_what_is_no_schema(value: Any, schema: Any) -> None:
    mismatch(value, schema)
    unchecked(schema)


@pytest.mark.parametrize(
    "keyword", ["patternProperties", "if", "not", "dependentRequired", "uniqueItems", "multipleOf"]
)
def test_a_keyword_that_is_not_checked_is_named(keyword: str) -> None:
    assert unchecked({"type": "object", "properties": {"a": {keyword: {}}}}) == keyword
    assert unchecked({"properties": {keyword: {"type": "string"}}}) is None  # an argument's name is no keyword


def test_a_schema_that_refers_to_itself_ends() -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    assert mismatch({"next": {"next": {}}}, tree) is None
    assert mismatch({"next": {"next": {"x": 1}}}, tree) == 'have "next".next.x, which is not declared'
    assert mismatch({}, {"$ref": "#"}) is None


def test_true_is_not_one_and_one_is_one_point_zero() -> None:
    assert mismatch(True, {"enum": [1]}) is not None
    assert mismatch([{"a": 1}], {"const": [{"a": True}]}) is not None
    assert mismatch(1.0, {"const": 1}) is None
