"""HTTP errors: a status and a JSON body that names field, value and limit."""

from __future__ import annotations

from typing import Any

from osasis.validation import InvalidInputError


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
        error: dict[str, Any] = {"status": self.status, "message": self.message}
        for name in ("field", "value", "allowed", "retry_after", "errors"):
            if (value := getattr(self, name)) is not None:
                error[name] = value if name != "value" else shown(value)
        return {"error": error}


def invalid(error: InvalidInputError, prefix: str = "") -> ApiError:
    """A 422 with every problem of an input. prefix: path of the input in the request."""
    problems = [p.with_prefix(prefix) for p in error.problems]
    rows = [
        {
            "field": p.field,
            "message": str(p),
            **({"value": shown(p.value)} if p.value is not None else {}),
            **({"allowed": p.allowed} if p.allowed else {}),
        }
        for p in problems
    ]
    first = problems[0]
    return ApiError(422, str(first), field=first.field, value=first.value,
                    allowed=first.allowed or None, errors=rows)  # fmt: skip


def shown(value: Any) -> Any:
    """The value as valid JSON of at most 120 characters, for error answers."""
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 120 else text[:117] + "..."
