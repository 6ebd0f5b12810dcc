"""The catalog: the style images to train, checked before anything runs."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from factory.bases import NAME
from osasis.errors import UserError
from osasis.images import IMAGE_SUFFIXES, find_images
from osasis.settings import TrainSettings, did_you_mean, make_settings


@dataclass(frozen=True)
class CatalogEntry:
    """One style to train. overrides: training settings that differ from the run's."""

    id: str
    image: Path
    counterpart: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    licence: str = ""
    where: str = ""

    def settings(self, preset: str, overrides: dict[str, Any]) -> TrainSettings:
        return _settings(preset, {**overrides, **self.overrides})


FIELDS = {f.name for f in dataclasses.fields(CatalogEntry)} - {"where"}


def load_catalog(path: Path, preset: str, overrides: dict[str, Any]) -> list[CatalogEntry]:
    """Read a catalog: a YAML file, a folder of images (the file's stem is the id), or one image.

    YAML: ``styles:`` with a list of entries (id, image, and optionally counterpart, overrides,
    tags, licence); image paths are relative to the file. Raises UserError with every problem, a
    line each. Whether an image can be decoded is found out when its style is trained: one broken
    image fails one style.
    """
    _settings(preset, overrides)  # what is wrong for the whole run is said once
    if path.is_dir():
        entries = [_from_file(p) for p in find_images(path)]
        problems: list[str] = []
    elif path.suffix.lower() in (".yaml", ".yml"):
        entries, problems = _from_yaml(path)
    elif path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        entries, problems = [_from_file(path)], []
    else:
        raise UserError(f"{path}: no such catalog (a YAML file, a folder of images, or an image)")
    problems += _check(entries, preset, overrides)
    if problems:
        raise UserError(f"{path}: {len(problems)} problem(s)\n  " + "\n  ".join(problems))
    return entries


def _settings(preset: str, overrides: dict[str, Any]) -> TrainSettings:
    if "preset" in overrides:
        raise UserError("settings: 'preset' is not a setting; choose one for the run (--preset)")
    # YAML's keys need not be words.
    return make_settings(preset, **{str(k): v for k, v in overrides.items()})


def _from_file(path: Path) -> CatalogEntry:
    # A stem such as "Oil (dark)" becomes a usable id.
    slug = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")
    if not slug:
        slug = "style-" + hashlib.sha256(path.stem.encode()).hexdigest()[:8]
    return CatalogEntry(slug[:63], path, where=path.name)


def _from_yaml(path: Path) -> tuple[list[CatalogEntry], list[str]]:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"))
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}:{line} not valid YAML ({getattr(e, 'problem', e)})") from None
    if not isinstance(data, dict) or not isinstance(data.get("styles"), list):
        raise UserError(f"{path}: needs a list under 'styles:'")
    lines = _entry_lines(node)
    entries, problems = [], []
    for i, item in enumerate(data["styles"]):
        where = f"line {lines[i]}" if i < len(lines) else f"entry {i + 1}"
        entry, wrong = _entry(item, path.parent, where)
        problems += [f"{where}: {w}" for w in wrong]
        if entry is not None:
            entries.append(entry)
    return entries, problems


def _entry(item: Any, folder: Path, where: str) -> tuple[CatalogEntry | None, list[str]]:
    if not isinstance(item, dict):
        return None, ["an entry must be a mapping with at least 'image'"]
    wrong = [f"unknown field {k!r}{did_you_mean(str(k), FIELDS)}" for k in item if k not in FIELDS]
    if not isinstance(item.get("image"), str):
        return None, [*wrong, "image is missing"]
    image = folder / item["image"]
    overrides, tags = item.get("overrides") or {}, item.get("tags") or []
    if not isinstance(overrides, dict):
        wrong.append("overrides must be a mapping of training settings")
        overrides = {}
    if not isinstance(tags, list) or not all(isinstance(t, str) for t in tags):
        wrong.append("tags must be a list of words")
        tags = []
    counterpart = item.get("counterpart")
    if not isinstance(counterpart, (str, type(None))):
        wrong.append("counterpart must be a path")
    entry = CatalogEntry(
        id=str(item["id"]) if "id" in item else _from_file(image).id,
        image=image,
        counterpart=folder / counterpart if isinstance(counterpart, str) else None,
        overrides=overrides,
        tags=tuple(tags),
        licence=str(item.get("licence") or ""),
        where=where,
    )
    return entry, wrong


def _entry_lines(node: Any) -> list[int]:
    for key, value in getattr(node, "value", []):
        if key.value == "styles":
            return [child.start_mark.line + 1 for child in value.value]
    return []


def _check(entries: list[CatalogEntry], preset: str, overrides: dict[str, Any]) -> list[str]:
    problems = []
    seen: dict[str, str] = {}
    for entry in entries:
        if not NAME.fullmatch(entry.id):
            problems.append(
                f"{entry.where}: id {entry.id!r}: use 1 to 63 of a-z, 0-9, '.', '-', '_', a letter "
                "or digit first"
            )
        if entry.id in seen:
            problems.append(f"{entry.where}: id {entry.id!r} is already used by {seen[entry.id]}")
        seen.setdefault(entry.id, entry.where)
        for what, path in (("image", entry.image), ("counterpart", entry.counterpart)):
            if path is not None and not path.is_file():
                problems.append(f"{entry.where}: {what} {path} does not exist")
        try:
            entry.settings(preset, overrides)
        except UserError as e:
            problems.append(f"{entry.where}: {e}")
    if not entries:
        problems.append("the catalog is empty")
    return problems
