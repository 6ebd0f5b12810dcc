"""The figures of OSASIS's two tables (CVPR 2024, arXiv 2402.17275), beside an evaluation's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SOURCE = "OSASIS, CVPR 2024 (arXiv 2402.17275): FFHQ at 256 px, five styles"
SIZE = 256
# What the published metrics were computed with. The official ArtFID has an Inception of its own,
# trained on art. Identity is printed as a similarity s, and here 1 - s as in `identity`.
BACKBONES = {"artfid": "Inception-v3 (art)", "identity": "ArcFace", "structure": "DINO ViT-B/8"}
# OSASIS's three columns, in the printed order. The first has the figures of TABLE_2 at 0.1.
TABLE_1 = {
    "artfid": (34.89, 43.20, 33.20),
    "identity": (1 - 0.6825, 1 - 0.7323, 1 - 0.7029),
    "structure": (0.0361, 0.0295, 0.0391),
}
# By lambda_SPN, the mix's `structure`.
TABLE_2: dict[float, dict[str, float]] = {
    0: {"artfid": 36.41, "identity": 1 - 0.6595, "structure": 0.0371},
    0.1: {"artfid": 34.89, "identity": 1 - 0.6825, "structure": 0.0361},
    0.5: {"artfid": 36.62, "identity": 1 - 0.7177, "structure": 0.0348},
    1: {"artfid": 43.15, "identity": 1 - 0.7321, "structure": 0.0355},
}
DENSITY = 100


@dataclass(frozen=True)
class Comparison:
    """A row of a published table. ours: value by group of photos, None where not measured."""

    table: int
    row: str
    metric: str
    published: tuple[float, ...]
    ours: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    results: Mapping[str, Mapping[str, Mapping[str, Any]]],
    variants: Sequence[str],
    groups: Sequence[str],
) -> list[Comparison]:
    """The rows of both tables. results: estimates by group, variant and metric."""

    def row(table: int, name: str, variant: str, figures: Mapping[str, Any]) -> list[Comparison]:
        found = []
        for metric, published in figures.items():
            own = {g: results[g].get(variant, {}).get(metric) for g in groups}
            values = {g: None if e is None else e.value for g, e in own.items()}
            printed = published if isinstance(published, tuple) else (published,)
            found.append(Comparison(table, name, metric, printed, values))
        return found

    by_weight = {
        w: v for w in TABLE_2 for v in variants if v in (f"structure={w}", f"structure={float(w)}")
    }
    usual = "ours" if "ours" in variants else by_weight.get(0.1, "")
    rows = row(1, usual or "ours", usual, TABLE_1)
    for weight, figures in TABLE_2.items():
        rows += row(2, f"structure={weight:g}", by_weight.get(weight, ""), figures)
    return rows


def differences(metrics: Sequence[Mapping[str, Any]], size: int) -> list[str]:
    """Why figures are not comparable. metrics: with name and backbone. size: of the base."""
    used = {m["name"]: m["backbone"] for m in metrics}
    found = [
        f"{name} is not comparable: published with {backbone}, here with {used[name]}"
        for name, backbone in BACKBONES.items()
        if name in used and not used[name].startswith(backbone)
    ]
    if size != SIZE:
        found.append(f"no figure is comparable: published at {SIZE} px, here at {size} px")
    return found
