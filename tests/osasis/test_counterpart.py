"""The photo counterpart of a style image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base, load_base, save_base
from osasis.contents import Contents
from osasis.counterpart import (
    best_candidate,
    diffae_candidates,
    nearest_photos,
    photo_counterpart,
    photo_palette,
    prior_candidates,
    quantile_match,
)
from osasis.errors import UserError
from osasis.networks.sizes import PriorConfig
from osasis.networks.unet import UNet
from osasis.settings import TrainSettings

Images = Callable[..., Tensor]
Settings = Callable[..., TrainSettings]


@pytest.fixture(scope="module")
def prior_base(
    tiny_base: Base,
    random_weights: Callable[..., dict[str, Tensor]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Base:
    """The tiny base with a random photo prior, through its bundle."""
    prior = PriorConfig(
        model_channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(16,),
        head_channels=8,
    )
    config = tiny_base.config.replace(prior=prior)
    folder = tmp_path_factory.mktemp("base") / "with-prior"
    save_base(
        folder,
        name="with prior",
        config=config,
        diffae=tiny_base.diffae.state_dict(),
        z_mean=tiny_base.z_mean,
        z_std=tiny_base.z_std,
        guide={"kind": "statistics", "stages": [1], "grid": 1},
        guide_weights=None,
        perceptual=tiny_base.perceptual,
        prior=random_weights(UNet(prior.unet(config.image_size)), seed=13),
        photos=None,
        provenance={},
    )
    return load_base(folder)


def score(base: Base, candidates: Tensor, target: Tensor) -> Tensor:
    l1 = (candidates - target).abs().mean(dim=(1, 2, 3))
    return 10 * l1 + base.perceptual(candidates, target)


@pytest.mark.parametrize("photos", [None, "empty"])
def test_without_prior_and_photos(
    tiny_base: Base,
    tiny_settings: Settings,
    tiny_contents: Contents,
    images: Images,
    photos: str | None,
) -> None:
    given = None if photos is None else tiny_contents.take(torch.arange(0))
    with pytest.raises(UserError, match=r"base 'tiny' has no photo prior.*needs photos"):
        photo_counterpart(tiny_base, images(1, 60), tiny_settings(), given)


def test_from_photos(
    tiny_base: Base, tiny_settings: Settings, tiny_contents: Contents, images: Images
) -> None:
    style = images(1, 60)
    out = photo_counterpart(tiny_base, style, tiny_settings(), tiny_contents)
    assert out.shape == (1, 3, 32, 32) and out.abs().max() <= 1
    assert torch.equal(out, photo_counterpart(tiny_base, style, tiny_settings(), tiny_contents))
    other = photo_counterpart(tiny_base, style, tiny_settings(seed=1), tiny_contents)
    assert not torch.equal(out, other)
    candidates, recoloured = diffae_candidates(tiny_base, style, tiny_settings(), tiny_contents)
    assert candidates.shape == (3, 3, 32, 32) and recoloured.shape == (1, 3, 32, 32)
    assert torch.equal(out[0], candidates[score(tiny_base, candidates, recoloured).argmin()])


def test_with_a_prior(prior_base: Base, tiny_settings: Settings, images: Images) -> None:
    style = images(1, 60)
    assert prior_base.config.prior is not None and prior_base.prior is not None
    out = photo_counterpart(prior_base, style, tiny_settings())
    assert out.shape == (1, 3, 32, 32) and out.dtype == torch.float32
    assert out.isfinite().all() and out.abs().max() <= 1
    torch.manual_seed(99)
    assert torch.equal(out, photo_counterpart(prior_base, style, tiny_settings()))
    assert not torch.equal(out, photo_counterpart(prior_base, style, tiny_settings(seed=1)))
    candidates = prior_candidates(prior_base, style, tiny_settings())
    assert candidates.shape == (3, 3, 32, 32)
    assert (candidates[0] - candidates[1]).abs().max() > 0.1
    assert torch.equal(out[0], candidates[score(prior_base, candidates, style).argmin()])


def test_less_noise_stays_nearer(prior_base: Base, tiny_settings: Settings, images: Images) -> None:
    style = images(1, 60)
    distances = []
    for t0 in (0.1, 0.9):
        settings = tiny_settings(counterpart_t0=t0)
        out = prior_candidates(prior_base, style, settings)
        distances.append(float((out - style).abs().mean()))
    assert distances[0] < 0.7 * distances[1]


@pytest.mark.parametrize("t0", [0.05, 1.0])
def test_the_ends_of_t0(
    prior_base: Base,
    tiny_base: Base,
    tiny_settings: Settings,
    tiny_contents: Contents,
    images: Images,
    t0: float,
) -> None:
    """The smallest and the largest allowed t0 give finite images."""
    style, settings = images(1, 60), tiny_settings(counterpart_t0=t0)
    for base, photos in ((prior_base, None), (tiny_base, tiny_contents)):
        out = photo_counterpart(base, style, settings, photos)
        assert out.shape == style.shape and out.isfinite().all()


def test_best_candidate(tiny_base: Base, images: Images) -> None:
    target = images(1, 60)
    candidates = torch.cat([images(2, 61), (target + 0.05 * images(1, 62)).clamp(-1, 1)])
    assert torch.equal(best_candidate(tiny_base, candidates, target), candidates[2:])


def test_nearest_photos(tiny_base: Base, tiny_contents: Contents) -> None:
    for i in (0, 4):
        image = tiny_contents.photo[i : i + 1]
        near = nearest_photos(tiny_base, image, tiny_contents, count=2)
        assert len(near) == 2
        assert torch.equal(near.photo[0], tiny_contents.photo[i])
    # count is limited to the number of photos.
    assert len(nearest_photos(tiny_base, image, tiny_contents, count=50)) == len(tiny_contents)


def test_quantile_match_gives_the_distribution_of_the_target() -> None:
    g = torch.Generator().manual_seed(0)
    source = torch.rand(1, 1, 40, 40, generator=g) * 3 - 5
    target = torch.rand(2, 1, 40, 40, generator=g) ** 2
    out = quantile_match(source, target)
    assert out.shape == source.shape
    for q in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert float(out.quantile(q)) == pytest.approx(float(target.quantile(q)), abs=2e-3)
    order = source.flatten().argsort()
    assert (out.flatten()[order].diff() >= 0).all()
    # Matching is idempotent.
    torch.testing.assert_close(quantile_match(out, target), out, atol=2e-3, rtol=0)


def test_quantile_match_of_itself_is_the_identity() -> None:
    x = torch.linspace(-3, 2, 99)[torch.randperm(99, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(quantile_match(x, x), x)


def test_quantile_match_keeps_ties_equal() -> None:
    # A uniform background of 60% maps to one value: the middle of its quantile range.
    source = torch.cat([torch.full((60,), 1.0), torch.linspace(-1, 0.9, 40)])
    target = torch.linspace(0, 1, 1001)
    out = quantile_match(source, target)
    assert out[:60].unique().numel() == 1
    assert float(out[0]) == pytest.approx(0.7, abs=0.01)
    assert float(out[60:].max()) < float(out[0])
    flat = quantile_match(torch.zeros(10), target)
    assert flat.unique().numel() == 1 and float(flat[0]) == pytest.approx(0.5, abs=0.01)


def test_photo_palette_takes_the_photos_colours(images: Images) -> None:
    style = images(1, 60) * torch.tensor([0.2, 0.2, 1.0]).view(1, 3, 1, 1)
    warm = torch.tensor([0.2, 0.0, -0.2]).view(1, 3, 1, 1)
    photos = 0.4 * images(6, 63).mean(dim=1, keepdim=True) + warm
    out = photo_palette(style, photos)
    assert out.shape == style.shape
    for channel in range(3):
        expected = float(photos[:, channel].mean())
        assert float(out[:, channel].mean()) == pytest.approx(expected, abs=0.03)
    # The order of lightness is that of the style image.
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    a, b = ((x * weights).sum(1).flatten() for x in (style, out))
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.9
