"""What is made of each photo: the mixes of a job, common to all photos or named by its rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from factory.core.home import Home
from factory.registry import RegistrySnapshot, StyleVersion
from osasis.bundles.base import read_base_info
from osasis.errors import UserError
from osasis.mix import Mix, StyleShare
from osasis.networks.sizes import DiffAEConfig
from pipelines.job_spec import TargetSpec

MIX_FIELDS = tuple(name for name in Mix.model_fields if name != "styles")
# Columns of an input that are read for each row.
ROW_FIELDS = ("style", "styles", "weight", "weights", *MIX_FIELDS)


class Targets:
    """The distinct targets of a job, the style versions they need, and the base they share."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.registry = RegistrySnapshot(home)
        self.versions: dict[str, StyleVersion] = {}
        self.targets: list[TargetSpec] = []
        self._index: dict[str, int] = {}
        self._references: dict[str, str] = {}
        self.base: Path | None = None
        self._info: dict[str, Any] = {}

    def style(self, reference: str) -> str:
        """Resolve ``a``, ``a@alias`` or ``a:3``; returns the style's name. Raises UserError."""
        if reference not in self._references:
            version = self.registry.resolve(reference)
            have = self.versions.get(version.style)
            if have is not None and have.version != version.version:
                raise UserError(
                    f"the same style is named twice: {version.style!r} in versions "
                    f"{have.version} and {version.version}; name one version of it"
                )
            self._check_base(version)
            self.versions[version.style] = version
            self._references[reference] = version.style
        return self._references[reference]

    def add(self, shares: list[StyleShare], fields: dict[str, Any]) -> int:
        """The index of a target; equal ones are one. Raises UserError for a bad mix."""
        named = [s.replace(style=self.style(s.style)) for s in shares]
        styles = [s.to_dict() for s in named]
        mix = Mix.parse({"styles": styles, **fields})
        mix.check_on(DiffAEConfig.parse(self._info["config"]))
        if mix.text_edit is not None:
            from factory.core.text_edits import find_text_edit  # imports torch

            find_text_edit(self.home, mix.text_edit, self._info["fingerprint"])
        key = json.dumps(mix.to_dict())
        if key not in self._index:
            self._index[key] = len(self.targets)
            self.targets.append(TargetSpec(label="+".join(s.style for s in named), mix=mix))
        return self._index[key]

    def _check_base(self, version: StyleVersion) -> None:
        """All styles share one base, which is here. Raises UserError."""
        if self.base is None:
            self.base = self._find_base(version)
            self._info = read_base_info(self.base)
        elif version.base != self._info["fingerprint"]:
            known = [*self.versions.values(), version]
            named = ", ".join(f"{v.reference} on {v.base}" for v in known)
            raise UserError(
                f"these styles belong to different bases; stylize base by base ({named})"
            )

    def _find_base(self, version: StyleVersion) -> Path:
        if (folder := self.home.base_with(version.base)) is not None:
            return folder
        raise UserError(
            f"the base of {version.reference} ({version.base}) is not in {self.home.bases}; "
            "import it"
        )


def read_mix_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A mix from a JSON file. Raises UserError."""
    try:
        data = json.loads(Path(path).read_text())
    except OSError as e:
        raise UserError(f"--mix-file {path}: {(e.strerror or 'cannot be read').lower()}") from None
    except ValueError as e:
        raise UserError(f"--mix-file {path}: not valid JSON ({e})") from None
    if not isinstance(data, dict):
        raise UserError(f'--mix-file {path}: it must hold an object such as {{"strength": 0.8}}')
    return data


def common_targets(targets: Targets, styles: list[str], fields: dict[str, Any]) -> list[int]:
    """The targets of photos that name none: one a style, or the blend that the mix describes."""
    fields = dict(fields)
    blend = fields.pop("styles", None)
    if blend is not None:
        if styles:
            raise UserError("styles are named both by --styles and in the mix; name them once")
        return [targets.add(list(Mix.parse({"styles": blend}).styles), fields)]
    names = [targets.style(s) for s in styles]
    if len(set(names)) < len(names):
        raise UserError("the same style is named twice; name one version of it")
    return [targets.add([StyleShare(style=s)], fields) for s in styles]


def row_targets(
    targets: Targets,
    common: list[int],
    styles: list[str],
    fields: dict[str, Any],
    columns: dict[str, list[Any]],
    count: int,
) -> tuple[list[list[int]], dict[int, str]]:
    """Targets of each row, and what is wrong with the rows that have none.

    A row's own values replace the job's; nulls leave them.
    """
    if not columns:
        return [common] * count, {}
    out: list[list[int]] = []
    problems: dict[int, str] = {}
    seen: dict[str, list[int] | str] = {}
    for i in range(count):
        row = {k: v[i] for k, v in columns.items() if v[i] is not None}
        key = json.dumps(row, sort_keys=True, default=str)
        if key not in seen:
            seen[key] = _row(targets, common, styles, fields, row)
        found = seen[key]
        if isinstance(found, str):
            problems[i] = found
            out.append([])
        else:
            out.append(found)
    return out, problems


def _row(
    targets: Targets,
    common: list[int],
    styles: list[str],
    fields: dict[str, Any],
    row: dict[str, Any],
) -> list[int] | str:
    """The targets of a row with these values, or what is wrong with it."""
    own = {k: _whole(k, row[k]) for k in MIX_FIELDS if k in row}
    named = row.get("style", row.get("styles"))
    weights = row.get("weight", row.get("weights"))
    if not own and named is None:
        return common if common else "names no style, and the job names none (--styles)"
    merged = {**{k: v for k, v in fields.items() if k != "styles"}, **own}
    try:
        if named is None:
            shares = [list(targets.targets[t].mix.styles) for t in common]
            return [targets.add(s, merged) for s in shares] or "names no style"
        return [targets.add(_shares(named, weights), merged)]
    except UserError as e:
        return str(e)


def _shares(named: Any, weights: Any) -> list[StyleShare]:
    """``style`` and ``weight`` of a row: one, a list, or text with commas."""
    styles = _items(named)
    shares = [1.0] * len(styles) if weights is None else [_number(w) for w in _items(weights)]
    if len(shares) != len(styles) or not styles:
        raise UserError(f"{len(styles)} style(s) but {len(shares)} weight(s)")
    return [
        StyleShare.parse({"style": str(s), "weight": w}, "mix.styles")
        for s, w in zip(styles, shares, strict=True)
    ]


def _whole(field: str, value: Any) -> Any:
    """Columns with nulls come as floats, whatever they were."""
    whole = field in ("content_cutoff", "encode_steps", "decode_steps", "seed")
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"weight {value!r} is no number") from None
