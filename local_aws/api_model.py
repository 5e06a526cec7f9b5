"""Check a request against botocore's model of the API, as the service itself would."""

from __future__ import annotations

import functools
import re
from typing import Any

import botocore.session
from botocore.validate import ParamValidator

from local_aws.errors import ApiError, invalid


@functools.cache
def service_model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


def check(service: str, operation: str, request: dict[str, Any]) -> None:
    """Raise ApiError: UnknownOperationException, or ValidationException for a request that breaks the model."""
    model = service_model(service)
    if operation not in model.operation_names:
        raise ApiError("UnknownOperationException", f"{operation} is not an operation of {service}")
    shape = model.operation_model(operation).input_shape
    if shape is None:
        return
    report = ParamValidator().validate(request, shape)
    if report.has_errors():
        raise invalid(f"1 validation error detected: {report.generate_report()}")
    problems = list(_constraints(request, shape, ""))
    if problems:
        count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} detected: "
        raise invalid(count + "; ".join(problems))


def _constraints(value: Any, shape: Any, path: str) -> list[str]:
    """What botocore's own validation leaves to the service: enums, patterns and upper bounds."""
    if shape.type_name == "structure":
        return [
            problem
            for name, member in value.items()
            for problem in _constraints(member, shape.members[name], f"{path}.{_lower(name)}".lstrip("."))
        ]
    if shape.type_name == "list":
        problems = [_size(value, shape, path, "length")] if "max" in shape.metadata else []
        for index, member in enumerate(value, 1):
            problems += _constraints(member, shape.member, f"{path}.{index}.member")
        return [problem for problem in problems if problem]
    if shape.type_name == "map":
        problems = [_size(value, shape, path, "size")] if "max" in shape.metadata else []
        for key, member in value.items():
            problems += _constraints(key, shape.key, path)
            problems += _constraints(member, shape.value, f"{path}.{key}")
        return [problem for problem in problems if problem]
    if shape.type_name == "string":
        return _string(value, shape, path)
    if shape.type_name in ("integer", "long", "float", "double") and value > shape.metadata.get("max", value):
        limit = shape.metadata["max"]
        return [_broken(value, path, f"Member must have value less than or equal to {limit}")]
    return []


def _string(value: str, shape: Any, path: str) -> list[str]:
    if shape.enum and value not in shape.enum:
        return [_broken(value, path, f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")]
    problem = _size(value, shape, path, "length")
    if problem:
        return [problem]
    pattern = shape.metadata.get("pattern")
    if pattern and not _matches(pattern, value):
        return [_broken(value, path, f"Member must satisfy regular expression pattern: {pattern}")]
    return []


def _size(value: Any, shape: Any, path: str, what: str) -> str:
    limit = shape.metadata.get("max")
    if limit is not None and len(value) > limit:
        return _broken(value, path, f"Member must have {what} less than or equal to {limit}")
    return ""


def _matches(pattern: str, value: str) -> bool:
    try:
        return re.fullmatch(_python_pattern(pattern), value) is not None
    except re.error:  # Java's syntax goes further than Python's: such a pattern is not checked
        return True


@functools.cache
def _python_pattern(pattern: str) -> str:
    return pattern.replace("\\p{L}", "\\w").replace("\\p{Z}", "\\s").replace("\\p{N}", "\\d")


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def _broken(value: Any, path: str, constraint: str) -> str:
    return f"Value '{value}' at '{path}' failed to satisfy constraint: {constraint}"
