"""The paper's tables beside an evaluation's results."""

from __future__ import annotations

from pathlib import Path

import pytest

from osasis.evaluation.intervals import Estimate
from pipelines.evaluation_result import HIGH, LOW, EvaluationResult
from pipelines.published import TABLE_2, compare, differences

METRICS = (
    {"name": "artfid", "backbone": "Inception-v3 (FID), LPIPS AlexNet", "lower_better": True},
    {"name": "identity", "backbone": "ArcFace IResNet-100", "lower_better": True},
    {"name": "structure", "backbone": "VGG16", "lower_better": True},
)


def estimates(**values: float) -> dict[str, Estimate]:
    return {name: Estimate(value, None, None, 5, 0) for name, value in values.items()}


def result(variants: tuple[str, ...], *groups: str) -> EvaluationResult:
    results = {
        group: {v: estimates(identity=0.1 * (i + 1), structure=0.03) for v in variants}
        for i, group in enumerate(("oil", *groups))
    }
    return EvaluationResult(
        10, {"oil": "oil:1"}, variants, METRICS, results, Path("out"), facts={"size": 64}
    )


def test_rows_have_the_published_figures_and_those_of_the_variant_with_the_same_weight() -> None:
    found = result(("structure=0.1", "structure=1.0"), LOW, HIGH)
    rows = compare(found.results, found.variants, (LOW, HIGH))
    assert len(rows) == 3 * (1 + len(TABLE_2))
    by_key = {(r.table, r.row, r.metric): r for r in rows}
    first = by_key[1, "structure=0.1", "identity"]
    assert first.published == pytest.approx((0.3175, 0.2677, 0.2971))
    assert first.ours == pytest.approx({LOW: 0.2, HIGH: 0.3})
    assert by_key[2, "structure=0.1", "artfid"].published == (34.89,)
    assert by_key[2, "structure=0.1", "artfid"].ours == {LOW: None, HIGH: None}
    assert by_key[2, "structure=1", "structure"].ours == {LOW: 0.03, HIGH: 0.03}
    assert by_key[2, "structure=0.5", "structure"].ours == {LOW: None, HIGH: None}
    # Table 1 and the row of lambda 0.1 in Table 2 agree in the first column.
    for metric, value in TABLE_2[0.1].items():
        assert by_key[1, "structure=0.1", metric].published[0] == value
    alone = compare(result(("ours",), LOW).results, ("ours",), (LOW,))
    assert alone[1].row == "ours" and alone[1].ours == pytest.approx({LOW: 0.2})


def test_other_backbones_and_sizes_are_named() -> None:
    artfid, structure, size = differences(METRICS, 64)
    assert artfid == ("artfid is not comparable: published with Inception-v3 (art), here with "
                      "Inception-v3 (FID), LPIPS AlexNet")  # fmt: skip
    assert structure.endswith("published with DINO ViT-B/8, here with VGG16")
    assert "at 256 px, here at 64 px" in size
    assert len(differences(METRICS, 256)) == 2


def test_text_and_document_show_the_tables_with_density_only() -> None:
    plain = result(("ours",))
    assert plain.published_table() == "" and plain.to_dict()["published"] == {}
    found = result(("structure=0", "structure=0.1"), LOW, HIGH)
    lines = [" ".join(line.split()) for line in found.published_table().splitlines()]
    assert "table 2, structure=0.1 published low density high density" in lines
    assert "identity 0.3175 / 0.2677 / 0.2971 0.200 0.300" in lines
    assert "identity 0.2679 - -" in lines  # structure=1 is not a variant
    document = found.to_dict()["published"]
    assert len(document["rows"]) == 15 and len(document["differences"]) == 3
