"""Training one style: resuming bit for bit, seeds, divergence; settings and presets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from osasis.bundles.base import Base
from osasis.contents import ContentBank, Contents
from osasis.encode import EncodePlan, encode
from osasis.errors import DivergedError, UserError
from osasis.losses import LOSS_NAMES
from osasis.mix import Mix
from osasis.networks.adapters import LowRank, merged_weights
from osasis.settings import PRESETS, TrainSettings, make_settings
from osasis.storage import save_tensors
from osasis.stylize import decode
from osasis.train import StyleTrainer
from osasis.validation import InvalidInputError, Problem

Trainers = Callable[..., StyleTrainer]


def parameters(trainer: StyleTrainer) -> dict[str, Tensor]:
    return {
        f"{name}.{k}": p.detach().clone()
        for name, module in (("unet", trainer.unet), ("spn", trainer.spn))
        for k, p in module.named_parameters()
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert set(a) == set(b)
    return all(torch.equal(a[k], b[k]) for k in a)


def run(trainer: StyleTrainer, iterations: int) -> StyleTrainer:
    for _ in range(iterations):
        trainer.step()
    return trainer


def through_files(trainer: StyleTrainer, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    save_tensors(folder / "state.safetensors", trainer.state_tensors())
    (folder / "state.json").write_text(json.dumps(trainer.state_info()))
    return load_file(folder / "state.safetensors"), json.loads((folder / "state.json").read_text())


@pytest.mark.parametrize(
    ("changed", "killed_after"),
    [({}, 0), ({}, 1), ({}, 2), ({"spn_weight": 0.0}, 1), ({"adapter": "lora"}, 2)],
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    tiny_trainer: Trainers, tmp_path: Path, changed: dict[str, Any], killed_after: int
) -> None:
    settings = {"dropout": 0.1, "iterations": 3, "lr_decay": 0.8, **changed}
    whole = run(tiny_trainer(**settings), 3)
    state = through_files(run(tiny_trainer(**settings), killed_after), tmp_path)
    torch.rand(7)  # another process has another state of the global generator
    resumed = tiny_trainer(**settings)
    resumed.load_state(*state)
    assert resumed.iteration == killed_after == len(resumed.history)
    run(resumed, 3 - killed_after)
    assert same(parameters(resumed), parameters(whole))
    assert same(resumed.state_tensors(), whole.state_tensors())
    assert resumed.history == whole.history and len(whole.history) == 3


def test_learning_rates_fall_over_the_last_share(tiny_trainer: Trainers) -> None:
    trainer = tiny_trainer(iterations=4, lr_unet=0.01, lr_spn=0.1, lr_decay=0.5)
    steps = trainer.objective.denoising_steps
    seen: list[float] = []
    for name in ("unet", "spn"):
        step = trainer.optimisers[name].step
        group = trainer.optimisers[name].param_groups[0]

        def noted(step: Any = step, group: Any = group) -> None:
            seen.append(group["lr"])
            step()

        trainer.optimisers[name].step = noted  # type: ignore[method-assign]
    run(trainer, 4)
    half = 2 * steps
    expected = [1.0] * half + [(half - k) / half for k in range(half)]
    assert seen[::2] == pytest.approx([0.01 * e for e in expected])
    assert seen[1::2] == pytest.approx([0.1 * e for e in expected])


def test_loaded_state_is_copied(tiny_trainer: Trainers, tmp_path: Path) -> None:
    trainer = run(tiny_trainer(), 1)
    tensors, info = through_files(trainer, tmp_path)
    other = tiny_trainer()
    other.load_state(tensors, info)
    before = {k: v.clone() for k, v in tensors.items()}
    run(other, 1)
    assert same(tensors, before)
    assert info["iteration"] == 1 and len(info["history"]) == 1


def test_the_same_seed_gives_the_same_weights(tiny_trainer: Trainers) -> None:
    first = parameters(run(tiny_trainer(seed=3, dropout=0.1), 1))
    torch.rand(3)
    assert same(first, parameters(run(tiny_trainer(seed=3, dropout=0.1), 1)))
    assert not same(first, parameters(run(tiny_trainer(seed=4, dropout=0.1), 1)))
    assert not same(first, parameters(run(tiny_trainer(seed=3, dropout=0.0), 1)))


def test_training_does_not_change_the_global_generator(tiny_trainer: Trainers) -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    run(tiny_trainer(dropout=0.1), 1)
    assert torch.equal(torch.rand(4), expected)


def test_training_does_not_change_the_base(tiny_base: Base, tiny_trainer: Trainers) -> None:
    before = {k: v.clone() for k, v in tiny_base.diffae.state_dict().items()}
    trainer = run(tiny_trainer(dropout=0.3), 1)
    assert same(before, tiny_base.diffae.state_dict())
    assert not any(p.requires_grad for p in tiny_base.diffae.parameters())
    drops = [m for m in tiny_base.diffae.unet.modules() if isinstance(m, torch.nn.Dropout)]
    assert drops and {m.p for m in drops} == {0.0}
    moved = parameters(trainer)
    assert any(
        not torch.equal(moved[f"unet.{k.removeprefix('unet.')}"], v)
        for k, v in before.items()
        if k.startswith("unet.")
    )


def test_history_holds_the_mean_of_each_iteration(tiny_trainer: Trainers) -> None:
    trainer = tiny_trainer()
    for n in range(1, 3):
        rows = trainer.step()
        assert len(rows) == trainer.objective.denoising_steps == 2
        assert trainer.iteration == len(trainer.history) == n
        assert list(trainer.history[-1]) == list(LOSS_NAMES)
        for name in LOSS_NAMES:
            mean = sum(r[name] for r in rows) / 2
            assert trainer.history[-1][name] == pytest.approx(mean)


def test_the_loss_falls(tiny_trainer: Trainers) -> None:
    trainer = run(tiny_trainer(lr_unet=2e-3), 8)
    first, last = trainer.history[0]["total"], trainer.history[-1]["total"]
    assert last < 0.8 * first


def test_the_trained_style(tiny_base: Base, tiny_trainer: Trainers) -> None:
    trainer = run(tiny_trainer(), 2)
    style = trainer.style("mine")
    own = dict(tiny_base.diffae.unet.named_parameters())
    for key, value in trainer.unet.named_parameters():
        torch.testing.assert_close(own[key] + style.delta[key], value.detach())
    assert style.id == "mine" and style.settings == trainer.settings
    assert torch.equal(style.z_style, tiny_base.encode_z(trainer.style_image))
    assert torch.equal(style.z_counterpart, tiny_base.encode_z(trainer.counterpart))
    # Further training does not change it.
    before = {k: v.clone() for k, v in style.spn.items()}
    run(trainer, 1)
    assert same(before, style.spn)
    e = encode(tiny_base, trainer.style_image, EncodePlan(0.5, 4))
    out = decode(tiny_base, e, Mix.of("mine", decode_steps=4), {"mine": style})
    assert out.isfinite().all()


def test_low_rank_training_holds_factors_only(tiny_base: Base, tiny_trainer: Trainers) -> None:
    trainer = run(tiny_trainer(adapter="lora", adapter_rank=2), 2)
    matrices = {k for k, p in tiny_base.diffae.unet.named_parameters() if p.dim() > 1}
    held = {k.removeprefix("unet.") for k in trainer.state_tensors()}
    assert not matrices & held and not any("original" in k for k in held)
    style = trainer.style("mine")
    assert {k for k, c in style.delta.items() if isinstance(c, LowRank)} == matrices
    # The style decodes as the trained network predicts.
    weights = merged_weights(tiny_base.diffae.unet, [(style.delta, 1.0)])
    for key in sorted(matrices)[::9]:
        path, _, name = key.rpartition(".")
        trained = getattr(trainer.unet.get_submodule(path), name).detach()
        torch.testing.assert_close(weights[key], trained, atol=1e-4, rtol=1e-3)


def test_micro_batches_train_as_the_whole_batch(tiny_trainer: Trainers) -> None:
    whole = run(tiny_trainer(batch_size=3), 1)
    split = run(tiny_trainer(batch_size=3, micro_batch=2), 1)
    for name, value in whole.history[0].items():
        assert split.history[0][name] == pytest.approx(value, rel=1e-3), name
    # Adam's second moments are the squared gradients, which do not depend on the step's size.
    moments = [t.state_tensors() for t in (whole, split)]
    keys = [k for k in moments[0] if k.endswith("exp_avg_sq")]
    difference = sum(float((moments[0][k] - moments[1][k]).abs().sum()) for k in keys)
    assert difference < 0.02 * sum(float(moments[0][k].sum()) for k in keys)


class NanContents:
    """Contents whose n-th draw contains a NaN."""

    def __init__(self, contents: Contents, bad: int) -> None:
        self.bank, self.bad, self.count = ContentBank(contents), bad, 0

    def draw(self, count: int, generator: torch.Generator) -> Contents:
        c = self.bank.draw(count, generator)
        self.count += 1
        if self.count == self.bad:
            c.x_t0[0, 0, 0, 0] = float("nan")
        return c


def test_divergence_names_the_iteration(
    tiny_trainer: Trainers, tiny_contents: Contents, images: Callable[..., Tensor]
) -> None:
    style_image = images(1, 8)
    style_image[0, 0, 5, 5] = float("nan")
    with pytest.raises(DivergedError, match=r"diverged at iteration 1, step 1: the loss is nan"):
        tiny_trainer(style_image=style_image).step()
    trainer = tiny_trainer(source=NanContents(tiny_contents, 3))
    run(trainer, 2)
    before = parameters(trainer)
    with pytest.raises(DivergedError, match=r"diverged at iteration 3"):
        trainer.step()
    # The weights are those of the last complete iteration.
    assert trainer.iteration == len(trainer.history) == 2
    assert same(parameters(trainer), before)
    assert isinstance(DivergedError("x"), UserError)


def test_infinite_weights_raise_diverged_error(tiny_trainer: Trainers) -> None:
    trainer = tiny_trainer()
    with torch.no_grad():
        next(iter(trainer.unet.parameters())).fill_(float("inf"))
    with pytest.raises(DivergedError, match="iteration 1"):
        trainer.step()


@pytest.mark.parametrize(
    "option",
    [
        {"spacing": "leading"},
        {"spn_style_branch": "unscaled"},
        {"spn_time": "index"},
        {"normalise_embeddings": False},
        {"style_condition": "style"},
        {"structure": 1.0},
        {"style_match": 1.0},
        {"t0": 1.0},
        {"adam_beta2": 0.9},
    ],
)
def test_every_option_changes_the_training(tiny_trainer: Trainers, option: dict[str, Any]) -> None:
    plain, other = (parameters(run(tiny_trainer(**o), 1)) for o in ({}, option))
    assert not same(plain, other)


def test_presets() -> None:
    assert set(PRESETS) == {"reference", "default", "fast", "refined", "instant"}
    # Starting from a prediction changes the training only, so that mixes and banks are the same.
    fast = make_settings("fast").to_dict()
    for preset in ("refined", "instant"):
        other = make_settings(preset).to_dict()
        differ = {name for name in fast if fast[name] != other[name]}
        assert differ <= {
            *("start", "iterations", "compact_rank", "strength", "counterpart_candidates")
        }
    reference = make_settings("reference")
    assert (reference.iterations, reference.batch_size) == (200, 8)
    assert (reference.lr_unet, reference.lr_spn, reference.dropout) == (5e-6, 1e-4, 0.1)
    assert (reference.spacing, reference.contents) == ("leading", "sampled")
    assert make_settings("reference", seed=5).seed == 5


def problems(preset: str = "default", **overrides: Any) -> dict[str, Problem]:
    """The problems of settings, by field."""
    with pytest.raises(InvalidInputError) as e:
        make_settings(preset, **overrides)
    assert e.value.subject == "settings" and "\n" not in str(e.value)
    return {p.field: p for p in e.value.problems}


def test_unknown_presets_and_fields_name_the_nearest() -> None:
    (preset,) = problems("referense").values()
    assert (preset.field, preset.allowed) == ("preset", f"one of {', '.join(PRESETS)}")
    assert "(nearest: reference" in preset.message
    found = problems("fast", learning_rate=1, lr_unett=1e-4, iterations=-1)
    assert set(found) == {"learning_rate", "lr_unett", "iterations"}
    assert "(nearest: lr_unet" in found["lr_unett"].message
    assert found["iterations"].allowed == "a whole number in [0, 100000]"


def test_every_value_out_of_range_is_named_at_once() -> None:
    low = {n: -1 for n, s in settings_schema().items() if "minimum" in json.dumps(s)}
    wrong: dict[str, Any] = low | {"t0": float("nan"), "latent_steps": 300}
    found = problems(**wrong)
    assert set(found) == set(wrong) and len(found) > 20
    for name in wrong:
        assert repr(wrong[name]) in found[name].message
    assert found["lr_unet"].allowed == "a number in [0, 1]"
    assert "a schedule of 300 steps is not possible" in found["latent_steps"].message


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("iterations", 2.5, "a whole number in [0, 100000]"),
        ("lr_unet", "1e-4", "a number in [0, 1]"),
        ("spacing", "middle", "one of leading, trailing, quadratic"),
        ("normalise_embeddings", 1, "true or false"),
        ("batch_size", True, "a whole number in [1, 1024]"),
        ("content_cutoff", "32", "a whole number in [1, 4096] or null"),
    ],
)
def test_the_problem_of_a_wrong_type_names_the_allowed_values(
    field: str, value: Any, allowed: str
) -> None:
    found = problems(**{field: value, "t0": 7.0})
    assert set(found) == {field, "t0"}
    assert (found[field].value, found[field].allowed) == (value, allowed)


def settings_schema() -> dict[str, Any]:
    schema: dict[str, Any] = TrainSettings.model_json_schema()["properties"]
    return schema


def test_settings_round_trip() -> None:
    settings = make_settings("fast", content_cutoff=16, t0=0.4, decode_steps=10)
    assert TrainSettings.parse(json.loads(json.dumps(settings.to_dict()))) == settings


def test_step_counts_are_free_where_the_spacing_is_no_stride() -> None:
    """A published schedule has a uniform stride; the others end at t0 for any number of steps."""
    found = problems(spacing="leading", decode_steps=300, stylize_encode_steps=700)
    assert set(found) == {"decode_steps", "stylize_encode_steps"}
    assert "a schedule of 300 steps is not possible" in found["decode_steps"].message
    assert make_settings("fast", t0=0.33, decode_steps=300).decode_steps == 300
