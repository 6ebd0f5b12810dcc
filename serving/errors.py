"""HTTP errors: a status and a JSON body that names field, value and limit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from osasis.validation import InvalidInputError

# Characters of a value or field in an answer, and problems that are listed.
MAX_SHOWN = 120
MAX_ROWS = 50


class ApiError(Exception):
    """An HTTP error answer.

    field: path of the wrong field, such as ``mix.styles[0].weight``. value: the value found.
    allowed: the allowed values. retry_after: seconds, for 429 and 503. errors: every problem of an
    input.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        value: Any = None,
        allowed: Any = None,
        retry_after: int | None = None,
        errors: list[dict[str, Any]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field
        self.value, self.allowed, self.retry_after = value, allowed, retry_after
        self.errors, self.headers = errors, dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def body(self) -> dict[str, Any]:
        error: dict[str, Any] = {"status": self.status, "message": cut(self.message)}
        for name in ("field", "value", "allowed", "retry_after", "errors"):
            if (value := getattr(self, name)) is not None:
                error[name] = shown(value) if name == "value" else value
        if self.field is not None:
            error["field"] = cut(self.field, MAX_SHOWN)
        return {"error": error}


def invalid(error: InvalidInputError, prefix: str = "") -> ApiError:
    """A 422 with every problem of an input. prefix: path of the input in the request."""
    problems = [p.with_prefix(prefix) for p in error.problems]
    rows = [
        {
            "field": cut(p.field, MAX_SHOWN),
            "message": cut(str(p)),
            **({"value": shown(p.value)} if p.value is not None else {}),
            **({"allowed": p.allowed} if p.allowed else {}),
        }
        for p in problems[:MAX_ROWS]
    ]
    first = problems[0]
    return ApiError(422, str(first), field=first.field, value=first.value,
                    allowed=first.allowed or None, errors=rows)  # fmt: skip


def parameter_error(problem: Mapping[str, Any]) -> ApiError:
    """The 422 of a path or query parameter, from pydantic's error."""
    field = ".".join(str(part) for part in problem["loc"][1:])
    kind, facts = problem["type"], problem.get("ctx", {})
    allowed = {
        "int_parsing": "a whole number",
        "greater_than_equal": f"a number from {facts.get('ge')}",
        "less_than_equal": f"a number of at most {facts.get('le')}",
        "literal_error": f"one of {facts.get('expected')}",
        "string_too_long": f"at most {facts.get('max_length')} characters",
        "too_long": f"at most {facts.get('max_length')} values",
        "missing": "given",
    }.get(kind, "another value")
    value = shown(problem.get("input"))
    return ApiError(422, f"{field} is {value!r}; it must be {allowed}", field=field, value=value,
                    allowed=allowed)  # fmt: skip


def cut(text: str, most: int = 500) -> str:
    """The text, shortened where it is long."""
    return text if len(text) <= most else text[: most - 3] + "..."


def shown(value: Any) -> Any:
    """The value as valid JSON of at most 120 characters, for error answers."""
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return cut(text.encode("utf-8", "backslashreplace").decode(), MAX_SHOWN)
