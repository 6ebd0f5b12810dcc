"""Stylization: encode and decode, mixes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from osasis.arithmetic import Arithmetic
from osasis.bundles.base import Base
from osasis.bundles.style import Style
from osasis.diffusion import ddim_sample, image_schedule
from osasis.encode import EncodePlan, Encodings, encode, encode_plan, passes
from osasis.errors import UserError
from osasis.mix import Mix, StyleShare
from osasis.networks.adapters import merged_weights
from osasis.palette import Palette
from osasis.recipe import Recipe, level_conditions, make_recipe, relative_weights
from osasis.sampling import INVERTERS
from osasis.settings import make_settings
from osasis.stylize import decode, decode_rows
from osasis.validation import InvalidInputError
from tests.osasis.conftest import max_difference

Images = Callable[..., Tensor]
Styles = Callable[..., Style]
STEPS = 4
ALL_PHOTO = (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def encodings(tiny_base: Base, images: Images) -> Encodings:
    return encode(tiny_base, images(2, 50), EncodePlan(0.5, STEPS))


def test_encode_is_inversion_with_epsilon_a(tiny_base: Base, images: Images) -> None:
    photos = images(2, 50)
    e = encode(tiny_base, photos, EncodePlan(0.5, STEPS))
    with torch.no_grad():
        z = tiny_base.encode_z(photos)
        x = INVERTERS["ddim"](tiny_base.eps_a(z), photos, "trailing", STEPS, 0.5, None)
    assert e.plan == EncodePlan(0.5, STEPS, "float32")
    assert max_difference(e.z, z) < 1e-4 and max_difference(e.x_t0, x) < 1e-4
    assert max_difference(e.x_t0, photos) > 0.1
    part = e.take(slice(1, 2))
    assert torch.equal(part.z, e.z[1:]) and torch.equal(part.x_t0, e.x_t0[1:])


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_a_result_does_not_depend_on_the_batch(
    tiny_base: Base, tiny_style: Styles, images: Images, arithmetic: Arithmetic
) -> None:
    mix = Mix.of("a", decode_steps=STEPS)
    styles = {"a": tiny_style()}
    photos = images(5, 51)

    def run(batch: Tensor) -> Tensor:
        e = encode(tiny_base, batch, EncodePlan(0.5, STEPS, arithmetic))
        return decode(tiny_base, e, mix, styles)

    together, backwards = run(photos), run(photos.flip(0)).flip(0)
    assert together.shape == photos.shape and together.abs().max() <= 1
    assert max_difference(together[:1], together[1:2]) > 0.1
    assert max_difference(together, backwards) < 1e-4
    for i in (0, 3, 4):
        assert max_difference(run(photos[i : i + 1]), together[i : i + 1]) < 1e-4


def test_bfloat16_is_near_float32(
    tiny_base: Base,
    tiny_style: Styles,
    encodings: Encodings,
) -> None:
    mix, styles = Mix.of("a", decode_steps=STEPS), {"a": tiny_style()}
    exact = decode(tiny_base, encodings, mix, styles)
    coarse = replace(encodings, plan=replace(encodings.plan, arithmetic="bfloat16"))
    rough = decode(tiny_base, coarse, mix, styles)
    assert rough.dtype == torch.float32
    assert 0 < float((exact - rough).abs().mean()) < 0.05


def test_strength_0_reconstructs_with_epsilon_a(
    tiny_base: Base, tiny_style: Styles, encodings: Encodings
) -> None:
    style = tiny_style()
    mix = Mix.of("a", strength=0.0, structure=0.0, decode_steps=STEPS, level_weights=ALL_PHOTO)
    out = decode(tiny_base, encodings, mix, {"a": style})
    with torch.no_grad():
        schedule = image_schedule(STEPS, style.settings.spacing)
        plain = ddim_sample(tiny_base.eps_a(encodings.z), encodings.x_t0, schedule, start=1)
    assert max_difference(out, plain.clamp(-1, 1)) < 1e-4
    styled = decode(tiny_base, encodings, mix.replace(strength=1.0), {"a": style})
    assert max_difference(out, styled) > 0.1


def test_strength_0_alone_reconstructs(
    tiny_base: Base, tiny_style: Styles, encodings: Encodings
) -> None:
    """At strength 0 the share of z_style is 0 for every cutoff."""
    styles = {"a": tiny_style()}
    mix = Mix.of("a", strength=0.0, decode_steps=STEPS)
    plain = mix.replace(structure=0.0, level_weights=ALL_PHOTO)
    assert (
        max_difference(
            decode(tiny_base, encodings, mix, styles), decode(tiny_base, encodings, plain, styles)
        )
        < 1e-4
    )


@pytest.mark.parametrize("option", [{"structure": 1.0}, {"t0": 0.25}, {"content_cutoff": 8}])
@pytest.mark.parametrize("other", [{"strength": 0.5}, {"level_weights": (0.0, 0.5, 0.0)}])
def test_every_parameter_matters(
    tiny_base: Base, tiny_style: Styles, images: Images, option: dict, other: dict
) -> None:
    styles = {"a": tiny_style()}
    outs = []
    for fields in ({}, option, other):
        mix = Mix.of("a", decode_steps=STEPS, **fields)
        e = encode(tiny_base, images(1, 50), EncodePlan(mix.t0 or 0.5, STEPS))
        outs.append(decode(tiny_base, e, mix, styles))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert max_difference(outs[a], outs[b]) > 0.01


def test_blends_of_one_style_agree(
    tiny_base: Base, tiny_style: Styles, encodings: Encodings
) -> None:
    styles = {"a": tiny_style()}
    weights, noise = (
        decode(tiny_base, encodings, Mix.of("a", blend=b, decode_steps=STEPS), styles)
        for b in ("weights", "noise")
    )
    assert max_difference(weights, noise) < 1e-4


@pytest.mark.parametrize("blend", ["weights", "noise"])
def test_a_faint_second_style_hardly_shows(
    tiny_base: Base, tiny_style: Styles, encodings: Encodings, blend: str
) -> None:
    styles = {"a": tiny_style("a", 21), "b": tiny_style("b", 61)}

    def run(*shares: StyleShare) -> Tensor:
        mix = Mix(styles=shares, blend=blend, decode_steps=STEPS)
        return decode(tiny_base, encodings, mix, styles)

    a, b = run(StyleShare(style="a")), run(StyleShare(style="b"))
    faint = run(StyleShare(style="a", weight=1.0), StyleShare(style="b", weight=1e-4))
    even = run(StyleShare(style="a", weight=2.0), StyleShare(style="b", weight=2.0))
    assert max_difference(a, b) > 0.2
    assert max_difference(faint, a) < 5e-3
    assert max_difference(even, a) > 0.1 and max_difference(even, b) > 0.1


def test_weights_are_scaled_to_sum_to_1() -> None:
    shares = (StyleShare(style="a", weight=3.0), StyleShare(style="b", weight=9.0))
    assert relative_weights(Mix(styles=shares)) == [0.25, 0.75]


def test_level_conditions() -> None:
    z_in, z_style = torch.zeros(2, 4), torch.ones(2, 4)
    z = level_conditions(z_in, z_style, (1.0, 0.25))
    assert z.shape == (2, 3, 4)
    # The middle block takes z_in.
    assert z[0, :, 0].tolist() == [1.0, 0.25, 0.0]


def test_cutoff_and_level_weights_agree(
    tiny_base: Base, tiny_style: Styles, encodings: Encodings
) -> None:
    styles = {"a": tiny_style()}

    def run(**fields: Any) -> Tensor:
        mix = Mix.of("a", decode_steps=STEPS, **fields)
        return decode(tiny_base, encodings, mix, styles)

    # Levels of the tiny base: 32, 16 and 8 pixels.
    assert torch.equal(run(content_cutoff=16), run(level_weights=(1.0, 1.0, 0.0)))
    assert torch.equal(run(), run(level_weights=(1.0, 0.0, 0.0)))
    assert torch.equal(run(level_weights=ALL_PHOTO), run(content_cutoff=64))


def test_the_structure_network_is_added_at_each_step(
    tiny_base: Base, tiny_style: Styles, images: Images
) -> None:
    """One denoising step, computed by hand."""
    style = tiny_style(spn_time="index")
    e = encode(tiny_base, images(1, 50), EncodePlan(0.5, 2))
    mix = Mix.of("a", structure=0.3, strength=0.5, decode_steps=2, level_weights=ALL_PHOTO)
    out = decode(tiny_base, e, mix, {"a": style})
    with torch.no_grad():
        # The structure term is scaled by the strength.
        x = e.x_t0 + 0.3 * 0.5 * style.spn_module()(e.photo, torch.zeros(1))
        weights = merged_weights(tiny_base.diffae.unet, [(style.delta, 0.5)])
        t = torch.full((1,), 500)
        eps = torch.func.functional_call(tiny_base.diffae.unet, weights, (x, t, e.z))
        a = image_schedule(2, "trailing").alpha_bar(0)
        x0 = ((x - (1 - a) ** 0.5 * eps) / a**0.5).clamp(-1, 1)
    assert max_difference(out, x0) < 1e-4


def test_different_mixes_in_one_call(
    tiny_base: Base, tiny_style: Styles, images: Images, encodings: Encodings
) -> None:
    """Blends, masks, edits and palettes: each image equals that of its own call."""
    low = {n: tiny_style(n, seed).compact(rank=3) for n, seed in (("a", 21), ("b", 61))}
    low["b"].palette = Palette.of(images(1, 44)[0])
    masks = {"left": (torch.arange(32) < 16).float().expand(32, 32)}
    edits = {"smile": torch.linspace(-1, 1, tiny_base.config.z_channels)}
    left = {"style": "a", "mask": "left"}
    mixes = [
        Mix.of("a", decode_steps=STEPS),
        Mix.of("b", decode_steps=STEPS, strength=0.5, palette=1.0, text_edit="smile"),
        Mix.of("a", "b", decode_steps=STEPS, blend="noise", content_cutoff=16),
        Mix.parse({"styles": [left], "decode_steps": STEPS}),
        Mix.of("b", decode_steps=2),
    ]

    def recipe(mix: Mix) -> Recipe:
        return make_recipe(tiny_base, mix, low, encodings.plan, masks=masks, text_edits=edits)

    alone = [
        decode(tiny_base, encodings, m, low, masks=masks, text_edits=edits) for m in mixes
    ]  # fmt: skip
    rows = [(encodings, recipe(m)) for m in mixes]
    assert torch.equal(decode_rows(tiny_base, rows), torch.cat(alone))
    steps: list[tuple[int, int]] = []
    together = decode_rows(tiny_base, rows, pass_size=16, progress=lambda *s: steps.append(s))
    assert max_difference(together, torch.cat(alone)) < 1e-4
    # Two passes: four mixes of four steps in a full schedule, one of two.
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_passes_are_padded_to_powers_of_two() -> None:
    sizes = [[len(rows) for rows in passes(n, 16)] for n in (1, 3, 8, 9, 16, 18)]
    assert sizes == [[1], [4], [8], [16], [16], [16, 2]]
    assert passes(3, 16)[0].tolist() == [0, 1, 2, 2]
    assert [rows.tolist() for rows in passes(3, 1)] == [[0], [1], [2]]


def test_text_edits_move_z_in(tiny_base: Base, tiny_style: Styles, encodings: Encodings) -> None:
    styles = {"a": tiny_style()}
    edit = torch.linspace(-1, 1, tiny_base.config.z_channels)
    mix = Mix.of("a", text_edit="smile", text_amount=2.0, content_cutoff=64, decode_steps=STEPS)
    out = decode(tiny_base, encodings, mix, styles, text_edits={"smile": edit})
    moved = replace(encodings, z=encodings.z + 2 * edit)
    by_hand = decode(tiny_base, moved, mix.replace(text_edit=None), styles)
    plain = decode(tiny_base, encodings, mix.replace(text_edit=None), styles)
    assert max_difference(out, by_hand) < 1e-5 and max_difference(out, plain) > 0.01


def test_every_problem_of_a_mix_is_named(
    tiny_base: Base, tiny_style: Styles, encodings: Encodings
) -> None:
    mix = Mix(
        styles=(
            StyleShare(style="a", weight=1.0, mask="left"),
            StyleShare(style="gone"),
            StyleShare(style="lost", weight=1.0, mask="sky"),
        ),
        text_edit="smile",
        level_weights=(0.0, 1.0),
    )
    with pytest.raises(InvalidInputError) as e:
        decode(tiny_base, encodings, mix, {"a": tiny_style()}, masks={"left": torch.ones(32, 32)})
    assert [p.field for p in e.value.problems] == [
        "level_weights",
        "styles[1].style",
        "styles[2].style",
        "styles[2].mask",
        "text_edit",
    ]


def test_the_palette_moves_the_colours_to_the_style_image(
    tiny_base: Base, tiny_style: Styles, encodings: Encodings, images: Images
) -> None:
    image = 0.3 * images(1, 70)[0]
    styles = {"a": replace(tiny_style(), palette=Palette.of(image))}

    def run(palette: float, **fields: Any) -> Tensor:
        mix = Mix.of("a", palette=palette, decode_steps=STEPS, **fields)
        return decode(tiny_base, encodings, mix, styles)

    full = run(1.0)
    for made in full:
        torch.testing.assert_close(made.mean(dim=(1, 2)), image.mean(dim=(1, 2)), atol=0.01, rtol=0)
    torch.testing.assert_close(run(0.5), (run(0.0) + full) / 2)
    # Scaled by the strength, so that strength 0 reconstructs the photo.
    assert torch.equal(run(1.0, strength=0.0), run(0.0, strength=0.0))


def test_the_palette_follows_the_mask(
    tiny_base: Base, tiny_style: Styles, encodings: Encodings, images: Images
) -> None:
    styles = {"a": replace(tiny_style(), palette=Palette.of(images(1, 70)[0]))}
    mask = torch.zeros(32, 32)
    mask[:, :16] = 1

    def run(palette: float) -> Tensor:
        mix = Mix(styles=(StyleShare(style="a", mask="left"),), palette=palette, decode_steps=STEPS)
        return decode(tiny_base, encodings, mix, styles, masks={"left": mask})

    plain, moved = run(0.0), run(1.0)
    assert torch.equal(plain[..., 16:], moved[..., 16:])
    assert max_difference(plain[..., :16], moved[..., :16]) > 0.1


def test_exact_inversion_takes_as_many_steps_as_the_denoising() -> None:
    cpu = torch.device("cpu")
    settings = make_settings(
        encode_solver="fixed_point", stylize_encode_steps=30, stylize_decode_steps=10
    )
    assert encode_plan(None, settings, cpu) == EncodePlan(
        0.5, 10, "float32", "trailing", "fixed_point"
    )

    def steps(**fields: Any) -> int:
        return encode_plan(Mix.of("a", **fields), settings, cpu).steps

    assert steps(decode_steps=16) == 16
    assert steps(decode_steps=16, encode_steps=4) == 4
    assert steps(decode_steps=16, encode_solver="ddim") == 30
    assert steps() == 10


def test_encodings_of_another_t0_are_refused(
    tiny_base: Base, tiny_style: Styles, encodings: Encodings
) -> None:
    """x_t0 has the noise of its t0; denoising from another t0 gives a broken image."""
    with pytest.raises(UserError, match="t0"):
        decode(tiny_base, encodings, Mix.of("a", t0=0.25), {"a": tiny_style()})


def test_progress_counts_every_step_of_every_chunk(
    tiny_base: Base, tiny_style: Styles, images: Images
) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    e = encode(tiny_base, images(3, 51), EncodePlan(0.5, 10), progress=progress)
    # Three photos are three passes of five steps each on a CPU.
    assert seen == [(i, 15) for i in range(1, 16)]
    seen.clear()
    decode(tiny_base, e, Mix.of("a", decode_steps=4), {"a": tiny_style()}, progress=progress)
    assert seen == [(i, 6) for i in range(1, 7)]
