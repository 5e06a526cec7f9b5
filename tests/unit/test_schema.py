"""Arguments against schemas: the same verdict as the package jsonschema, which the environment holds."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartbeat import patterns
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


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*$", "(a*){50}$", "(?:a?b?)+$", "(a)\\1", "(?=a)", "[", "(a|b)" * 30]
)
def test_a_pattern_that_could_take_for_ever_is_named_and_not_searched(pattern: str) -> None:
    schema = {"properties": {"q": {"pattern": pattern}}}
    assert unchecked(schema) == f"pattern {pattern[:40]}"
    assert mismatch({"q": "a" * 40 + "!"}, schema) is None


def test_a_text_that_is_too_long_for_its_pattern_is_not_searched() -> None:
    schema = {"pattern": r"^[\w.+-]+@[\w-]+\.[a-z]{2,}$"}
    assert unchecked(schema) is None
    assert mismatch("a" * 100, schema) is not None
    assert mismatch("a" * 100_000, schema) is None


@pytest.mark.parametrize(
    "pattern", [r"^\d{4}-\d{2}-\d{2}$", "^(?:home|away)$", "^[A-Z][a-z]+( [A-Z][a-z]+)*$", r"a\{2|b"]
)
def test_usual_patterns_are_searched(pattern: str) -> None:
    usual = {"pattern": pattern}
    assert (unchecked(usual) is None) == ("+( " not in pattern)
    for text in ("2024-10-09", "home", "2024-1-1", "a{2", "b", ""):
        if unchecked(usual) is None:
            assert (mismatch(text, usual) is None) == bool(re.search(pattern, text))


PIECES = st.sampled_from(
    ["a", "b", "a*", "a+", "b?", "(a|b)", "(ab)*", "(a)?", ".*", "[ab]{1,3}", "(?:b|)", "a{2}", "$"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=12), st.integers(0, 60))
def test_what_is_searched_ends(pieces: list[str], length: int) -> None:
    """Its time is what is tested: a search that runs away would never come back."""
    pattern = "".join(pieces) + "!"
    assert patterns.found(pattern, "a" * length) in (False, None)


def test_a_schema_that_refers_to_itself_ends() -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    assert mismatch({"next": {"next": {}}}, tree) is None
    assert mismatch({"next": {"next": {"x": 1}}}, tree) == 'have "next".next.x, which is not declared'
    assert mismatch({}, {"$ref": "#"}) is None


def test_null_is_what_a_schema_calls_nullable() -> None:
    assert mismatch({"a": None}, {"properties": {"a": {"type": "string", "nullable": True}}}) is None
    assert mismatch({"a": None}, {"properties": {"a": {"type": "string", "nullable": False}}}) is not None


def test_true_is_not_one_and_one_is_one_point_zero() -> None:
    assert mismatch(True, {"enum": [1]}) is not None
    assert mismatch([{"a": 1}], {"const": [{"a": True}]}) is not None
    assert mismatch(1.0, {"const": 1}) is None
