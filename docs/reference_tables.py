"""Markdown tables of the generated reference pages, from the fields of pydantic models."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


def fields_table(model: type[BaseModel], head: str, prefix: str = "") -> str:
    """A table of a model's fields: name, allowed values, default, description."""
    rows = [
        (f"`{prefix}{name}`", limits(field), default(field), field.description or "")
        for name, field in model.model_fields.items()
    ]
    return table((head, "allowed", "default", "meaning"), rows)


def limits(field: FieldInfo) -> str:
    """The allowed values of a field, in the words of the validation's messages."""
    from osasis.validation import allowed

    return allowed(field).replace(" or null", ", or `null`")


def default(field: FieldInfo) -> str:
    """A field's default as code, or "required"."""
    value = field.get_default(call_default_factory=True)
    return "required" if value is PydanticUndefined else code(value)


def code(value: Any) -> str:
    """A value as JSON between backticks."""
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, tuple):
        value = list(value)
    return f"`{json.dumps(value, default=str)}`"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; vertical bars in cells are escaped, and line breaks become spaces."""
    head = list(head)
    cells = [[one_line(c).replace("|", "\\|") for c in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def one_line(text: str | None) -> str:
    """The text with every run of white space as one space; "" for None."""
    return " ".join((text or "").split())
