"""Plans of styles that an evaluation trains again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from factory.core.home import Home
from factory.registry import RegistrySnapshot, StyleVersion
from osasis.bundles.style import load_style
from osasis.errors import UserError
from osasis.validation import InvalidInputError
from pipelines import evaluate
from pipelines.retraining import Retraining, plan_retrainings
from pipelines.variants import make_variants
from tests.tiny import picture


def never(home: Home, base: str, planned: Sequence[Retraining]) -> Mapping[str, StyleVersion]:
    raise AssertionError("a plan trains nothing")


@pytest.fixture(scope="module")
def versions(gallery: Home) -> dict[str, StyleVersion]:
    registry = RegistrySnapshot(gallery)
    return {name: registry.get(name) for name in ("oil", "ink")}


def test_a_plan_has_the_styles_settings_with_the_change(versions: dict[str, StyleVersion]) -> None:
    variants = make_variants({}, [("in_domain", [0, 0.5]), ("counterpart_steps", [20])],
                             ["no-in-domain", "reinhard"])  # fmt: skip
    planned = plan_retrainings(versions, variants, never)
    assert [(p.version.style, p.variant.name) for p in planned] == [
        (style, name) for style in ("oil", "ink")
        for name in ("in_domain=0", "in_domain=0.5", "counterpart_steps=20", "no-in-domain")
    ]  # fmt: skip
    own = load_style(versions["oil"].folder()).settings
    assert planned[0].settings == own.replace(in_domain=0)
    # The counterpart is made again where its settings change.
    assert [p.given_counterpart for p in planned[:4]] == [True, True, False, True]
    ids = [p.id for p in planned]
    assert ids[0] == ids[3] and ids[0].startswith("oil-in_domain-0.0-")
    assert len(set(ids)) == 6


def test_the_problems_of_all_settings_are_reported(versions: dict[str, StyleVersion]) -> None:
    variants = make_variants({}, [("in_domain", [-1]), ("iterations", ["many", 8])], [])
    with pytest.raises(InvalidInputError) as error:
        plan_retrainings(versions, variants, never)
    assert [p.field for p in error.value.problems] == ["in_domain", "iterations"]


def test_without_a_trainer_the_error_names_it(versions: dict[str, StyleVersion]) -> None:
    variants = make_variants({}, [], ["no-in-domain"])
    with pytest.raises(UserError, match=r"no-in-domain .* retrain=factory\.cli\.retrain\.retrain"):
        plan_retrainings(versions, variants, None)
    assert plan_retrainings(versions, make_variants({}, [], ["no-spn"]), None) == []


def test_styles_are_not_trained_again_in_a_store(gallery: Home, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "0.png")
    with pytest.raises(UserError, match="only with a home and an output in a folder"):
        evaluate(
            ["oil"], tmp_path, "s3://bucket/out", home=gallery, metrics=["lpips"],
            sweeps=[("iterations", [1, 2])], retrain=never,
        )  # fmt: skip
