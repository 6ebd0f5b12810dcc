"""Errors that a client reads: a status and a JSON body that names field, value and limit."""

from __future__ import annotations

from typing import Any

from osasis.validation import InvalidInputError


class ApiError(Exception):
    """An answer other than success.

    status: of HTTP. field: what was wrong, as a path such as ``mix.styles[0].weight``. value:
    what was found. allowed: what there may be. retry_after: seconds, for 429 and 503.
    errors: all problems where there are several.
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
    """422 with every problem of an input. prefix: the field that the input is in the request."""
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
    """A value short enough to send back, and valid JSON."""
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 120 else text[:117] + "..."
