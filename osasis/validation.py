"""Input validation: frozen pydantic models, and their errors as ``Problem`` objects.

Every user input (mix, settings, catalog entry, configuration) is an ``InputModel``. The ranges and
defaults in its field types are the source of error messages, JSON Schemas and reference pages.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from osasis.errors import UserError, did_you_mean

M = TypeVar("M", bound="InputModel")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
# ``Problem.wants`` by pydantic's error type.
_WANTED = {"string_type": "text", "float_type": "number"}


@dataclass(frozen=True)
class Problem:
    """One validation error.

    field: path of the field, such as ``styles[0].weight``; "" is the whole input. value: the
    invalid value. message: the error, which names field and value. allowed: the allowed values as a
    noun phrase, such as ``a number in [0, 4]``; "" where the message names them. wants: ``text`` or
    ``number`` where the value has another type; otherwise "".
    """

    field: str
    value: Any
    message: str
    allowed: str = ""
    wants: str = ""

    def __str__(self) -> str:
        return f"{self.message}; it must be {self.allowed}" if self.allowed else self.message

    def with_prefix(self, prefix: str) -> Problem:
        """The problem with the field path of an input that is the field ``prefix`` of another."""
        field = _join(prefix, self.field)
        message = self.message
        if self.field and message.startswith(self.field):
            message = field + message[len(self.field) :]
        return replace(self, field=field, message=message)


class InvalidInputError(UserError):
    """An invalid input. subject: its name, such as ``mix``. problems: all of its problems."""

    def __init__(self, subject: str, problems: Iterable[Problem]) -> None:
        self.subject, self.problems = subject, tuple(problems)
        # Exceptions are unpickled from args.
        super().__init__(subject, self.problems)

    def __str__(self) -> str:
        return f"{self.subject}: " + "; ".join(map(str, self.problems))


class InputModel(BaseModel):
    """Base of user inputs: frozen, strict about types, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    # Name of the input in messages.
    subject: ClassVar[str] = "input"

    @classmethod
    def parse(cls: type[M], data: Any, subject: str | None = None) -> M:
        """Build from plain data (JSON, YAML). Raises InvalidInputError with all problems."""
        try:
            return cls.model_validate(data)
        except ValidationError as e:
            raise InvalidInputError(subject or cls.subject, problems_of(cls, e)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``parse``, with lists in place of tuples."""
        return self.model_dump(mode="json")

    def replace(self: M, **changes: Any) -> M:
        """A validated copy with changed fields. Raises InvalidInputError."""
        return self.parse(dict(self) | changes)

    def cross_problems(self) -> list[Problem]:
        """Problems of combinations of fields; subclasses override this."""
        return []

    @model_validator(mode="after")
    def _check_fields_together(self: M) -> M:
        if problems := self.cross_problems():
            text = "; ".join(map(str, problems))
            raise PydanticCustomError("problems", "{text}", {"text": text, "problems": problems})
        return self


def problems_of(model: type[BaseModel], error: ValidationError) -> list[Problem]:
    """The problems in a pydantic error of this model."""
    found: list[Problem] = []
    for e in error.errors(include_url=False):
        loc, kind = e["loc"], e["type"]
        field = _path(loc)
        shown = f"{field or 'the input'} is {shortened(e['input'])}"
        if kind == "problems":
            found += [p.with_prefix(field) for p in e["ctx"]["problems"]]
        elif kind == "extra_forbidden":
            parent = _unwrap(_resolve(model, loc[:-1]))
            known = list(parent.model_fields) if _is_model(parent) else []
            name = str(loc[-1])
            where = f" of {_path(loc[:-1])}" if len(loc) > 1 else ""
            message = f"unknown field {name!r}{where}{did_you_mean(name, known)}"
            found.append(Problem(field, e["input"], message))
        elif kind == "missing":
            message = f"{field} is missing"
            found.append(Problem(field, None, message, allowed(_resolve(model, loc))))
        elif kind == "value_error":  # raised by a validator
            found.append(Problem(field, e["input"], f"{shown}: {e['ctx']['error']}"))
        else:
            wants = _WANTED.get(kind, "")
            nouns = allowed(_resolve(model, loc)) + _decimal_comma(e["input"], wants)
            found.append(Problem(field, e["input"], shown, nouns, wants))
    # pydantic also reports a list with an invalid item as too short.
    return [p for p in found if not any(q.field.startswith(f"{p.field}[") for q in found)]


def _decimal_comma(value: Any, wants: str) -> str:
    """What to write in place of a number with a decimal comma, as many spreadsheets save it."""
    if wants != "number" or not isinstance(value, str) or not _DECIMAL_COMMA.fullmatch(value):
        return ""
    return f": write {value.replace(',', '.')}, with a point"


def allowed(kind: Any, limits: Iterable[Any] = ()) -> str:
    """Allowed values of a type (a FieldInfo or an annotation) in limits, as a noun phrase."""
    if isinstance(kind, FieldInfo):
        kind, limits = kind.annotation, kind.metadata
    limits = _flat(limits)
    while get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        limits += _flat(more)
    if get_origin(kind) in (Union, types.UnionType):
        options = [allowed(a, limits) for a in get_args(kind) if a is not type(None)]
        return " or ".join([*options, *(["null"] if type(None) in get_args(kind) else [])])
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (tuple, list):
        return f"a list{_length(limits)}, each {allowed(get_args(kind)[0])}"
    if _is_model(kind) or get_origin(kind) is dict or kind is dict:
        return "an object"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(kind, "another value") + (
        _length(limits, "characters") if kind is str else _range(limits)
    )


def _flat(limits: Iterable[Any]) -> list[Any]:
    """Limits, including those inside a ``Field``."""
    return [m for x in limits for m in (x.metadata if isinstance(x, FieldInfo) else [x])]


def _length(limits: Iterable[Any], unit: str = "items") -> str:
    least, most = (_bound(limits, name) for name in ("min_length", "max_length"))
    if least and most:
        return f" of {least} to {most} {unit}"
    if least:
        return f" of at least {least} {unit}"
    return f" of at most {most} {unit}" if most else ""


def _range(limits: Iterable[Any]) -> str:
    ge, gt, le, lt = (_bound(limits, name) for name in ("ge", "gt", "le", "lt"))
    if le or lt:
        left = f"[{ge}" if ge else f"({gt or '-inf'}"
        return f" in {left}, " + (f"{le}]" if le else f"{lt})")
    if ge:
        return f" from {ge}"
    return f" above {gt}" if gt else ""


def _bound(limits: Iterable[Any], name: str) -> str:
    """The bound of this name in ``annotated_types`` limits as text; empty without one."""
    values = [getattr(x, name) for x in limits if hasattr(x, name)]
    if not values:
        return ""
    return f"{values[-1]:g}" if isinstance(values[-1], float) else str(values[-1])


def _resolve(model: Any, loc: Iterable[int | str]) -> Any:
    """The FieldInfo, annotation or model at a location in a model."""
    found: Any = model
    for part in loc:
        kind = _unwrap(found)
        if isinstance(part, int):
            found = (get_args(kind) or (None,))[0]
        elif _is_model(kind) and part in kind.model_fields:
            found = kind.model_fields[part]
        elif get_origin(kind) is dict:
            found = get_args(kind)[1]
        else:
            return None
    return found


def _unwrap(kind: Any) -> Any:
    """The type without Annotated and Optional."""
    if isinstance(kind, FieldInfo):
        kind = kind.annotation
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        options = [a for a in get_args(kind) if a is not type(None)]
        return _unwrap(options[0]) if len(options) == 1 else kind
    return kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _path(loc: Iterable[int | str]) -> str:
    """``("styles", 0, "weight")`` as ``styles[0].weight``."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc).removeprefix(".")


def _join(prefix: str, field: str) -> str:
    if not prefix or not field:
        return prefix or field
    return prefix + field if field.startswith("[") else f"{prefix}.{field}"


def shortened(value: Any) -> str:
    """A value as it is written in JSON and YAML, with text in single quotes."""
    text = repr(value)
    if value is None or isinstance(value, bool | dict | list):
        text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
