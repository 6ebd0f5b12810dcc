"""YAML and JSON files that people write: catalogs, settings of the server, mixes.

YAML 1.1 reads ``no`` as false, ``0777`` as 511 and ``2024-01-01`` as a date. The places of a file
keep each value as written, for errors about a value that is to be text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from factory.core.text_files import read_text
from osasis.errors import UserError
from osasis.validation import InputModel, InvalidInputError, Problem, shortened

M = TypeVar("M", bound=InputModel)
TAG = "tag:yaml.org,2002:"
READINGS = {
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "timestamp": "a date",
    "null": "no value",
}
NOTE_PREFIX = "x-"
# A file may have more values than MAX_VALUES, but not by way of aliases within aliases: a short
# file of them can stand for billions of values.
MAX_VALUES, MAX_EXPANSION = 1_000_000, 100


class YamlFileError(UserError):
    """A file that cannot be parsed. line: None where it is unknown."""

    def __init__(self, path: str, line: int | None, reason: str, remedy: str) -> None:
        # Exceptions are unpickled from args.
        super().__init__(path, line, reason, remedy)
        self.path, self.line, self.reason, self.remedy = path, line, reason, remedy

    def __str__(self) -> str:
        at = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{at}: {self.reason}; {self.remedy}"


class Place(NamedTuple):
    """Where a value is written.

    text, reading: a value without quotes that the format reads as something other than text, as it
    is written and what it is read as (``READINGS``); otherwise "". language: ``YAML`` or ``JSON``.
    """

    line: int
    text: str = ""
    reading: str = ""
    language: str = "YAML"

    @property
    def is_null_word(self) -> bool:
        """Whether the value is the word ``null`` of YAML: perhaps text without its quotes."""
        return self.language == "YAML" and self.text.lower() == "null"


# Places by field path, such as ``overrides.t0`` and ``tags[1]``; "" is the value itself.
Places = Mapping[str, Place]


class RepeatedKey(NamedTuple):
    """A key that occurs twice in a mapping. first: the line of its first occurrence."""

    name: str
    line: int
    first: int

    @property
    def message(self) -> str:
        return f"field {self.name!r} is repeated (first in line {self.first})"

    @property
    def remedy(self) -> str:
        return "write `<<: [*a, *b]`" if self.name == "<<" else "remove one of them"


@dataclass(frozen=True)
class YamlFile:
    """A parsed file. data: its plain data, without the keys that begin with ``x-``."""

    path: Path
    data: Any
    repeated: tuple[RepeatedKey, ...] = ()
    language: str = "YAML"
    root: yaml.Node | None = field(default=None, repr=False)

    def places(self, levels: int) -> dict[str, Place]:
        """The places of the file's values. levels: maximum depth."""
        return _places(self.root, levels, self.language)

    def item_places(self, name: str, levels: int) -> Iterator[dict[str, Place]]:
        """The places within each item of a list at the top of the file."""
        for key, node in reversed(_pairs(self.root)):
            if key.value == name and isinstance(node, yaml.SequenceNode):
                for item in node.value:
                    yield _places(item, levels, self.language)
                return

    def parse(self, model: type[M], levels: int = 3, required: bool = True) -> M | None:
        """The file's data as a model. Raises InvalidInputError with every problem and its line.

        required: whether fields without a default have to be there; None is returned where one is
        missing and the file is valid otherwise.
        """
        places = self.places(levels)
        problems = [(r.line, Problem(r.name, None, r.message)) for r in self.repeated]
        parsed = None
        try:
            parsed = model.parse(self.data)
        except InvalidInputError as e:
            missing = [n for n in model.model_fields if n not in self.data]
            for problem in e.problems:
                if required or problem.field not in missing:
                    place = place_of(problem.field, places)
                    problems.append((place.line if place else 0, explained(problem, places)))
        if problems:
            located = [
                replace(p, message=f"line {line}: {p.message}") if line else p
                for line, p in sorted(problems, key=lambda found: found[0])
            ]
            raise InvalidInputError(str(self.path), located)
        return parsed


def read_yaml_file(path: Path) -> YamlFile:
    """Read a YAML or JSON file.

    A file that is valid JSON is read as JSON: 1e-5 is a number there, and tabs may indent. Raises
    UserError for a file that cannot be read, YamlFileError for one that cannot be parsed.
    """
    text = read_text(path)
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        try:
            return _json_file(path, text)
        except YamlFileError:
            if path.suffix.lower() == ".json":
                raise
    return _yaml_file(path, text)


def _json_file(path: Path, text: str) -> YamlFile:
    try:
        data = json.loads(text, object_pairs_hook=_without_notes)
    except json.JSONDecodeError as e:
        raise YamlFileError(
            str(path), e.lineno, f"not valid JSON ({e.msg})", "correct this line"
        ) from None
    except (ValueError, RecursionError) as e:
        raise YamlFileError(str(path), None, f"not valid JSON ({e})", "correct it") from None
    try:
        # Only for the lines. A string in JSON has no tabs, so these indent; YAML forbids that.
        root = yaml.compose(text.replace("\t", " "), yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        root = None
    return YamlFile(path, data, tuple(_repeated_keys(root)), "JSON", root)


def _without_notes(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if not key.startswith(NOTE_PREFIX)}


def _yaml_file(path: Path, text: str) -> YamlFile:
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        # Both before construct_document, which moves the keys of `<<` into their mappings.
        _check_aliases(path, root)
        repeated = tuple(_repeated_keys(root))
        data = loader.construct_document(root) if root is not None else None
    except yaml.reader.ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise YamlFileError(
            str(path), line, f"the character {text[e.position]!r} is not allowed", "remove it"
        ) from None
    except yaml.YAMLError as e:
        raise _yaml_error(path, text, e) from None
    except RecursionError:
        raise YamlFileError(
            str(path), None, "not valid YAML (nested too deeply)", "write it flatter"
        ) from None
    return YamlFile(path, data, repeated, root=root)


def _check_aliases(path: Path, root: yaml.Node | None) -> None:
    """Raise YamlFileError where aliases multiply the file's values."""
    values: dict[int, int] = {}

    def count(node: yaml.Node) -> int:
        if id(node) not in values:
            values[id(node)] = 0  # an alias within its own node
            children = node.value if isinstance(node, yaml.CollectionNode) else ()
            if isinstance(node, yaml.MappingNode):
                children = [part for pair in children for part in pair]
            values[id(node)] = 1 + sum(map(count, children))
        return values[id(node)]

    total = count(root) if root is not None else 0
    if total > max(MAX_VALUES, MAX_EXPANSION * len(values)):
        reason = f"its aliases stand for more than {MAX_VALUES:,} values"
        raise YamlFileError(str(path), None, reason, "use no aliases within aliases")


def _yaml_error(path: Path, text: str, error: yaml.YAMLError) -> YamlFileError:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return YamlFileError(str(path), None, f"not valid YAML ({what})", "correct it")
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    remedy = "correct this line"
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in what:
        what, remedy = "a tab", "write spaces instead"
    elif "escape" in what:
        remedy = r"write text with \ in single quotes, or without quotes"
    return YamlFileError(str(path), mark.line + 1, f"not valid YAML ({what})", remedy)


class _Loader(yaml.SafeLoader):
    """Keys are text as written; keys that begin with ``x-`` only hold anchors and notes."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Iterator[dict[str, Any]]:
    data: dict[str, Any] = {}
    yield data  # first, so that an alias within the mapping can name it
    loader.flatten_mapping(node)
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(
                None, None, "a key is a list or mapping; text with { or [ needs quotes",
                key.start_mark,
            )  # fmt: skip
        if not key.value.startswith(NOTE_PREFIX):
            data[key.value] = loader.construct_object(value)


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> Any:
    try:
        return yaml.SafeLoader.yaml_constructors[node.tag](loader, node)
    except (ValueError, OverflowError):  # a date with month 13, a number of 5000 digits
        return node.value


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(node.value)


_Loader.add_constructor(f"{TAG}map", _mapping)
for _name in ("int", "float", "timestamp"):
    _Loader.add_constructor(f"{TAG}{_name}", _scalar)
# `=` and `<<` without quotes have tags of their own, without a constructor.
for _name in ("value", "merge"):
    _Loader.add_constructor(f"{TAG}{_name}", _text)


def place_of(field: str, places: Places) -> Place | None:
    """The place of a field, or of the nearest enclosing field with a known place."""
    while field and field not in places:
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    return places.get(field)


def explained(problem: Problem, places: Places) -> Problem:
    """The problem with its value as written, and with its remedy where the format misread it."""
    place = place_of(problem.field, places)
    if place is None:
        return problem
    if problem.wants == "number" and isinstance(problem.value, str) and _is_float(problem.value):
        number = float(problem.value)
        message = f"{problem.field} is {problem.value}, which is text in {place.language}"
        mantissa, _, exponent = f"{number:e}".partition("e")
        written = f"{float(mantissa)}e{exponent}" if "e" in problem.value.lower() else f"{number}"
        return replace(
            problem, message=message, allowed=f"{problem.allowed}: write {written} without quotes"
        )
    head = f"{problem.field} is {shortened(problem.value)}"
    if not place.reading or not problem.message.startswith(head):
        return problem
    shown = place.text or "empty"
    if problem.wants == "text" and place.text:
        message = f"{problem.field} is {shown}, which is {place.reading} in {place.language}"
        return replace(problem, value=place.text, message=message, allowed="text: put it in quotes")
    return replace(problem, message=f"{problem.field} is {shown}{problem.message[len(head) :]}")


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _places(node: yaml.Node | None, levels: int, language: str, path: str = "") -> dict[str, Place]:
    """levels: maximum depth; with aliases a node can contain itself."""
    if node is None:
        return {}
    found = {path: _place(node, language)}
    if not levels:
        return found
    for key, value in _pairs(node):
        name = f"{path}.{key.value}".removeprefix(".")
        found |= _places(value, levels - 1, language, name)
        found[name] = found[name]._replace(line=key.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            found |= _places(item, levels - 1, language, f"{path}[{i}]")
    return found


def _place(node: yaml.Node, language: str) -> Place:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode) or node.style:
        return Place(line, language=language)
    if language == "JSON":
        reading = {"true": "true or false", "false": "true or false", "null": "no value"}
        return Place(line, node.value, reading.get(node.value, "a number"), language)
    return Place(line, *_reading(node), language)


def _reading(node: yaml.ScalarNode) -> tuple[str, str]:
    reading = READINGS.get(node.tag.removeprefix(TAG), "")
    return (node.value, reading) if reading else ("", "")


def _pairs(node: yaml.Node | None) -> list[Any]:
    """The scalar keys of a mapping and their values, merged ones first."""
    if not isinstance(node, yaml.MappingNode):
        return []
    return [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]


def _repeated_keys(root: yaml.Node | None) -> list[RepeatedKey]:
    """Keys that occur twice in a mapping; the parser takes the last value."""
    found: list[RepeatedKey] = []
    visited: set[int] = set()  # aliases name a node again
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in visited:
            continue
        visited.add(id(node))
        first: dict[str, int] = {}
        for key, value in _pairs(node):
            line = key.start_mark.line + 1
            if key.value in first:
                found.append(RepeatedKey(key.value, line, first[key.value]))
            first.setdefault(key.value, line)
            waiting.append(value)
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
    return sorted(found, key=lambda r: r.line)
