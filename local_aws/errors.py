"""Errors as an AWS JSON API answers them."""

from __future__ import annotations

import json
from typing import Any

JSON_CONTENT_TYPE = "application/x-amz-json-1.1"
Response = tuple[int, dict[str, str], bytes]


class ApiError(Exception):
    """An error of a service, named as its API model names it."""

    def __init__(self, code: str, message: str, status: int = 400, **members: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.members = code, message, status, members

    def response(self) -> Response:
        body = {"__type": self.code, "message": self.message, "Message": self.message, **self.members}
        headers = {"Content-Type": JSON_CONTENT_TYPE, "x-amzn-errortype": self.code}
        return self.status, headers, json.dumps(body).encode()


def invalid(message: str) -> ApiError:
    return ApiError("ValidationException", message)


def json_answer(body: dict[str, Any] | None) -> Response:
    return 200, {"Content-Type": JSON_CONTENT_TYPE}, json.dumps(body or {}, default=_seconds).encode()


def _seconds(value: Any) -> float:
    """The JSON protocol writes a timestamp as seconds since 1970."""
    return float(value.timestamp())
