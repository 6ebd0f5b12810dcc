"""Evaluations of styles of several bases, such as those of two methods, side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory.core.home import Home
from factory.registry import RegistrySnapshot
from osasis.storage import json_bytes
from pipelines.evaluation import evaluate, output_store
from pipelines.evaluation_result import ALL, DOCUMENT, EvaluationResult, aligned, cell


@dataclass(frozen=True)
class Comparison:
    """Evaluations on the same photos, by the name of the base."""

    evaluations: Mapping[str, EvaluationResult]

    @property
    def complete(self) -> bool:
        return all(result.complete for result in self.evaluations.values())

    def to_dict(self) -> dict[str, Any]:
        return {"bases": {name: result.to_dict() for name, result in self.evaluations.items()}}

    def table(self) -> str:
        """The estimates over all styles as text: a row per metric, a column per base and variant.

        Values of different backbones cannot be compared; their rows say so.
        """
        columns = [(base, v) for base, result in self.evaluations.items() for v in result.variants]
        lines = [[ALL, "better", *(f"{base}, {variant}" for base, variant in columns)]]
        known = [{m["name"]: m for m in r.metrics} for r in self.evaluations.values()]
        for name, metric in known[0].items():
            if any(name not in k or k[name]["backbone"] != metric["backbone"] for k in known):
                lines.append([f"  {name}", "not compared: measured with different networks"])
                continue
            found = [_overall(self.evaluations[base])[v].get(name) for base, v in columns]
            better = "lower" if metric["lower_better"] else "higher"
            lines.append([f"  {name}", better, *map(cell, found)])
        return aligned(lines)


def _overall(result: EvaluationResult) -> dict[str, Any]:
    """The estimates over all styles, by variant."""
    return result.results.get(ALL) or next(iter(result.results.values()))


def evaluate_bases(
    styles: Sequence[str],
    photos: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    home: Home,
    **options: Any,
) -> EvaluationResult | Comparison:
    """``evaluate``; for styles of several bases once for each, below OUTPUT/BASE.

    options: of ``evaluate``. Raises UserError.
    """
    registry = RegistrySnapshot(home)
    by_base: dict[str, list[str]] = {}
    for reference in styles:
        fingerprint = registry.resolve(reference).base
        folder = home.base_with(fingerprint)
        # ``evaluate`` refuses a style whose base is missing.
        name = fingerprint if folder is None else folder.name
        by_base.setdefault(name, []).append(reference)
    if len(by_base) < 2:
        return evaluate(styles, photos, output, home=home, **options)
    place = None if output is None else output_store(output)
    evaluations = {}
    for name, of_base in by_base.items():
        of_output = None if place is None else place.within(name).location
        evaluations[name] = evaluate(of_base, photos, of_output, home=home, **options)
    comparison = Comparison(evaluations)
    if place is not None:
        place.write(DOCUMENT, json_bytes(comparison.to_dict()))
    return comparison
