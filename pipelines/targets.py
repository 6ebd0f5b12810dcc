"""The targets of a job: the mixes that photos are stylized with, for all photos or per row."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from factory.core.home import Home
from factory.core.yaml_files import read_yaml_file
from factory.methods import check_mix, read_base_info
from factory.registry import RegistrySnapshot, StyleVersion
from osasis.errors import UserError
from osasis.mix import Mix, StyleShare
from pipelines.job_spec import TargetSpec
from pipelines.manifest import LONGEST_NAME, shortened

MIX_FIELDS = tuple(name for name in Mix.model_fields if name != "styles")
NO_STYLE = "neither the row nor the job (--styles) names a style"
# Columns of a Parquet input that override the job's mix in their row.
ROW_FIELDS = ("style", "styles", "weight", "weights", *MIX_FIELDS)


class Targets:
    """The distinct targets of a job, their style versions, and the common base."""

    def __init__(self, home: Home, default_mask: str | None = None) -> None:
        """default_mask: name of the mask that limits all styles of a mix without masks."""
        self.home, self.default_mask = home, default_mask
        self.registry = RegistrySnapshot(home)
        self.versions: dict[str, StyleVersion] = {}
        self.targets: list[TargetSpec] = []
        self._index: dict[str, int] = {}
        self._references: dict[str, str] = {}
        self.base: Path | None = None
        self._info: dict[str, Any] = {}

    def style(self, reference: str) -> str:
        """Resolve ``a``, ``a@alias`` or ``a:3`` to the style's name.

        Raises UserError for an unknown style, a second version of a style, or another base.
        """
        if reference not in self._references:
            version = self.registry.resolve(reference)
            known = self.versions.get(version.style)
            if known is not None and known.version != version.version:
                raise UserError(
                    f"the same style is named twice: {version.style!r} in versions "
                    f"{known.version} and {version.version}; name one version of it"
                )
            self._check_base(version)
            self.versions[version.style] = version
            self._references[reference] = version.style
        return self._references[reference]

    def adopt(self, version: StyleVersion) -> None:
        """Know a version of another registry by its style's name."""
        self.versions[version.style] = version
        self._references[version.style] = version.style

    def mix(self, shares: list[StyleShare], fields: dict[str, Any]) -> Mix:
        """The checked mix of these styles. Raises UserError."""
        limited = any(s.mask for s in shares)
        styles = [
            s.replace(
                style=self.style(s.style), mask=s.mask if limited else self.default_mask
            ).to_dict()
            for s in shares
        ]
        mix = Mix.parse({"styles": styles, **fields})
        check_mix(mix, self._info)
        if mix.text_edit is not None:
            from factory.methods.text_edits import find_text_edit  # imports torch

            find_text_edit(self.home, mix.text_edit, self._info["fingerprint"])
        return mix

    def add(self, shares: list[StyleShare], fields: dict[str, Any], label: str = "") -> int:
        """The index of the target with this mix, added if it is new. Raises UserError.

        label: folder of a new target's outputs; default: the names of its styles.
        """
        mix = self.mix(shares, fields)
        key = json.dumps(mix.to_dict())
        if key not in self._index:
            self._index[key] = len(self.targets)
            names = "+".join(s.style for s in mix.styles)
            label = label or shortened(names.encode(), LONGEST_NAME).decode()
            self.targets.append(TargetSpec(label=label, mix=mix))
        return self._index[key]

    def _check_base(self, version: StyleVersion) -> None:
        """Check that all styles share one imported base. Raises UserError."""
        if self.base is None:
            self.base = self.home.base_with(version.base)
            if self.base is None:
                raise UserError(
                    f"the base of {version.reference} ({version.base}) is not in "
                    f"{self.home.shared(self.home.bases)}; import it"
                )
            self._info = read_base_info(self.base)
        elif version.base != self._info["fingerprint"]:
            known = [*self.versions.values(), version]
            named = ", ".join(f"{v.reference} on {v.base}" for v in known)
            raise UserError(
                f"these styles belong to different bases; stylize base by base ({named})"
            )


def read_mix_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read mix fields from a JSON or YAML file.

    Raises UserError for a file that cannot be read or parsed, InvalidInputError with every problem
    of its fields and their lines.
    """
    try:
        file = read_yaml_file(Path(path))
    except UserError as e:
        raise UserError(f"--mix-file {e}") from None
    if not isinstance(file.data, dict):
        raise UserError(f'--mix-file {path}: not an object such as {{"strength": 0.8}}')
    file.parse(Mix, required=False)
    return file.data


def common_targets(targets: Targets, styles: list[str], fields: dict[str, Any]) -> list[int]:
    """The targets of photos without their own: one per style, or the blend of ``fields``."""
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
    fields: dict[str, Any],
    columns: dict[str, list[Any]],
    count: int,
) -> tuple[list[list[int]], dict[int, str]]:
    """The targets of each row, and an error message for each row without targets.

    common: the targets of a row without its own values. columns: values by row, which override
    ``fields``; a null keeps the job's value.
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
            seen[key] = _targets_of_row(targets, common, fields, row)
        result = seen[key]
        if isinstance(result, str):
            problems[i] = result
            out.append([])
        else:
            out.append(result)
    return out, problems


def _targets_of_row(
    targets: Targets, common: list[int], fields: dict[str, Any], row: dict[str, Any]
) -> list[int] | str:
    """The targets of a row with these values, or an error message."""
    own = {k: _restore_int(k, row[k]) for k in MIX_FIELDS if k in row}
    named = row.get("style", row.get("styles"))
    weights = row.get("weight", row.get("weights"))
    if not own and named is None:
        return common or NO_STYLE
    merged = {**{k: v for k, v in fields.items() if k != "styles"}, **own}
    try:
        if named is None:
            shares = [list(targets.targets[t].mix.styles) for t in common]
            return [targets.add(s, merged) for s in shares] or NO_STYLE
        return [targets.add(_shares(named, weights), merged)]
    except UserError as e:
        return str(e)


def _shares(named: Any, weights: Any) -> list[StyleShare]:
    """The styles and weights of a row: each a value, a list, or comma-separated text."""
    styles = _as_list(named)
    shares = [1.0] * len(styles) if weights is None else [_as_float(w) for w in _as_list(weights)]
    if len(shares) != len(styles) or not styles:
        raise UserError(f"{len(styles)} style(s) but {len(shares)} weight(s)")
    return [
        StyleShare.parse({"style": str(s), "weight": w}, "mix.styles")
        for s, w in zip(styles, shares, strict=True)
    ]


def _restore_int(field: str, value: Any) -> Any:
    """Convert a float back to int: pandas writes integer columns with nulls as floats."""
    is_int = field in ("content_cutoff", "encode_steps", "decode_steps")
    return int(value) if is_int and isinstance(value, float) and value.is_integer() else value


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"weight {value!r} is not a number") from None
