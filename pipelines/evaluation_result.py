"""The result of an evaluation: estimates per style, variant and metric; JSON and text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines import published

if TYPE_CHECKING:
    from osasis.evaluation.intervals import Estimate
    from osasis.evaluation.metric import Metric

ALL = "all styles"
# Groups of photos by density.
LOW, HIGH = "low density", "high density"
DOCUMENT, GRID = "evaluation.json", "evaluation.png"
# style or ALL -> variant -> metric -> estimate
Results = dict[str, dict[str, dict[str, "Estimate"]]]


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation.

    styles: references by name. metrics: name, lower_better, backbone and source of each.
    unavailable: reasons by name of metrics that were not measured. failed: measurements that
    failed, by reason. errors: pictures that the corpus job could not make. gate: by style, why it
    misses the gate's conditions. registered: versions in whose run the results are logged.
    stopped: why some pictures are missing, or "".
    """

    photos: int
    styles: dict[str, str]
    variants: tuple[str, ...]
    metrics: tuple[dict[str, Any], ...]
    results: Results
    output: str
    facts: dict[str, Any] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    failed: dict[str, int] = field(default_factory=dict)
    errors: tuple[dict[str, str], ...] = ()
    gate: dict[str, tuple[str, ...]] = field(default_factory=dict)
    registered: tuple[str, ...] = ()
    stopped: str = ""

    @property
    def measured(self) -> bool:
        """Whether every picture was made and measured."""
        return not (self.errors or self.failed or self.stopped)

    @property
    def complete(self) -> bool:
        """Whether everything was measured and every style meets the gate."""
        return self.measured and not any(self.gate.values())

    def to_dict(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        return {
            **self.facts,
            "photos": self.photos,
            "styles": self.styles,
            "variants": list(self.variants),
            "metrics": list(self.metrics),
            "results": {
                style: {
                    variant: {name: e.to_dict() for name, e in estimates.items()}
                    for variant, estimates in variants.items()
                }
                for style, variants in self.results.items()
            },
            "published": self.published(),
            "unavailable": self.unavailable,
            "warnings": list(self.warnings),
            "failed": self.failed,
            "errors": list(self.errors),
            "gate": {style: list(reasons) for style, reasons in self.gate.items()},
            "registered": list(self.registered),
            "stopped": self.stopped,
            "output": self.output,
        }

    def published(self) -> dict[str, Any]:
        """The paper's tables beside this result; {} without groups by density."""
        if LOW not in self.results:
            return {}
        rows = published.compare(self.results, self.variants, (LOW, HIGH))
        return {
            "source": published.SOURCE,
            "backbones": published.BACKBONES,
            "differences": published.differences(self.metrics, self.facts["size"]),
            "rows": [row.to_dict() for row in rows],
        }

    def of_style(self, style: str, own: str) -> dict[str, Any]:
        """The part of ``to_dict`` that concerns one style, for its version in the registry.

        own: the variant with the style's own settings.
        """
        document = self.to_dict()
        kept = (*self.facts, "photos", "variants", "metrics", "warnings")
        found = {"style": self.styles[style], "own": own, **{k: document[k] for k in kept}}
        return {**found, "results": document["results"][style]}

    def table(self) -> str:
        """The estimates as text: a block per style, a row per metric, a column per variant."""
        lines: list[list[str]] = []
        for style, variants in self.results.items():
            lines += [[], [self.styles.get(style, style), "better", *self.variants]]
            for metric in self.metrics:
                name = metric["name"]
                cells = [cell(variants[v].get(name)) for v in self.variants]
                if any(c != "-" for c in cells):
                    better = "lower" if metric["lower_better"] else "higher"
                    lines.append([f"  {name}", better, *cells])
        return aligned(lines[1:])

    def published_table(self) -> str:
        """``published`` as text; "" without groups by density."""
        if not (document := self.published()):
            return ""
        lines = []
        for row in document["rows"]:
            head = [f"table {row['table']}, {row['row']}", "published", LOW, HIGH]
            if row["metric"] == next(iter(published.BACKBONES)):
                lines += [[], head]
            ours = ["-" if row["ours"][g] is None else number(row["ours"][g]) for g in (LOW, HIGH)]
            figures = " / ".join(f"{value:g}" for value in row["published"])
            lines.append([f"  {row['metric']}", figures, *ours])
        notes = [document["source"], "identity as 1 - similarity", *document["differences"]]
        return "\n".join([*notes, aligned(lines)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as lines with aligned columns; an empty row is an empty line."""
    count = max(map(len, rows))
    widths = [max((len(row[k]) for row in rows if len(row) > k), default=0) for k in range(count)]
    return "\n".join(
        "  ".join(f"{text:<{w}}" for text, w in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def cell(estimate: Estimate | None) -> str:
    """``value [low, high]``; ``-`` without a value."""
    if estimate is None or estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def number(value: float) -> str:
    """Three decimals; small and large values with three digits."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 100 else f"{value:.3g}"


def estimate_all(
    rows: Sequence[Mapping[str, Any]],
    metrics: Sequence[Metric],
    styles: Sequence[str],
    variants: Sequence[str],
    seed: int,
    groups: Mapping[str, Collection[int]] | None = None,
) -> Results:
    """Estimates of the rows of measurements without a reason, per style and over all styles.

    groups: sets of photos whose estimates over all styles are added, by name.
    """
    from osasis.evaluation.intervals import estimate

    kept: dict[tuple[str, str, str], list[tuple[int, list[float] | None]]] = {}
    for row in rows:
        if not row["reason"]:
            key = (row["style"], row["variant"], row["metric"])
            kept.setdefault(key, []).append((row["photo"], row["values"]))

    def of(
        names: Sequence[str], variant: str, group: Collection[int] | None = None
    ) -> dict[str, Estimate]:
        found = {}
        for metric in metrics:
            known = [
                row
                for n in names
                for row in kept.get((n, variant, metric.name), [])
                if group is None or row[0] in group
            ]
            if known:
                photos, values = zip(*known, strict=True)
                found[metric.name] = estimate(metric, photos, values, seed=seed)
        return found

    results = {s: {v: of([s], v) for v in variants} for s in styles}
    if len(styles) > 1:
        results[ALL] = {v: of(styles, v) for v in variants}
    for name, group in (groups or {}).items():
        results[name] = {v: of(styles, v, group) for v in variants}
    return results
