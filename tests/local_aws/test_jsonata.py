"""JSONata with Step Functions' functions, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from local_aws.jsonata import UndefinedError, evaluate


@pytest.mark.parametrize(
    ("expression", "bindings", "value"),
    [
        ("$n + 1", {"n": 1}, 2),
        ("$n / 2", {"n": 4}, 2),
        ("$n / 2", {"n": 3}, 1.5),
        ("$x", {"x": None}, None),
        ("$x = null", {"x": None}, True),
        ("$exists($x)", {"x": None}, True),
        ("$x.a", {"x": {"a": None}}, None),
        ("{'a': $x}", {"x": None}, {"a": None}),
        ("[$x[a = 1]]", {"x": [{"a": 1}]}, [{"a": 1}]),
        ("$x", {"x": []}, []),
        ("$text & '!'", {"text": 'a "quote"\n'}, 'a "quote"\n!'),
        ("$parse('{\"a\": null}')", {}, {"a": None}),
        ("$partition([1..5], 2)", {}, [[1, 2], [3, 4], [5]]),
        ("$range(10, 0, -5)", {}, [10, 5, 0]),
        ("$hash('abc', 'MD5')", {}, "900150983cd24fb0d6963f7d28e17f72"),
        ("$random(7) = $random(7)", {}, True),
        ("$states.input.a", {"states": {"input": {"a": 1}}}, 1),
    ],
)
def test_values(expression: str, bindings: dict[str, Any], value: Any) -> None:
    result = evaluate(expression, bindings)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("expression", ["$missing", "$x.missing", "$x[0]", "$max([])"])
def test_nothing_is_not_null(expression: str) -> None:
    with pytest.raises(UndefinedError):
        evaluate(expression, {"x": []})


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("$eval('1')", r"\$eval is not available"),
        ("$hash('a', 'CRC')", "'CRC' is not one of MD5, SHA-1"),
        ("$partition([1], 0)", "at least 1"),
        ("$range(0, 5000, 1)", "more than 1000 values"),
        ("$range(0, 1, 0)", "step must not be 0"),
        ("function($x) { $x }", "is not supported"),
        ("1 +", "Unexpected end of expression"),
    ],
)
def test_errors(expression: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        evaluate(expression, {})
