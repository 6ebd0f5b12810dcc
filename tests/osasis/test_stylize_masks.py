"""Structure terms over the steps, and masks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base
from osasis.bundles.style import Style
from osasis.diffusion import image_schedule
from osasis.encode import EncodePlan, Encodings, encode
from osasis.errors import UserError
from osasis.mix import Mix, StyleShare
from osasis.stylize import decode
from tests.osasis.conftest import max_difference

Images = Callable[..., Tensor]
Styles = Callable[..., Style]
STEPS = 4


@pytest.fixture(scope="module")
def zero_noise_base(tiny_base: Base) -> Base:
    """The tiny base with epsilon 0, so that only the structure terms change x_t."""
    diffae = copy.deepcopy(tiny_base.diffae)
    for name in ("weight", "bias"):
        getattr(diffae.unet.out[2], name).zero_()
    return tiny_base.replace(diffae=diffae)


def constant_style(style: Style) -> Style:
    """The style with a zero delta and an SPN whose output is 1."""
    spn = {k: torch.zeros_like(v) for k, v in style.spn.items()}
    return replace(style, delta={}, spn=spn | {"out_layer.0.bias": torch.ones(3)})


def zero_encodings(base: Base) -> Encodings:
    nothing = torch.zeros(1, 3, 32, 32)
    return Encodings(nothing, base.z_mean, nothing, EncodePlan(0.5, STEPS))


@pytest.mark.parametrize("spn_time", ["timestep", "index"])
def test_structure_and_the_number_of_steps(
    zero_noise_base: Base, tiny_style: Styles, spn_time: str
) -> None:
    """With spn_time "timestep" the sum is constant; with "index" the term of a step is."""
    # Trained with two denoising steps of a schedule of four.
    style = constant_style(tiny_style(spn_time=spn_time))
    for steps in (4, 10, 20):
        mix = Mix.of("a", structure=0.01, decode_steps=steps)
        out = decode(zero_noise_base, zero_encodings(zero_noise_base), mix, {"a": style})
        count = steps // 2
        scale = 0.01 * (2 / count if spn_time == "timestep" else 1)
        below = image_schedule(steps, "trailing").alphas_cumprod[:count]
        expected = scale * float((below**-0.5).sum())
        assert expected < 1
        torch.testing.assert_close(out, torch.full_like(out, expected), atol=1e-5, rtol=1e-4)


def test_structure_stays_inside_the_mask(zero_noise_base: Base, tiny_style: Styles) -> None:
    mask = torch.zeros(32, 32)
    mask[:, :16] = 1
    mix = Mix(
        styles=(StyleShare(style="a", weight=1.0, mask="left"),), structure=0.01, decode_steps=4
    )
    out = decode(
        zero_noise_base,
        zero_encodings(zero_noise_base),
        mix,
        {"a": constant_style(tiny_style())},
        masks={"left": mask},
    )
    below = image_schedule(4, "trailing").alphas_cumprod[:2]
    assert out[..., 16:].abs().max() == 0
    expected = 0.01 * float((below**-0.5).sum())
    assert max_difference(out[..., :16], torch.tensor(expected)) < 1e-5


class TestMasks:
    """With one step and no SPN, each pixel depends on its own noise only."""

    @pytest.fixture(scope="class")
    def one_step(self, tiny_base: Base, images: Images) -> Encodings:
        return encode(tiny_base, images(2, 50), EncodePlan(0.5, 2))

    @pytest.fixture(scope="class")
    def left(self) -> Tensor:
        mask = torch.zeros(32, 32)
        mask[:, :16] = 1
        return mask

    @staticmethod
    def run(
        base: Base,
        e: Encodings,
        styles: dict[str, Style],
        *shares: StyleShare,
        masks: dict[str, Tensor] | None = None,
        **fields: Any,
    ) -> Tensor:
        mix = Mix(styles=shares, decode_steps=2, **{"structure": 0.0, **fields})
        return decode(base, e, mix, styles, masks=masks)

    def test_a_mask_limits_its_style(
        self, tiny_base: Base, tiny_style: Styles, one_step: Encodings, left: Tensor
    ) -> None:
        styles, masks = {"a": tiny_style()}, {"left": left}
        photo = one_step.photo
        full = self.run(tiny_base, one_step, styles, StyleShare(style="a"))
        half = self.run(
            tiny_base, one_step, styles, StyleShare(style="a", weight=1.0, mask="left"), masks=masks
        )
        assert max_difference(photo[..., :16], full[..., :16]) > 0.1
        assert max_difference(photo[..., 16:], full[..., 16:]) > 0.1
        assert max_difference(half[..., :16], full[..., :16]) < 1e-5
        assert max_difference(half[..., 16:], photo[..., 16:]) < 1e-5

    def test_two_styles_side_by_side(
        self, tiny_base: Base, tiny_style: Styles, one_step: Encodings, left: Tensor
    ) -> None:
        styles = {"a": tiny_style("a", 21), "b": tiny_style("b", 61)}
        masks = {"left": left, "right": 1 - left}
        both = self.run(
            tiny_base,
            one_step,
            styles,
            StyleShare(style="a", weight=1.0, mask="left"),
            StyleShare(style="b", weight=0.01, mask="right"),
            masks=masks,
        )
        for name, side in (("a", slice(0, 16)), ("b", slice(16, 32))):
            alone = self.run(tiny_base, one_step, styles, StyleShare(style=name))
            # Weights have no effect where only one mask applies.
            assert max_difference(both[..., side], alone[..., side]) < 1e-5

    def test_overlapping_masks_are_weighted(
        self, tiny_base: Base, tiny_style: Styles, one_step: Encodings, left: Tensor
    ) -> None:
        styles = {"a": tiny_style("a", 21), "b": tiny_style("b", 61)}
        masks = {"left": left, "all": torch.ones(32, 32)}
        masked = self.run(
            tiny_base,
            one_step,
            styles,
            StyleShare(style="a", weight=3.0, mask="left"),
            StyleShare(style="b", weight=1.0, mask="all"),
            masks=masks,
        )
        noise = self.run(
            tiny_base,
            one_step,
            styles,
            StyleShare(style="a", weight=3.0),
            StyleShare(style="b", weight=1.0),
            blend="noise",
        )
        b = self.run(tiny_base, one_step, styles, StyleShare(style="b"))
        assert max_difference(masked[..., :16], noise[..., :16]) < 1e-5
        assert max_difference(masked[..., 16:], b[..., 16:]) < 1e-5

    def test_a_soft_mask_mixes_with_the_photo(
        self, tiny_base: Base, tiny_style: Styles, one_step: Encodings
    ) -> None:
        styles = {"a": tiny_style()}
        photo = one_step.photo
        full = self.run(tiny_base, one_step, styles, StyleShare(style="a"))
        soft = self.run(
            tiny_base,
            one_step,
            styles,
            StyleShare(style="a", weight=1.0, mask="soft"),
            masks={"soft": torch.full((32, 32), 0.25)},
        )
        # x_0 is linear in the noise where it is not clamped.
        free = (photo.abs() < 0.95) & (full.abs() < 0.95) & (soft.abs() < 0.95)
        assert free.float().mean() > 0.2
        assert max_difference(soft[free], (0.25 * full + 0.75 * photo)[free]) < 1e-4

    def test_a_mask_of_another_size_is_refused(
        self, tiny_base: Base, tiny_style: Styles, one_step: Encodings
    ) -> None:
        with pytest.raises(UserError, match=r"'left'.*16"):
            self.run(
                tiny_base,
                one_step,
                {"a": tiny_style()},
                StyleShare(style="a", weight=1.0, mask="left"),
                masks={"left": torch.ones(16, 16)},
            )


def test_pixels_without_a_mask_are_those_of_the_photo(
    tiny_base: Base, tiny_style: Styles, images: Images
) -> None:
    """The photo itself, not its reconstruction by epsilon_A, after several steps with SPN."""
    encodings = encode(tiny_base, images(2, 50), EncodePlan(0.5, STEPS))
    left = torch.zeros(32, 32)
    left[:, :16] = 1
    mix = Mix(styles=(StyleShare(style="a", weight=1.0, mask="left"),), decode_steps=STEPS)
    styles = {"a": tiny_style()}
    out = decode(tiny_base, encodings, mix, styles, masks={"left": left})
    photo = encodings.photo
    assert max_difference(out[..., 16:], photo[..., 16:]) < 1e-5
    assert max_difference(out[..., :16], photo[..., :16]) > 0.1
    plain = decode(tiny_base, encodings, Mix.of("a", strength=0.0, decode_steps=STEPS), styles)
    assert max_difference(plain[..., 16:], photo[..., 16:]) > 0.01
