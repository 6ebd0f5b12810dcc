"""Guides: statistics of a convolutional net, and open_clip models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from osasis.bundles.base import Base, load_base, save_base
from osasis.errors import UserError
from osasis.guides.guide import (
    CombinedGuide,
    OpenClipGuide,
    OpenClipMetadata,
    StatisticsGuide,
    group_weights,
    open_clip_guide,
    text_guide,
)
from osasis.losses import directional_loss
from osasis.storage import save_tensors

Images = Callable[..., Tensor]


def test_statistics_shapes(tiny_base: Base, images: Images) -> None:
    # Means and deviations, padded to the widest stage (AlexNet: 64, 192, 384 channels).
    for stages, grid, groups, width in (
        ((0,), 1, 1, 6),
        ((1, 2), 1, 2, 384),
        ((1, 2, 3), 1, 3, 768),
        ((0, 2), 3, 18, 384),
    ):
        guide = StatisticsGuide(tiny_base.perceptual, stages, grid)
        out = guide.embed(images(2, size=64))
        assert out.shape == (2, groups, width) and out.dtype == torch.float32


def test_statistics_of_the_image_itself(tiny_base: Base, images: Images) -> None:
    x = images(2)
    out = StatisticsGuide(tiny_base.perceptual, (0,)).embed(x)[:, 0]
    torch.testing.assert_close(out[:, :3], x.mean(dim=(2, 3)))
    deviation = (x.var(dim=(2, 3), correction=0) + 1e-6).sqrt()
    torch.testing.assert_close(out[:, 3:], deviation)


def test_statistics_by_cell(tiny_base: Base, images: Images) -> None:
    x = images(1)
    guide = StatisticsGuide(tiny_base.perceptual, (0,), grid=2)
    out = guide.embed(x)
    # Row by row.
    for cell, part in enumerate(
        (x[..., :16, :16], x[..., :16, 16:], x[..., 16:, :16], x[..., 16:, 16:])
    ):
        torch.testing.assert_close(out[0, cell, :3], part.mean(dim=(0, 2, 3)))
    changed = x.clone()
    changed[..., 16:, 16:] *= 0.5
    moved = (guide.embed(changed) - out).abs().amax(dim=(0, 2))
    assert moved[3] > 1e-2 and moved[:3].max() == 0


def test_statistics_stages_are_the_perceptual_nets(tiny_base: Base, images: Images) -> None:
    x = images(1)
    features = tiny_base.perceptual.features(x)
    for stage in range(1, 6):
        out = StatisticsGuide(tiny_base.perceptual, (stage,)).embed(x)[0, 0]
        channels = features[stage - 1].shape[1]
        torch.testing.assert_close(out[:channels], features[stage - 1].mean(dim=(0, 2, 3)))


@pytest.mark.parametrize("stages", [(), (6,), (-1, 2)])
def test_impossible_stages_are_refused(tiny_base: Base, stages: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="choose some of 0 to 5"):
        StatisticsGuide(tiny_base.perceptual, stages)


def test_statistics_have_no_text_encoder(tiny_base: Base) -> None:
    assert tiny_base.guide.has_text is False
    with pytest.raises(UserError, match="no text encoder"):
        tiny_base.guide.embed_text(["a photo"])


def test_open_clip_shapes(clip_guide: OpenClipGuide, images: Images) -> None:
    x = images(3, size=48)
    out = clip_guide.embed(x)
    assert out.shape == (3, 1, 32) and out.dtype == torch.float32
    assert (out[0] - out[1]).norm() > 1e-3
    assert not any(p.requires_grad for p in clip_guide.parameters())


def test_open_clip_text(clip_guide: OpenClipGuide) -> None:
    assert clip_guide.has_text
    out = clip_guide.embed_text(["a photo of a face", "an ink drawing", "a photo of a face"])
    assert out.shape == (3, 1, 32)
    assert torch.equal(out[0], out[2]) and (out[0] - out[1]).norm() > 1e-3


def test_open_clip_input_is_normalised_with_its_mean_and_std(
    clip_guide: OpenClipGuide, images: Images
) -> None:
    x = images(2)
    mean = x.new_tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = x.new_tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    expected = clip_guide.model.encode_image((x / 2 + 0.5 - mean) / std)
    torch.testing.assert_close(clip_guide.embed(x)[:, 0], expected, atol=1e-4, rtol=1e-4)


def test_published_input(clip_config: Callable[..., Path], images: Images) -> None:
    guide = open_clip_guide("tests-clip-224", None, clip_config("tests-clip-224", 224, 56))
    x = images(2)
    published = guide.embed(x, published_input=True)
    expected = guide.model.encode_image(torch.nn.functional.interpolate(x, (224, 224)))
    assert torch.equal(published[:, 0], expected)
    native = guide.embed(x)
    assert (published - native).norm() > 0.05 * native.norm()


def test_published_input_of_a_guide_of_another_size(
    clip_guide: OpenClipGuide, images: Images
) -> None:
    x = images(2)
    published = clip_guide.embed(x, published_input=True)
    assert torch.equal(published[:, 0], clip_guide.model.encode_image(x))


def test_local_weights_give_the_same_embeddings(
    clip_guide: OpenClipGuide, clip_config: Callable[..., Path], images: Images, tmp_path: Path
) -> None:
    config = clip_config("tests-tiny-clip")
    path = tmp_path / "clip.safetensors"
    save_tensors(path, clip_guide.model.state_dict())
    again = open_clip_guide("tests-tiny-clip", str(path), config)
    x = images(2)
    assert torch.equal(again.embed(x), clip_guide.embed(x))
    texts = ["a portrait", "a sketch"]
    assert torch.equal(again.embed_text(texts), clip_guide.embed_text(texts))
    # Random weights differ.
    other = open_clip_guide("tests-tiny-clip", None, config)
    assert not torch.equal(other.embed(x), clip_guide.embed(x))


def test_a_base_stores_its_guide(
    tiny_base: Base,
    clip_guide: OpenClipGuide,
    clip_config: Callable[..., Path],
    images: Images,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    shutil.copy(clip_config("tests-tiny-clip"), folder)
    save_base(
        folder,
        name="with text",
        config=tiny_base.config,
        diffae=tiny_base.diffae.state_dict(),
        z_mean=tiny_base.z_mean,
        z_std=tiny_base.z_std,
        guide={
            "kind": "open_clip",
            "model": "tests-tiny-clip",
            "config": "tests-tiny-clip.json",
        },
        guide_weights=clip_guide.model.state_dict(),
        perceptual=tiny_base.perceptual,
        prior=None,
        photos=None,
        provenance={},
    )
    base = load_base(folder)
    assert base.guide.has_text and base.name == "with text"
    assert base.fingerprint != tiny_base.fingerprint
    x = images(2)
    torch.testing.assert_close(base.guide.embed(x), clip_guide.embed(x), atol=1e-6, rtol=0)


def test_errors_for_unknown_models_and_tags_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown open_clip model 'ViT-B-33'.*ViT-B-32"):
        open_clip_guide("ViT-B-33", None)
    with pytest.raises(UserError, match=r"no pretrained tag 'laion'.*laion2b_s34b_b79k"):
        open_clip_guide("ViT-B-32", "laion")
    with pytest.raises(UserError, match="no such open_clip model configuration"):
        open_clip_guide("ViT-B-32", None, tmp_path / "absent.json")


def test_a_broken_checkpoint_is_refused(clip_config: Callable[..., Path], tmp_path: Path) -> None:
    config = clip_config("tests-tiny-clip")
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="could not be loaded"):
        open_clip_guide("tests-tiny-clip", str(path), config)


def test_metadata_beside_the_weights_is_stored(clip_config: Callable[..., Path]) -> None:
    """OpenAI's weights need another activation, which their keys do not show."""
    metadata: OpenClipMetadata = {
        "quick_gelu": True,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    config = clip_config("tests-tiny-clip")
    guide = open_clip_guide("tests-tiny-clip", None, config, metadata)
    assert guide.metadata == metadata
    names = {type(m).__name__ for m in guide.model.modules()}
    assert "QuickGELU" in names and "GELU" not in names
    assert guide.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    plain = open_clip_guide("tests-tiny-clip", None, config)
    assert not plain.metadata["quick_gelu"]


@pytest.fixture
def combined(tiny_base: Base, clip_guide: OpenClipGuide) -> CombinedGuide:
    statistics = StatisticsGuide(tiny_base.perceptual, (0, 1, 2))
    return CombinedGuide([(statistics, 1.0), (clip_guide, 0.5)])


def test_combined_guides_are_concatenated(
    combined: CombinedGuide, tiny_base: Base, clip_guide: OpenClipGuide, images: Images
) -> None:
    x = images(2)
    out = combined.embed(x)
    own = StatisticsGuide(tiny_base.perceptual, (0, 1, 2)).embed(x)
    assert out.shape == (2, 4, own.shape[-1])
    assert torch.equal(out[:, :3], own)
    assert torch.equal(out[:, 3:, :32], clip_guide.embed(x)) and out[:, 3, 32:].abs().max() == 0
    weights = group_weights(combined, out)
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([2 / 9, 2 / 9, 2 / 9, 3 / 9]))
    assert group_weights(clip_guide, clip_guide.embed(x)) is None


def test_combined_guides_delegate_text(combined: CombinedGuide, clip_guide: OpenClipGuide) -> None:
    assert combined.has_text and text_guide(combined) is clip_guide
    assert torch.equal(combined.embed_text(["a photo"]), clip_guide.embed_text(["a photo"]))
    alone = CombinedGuide([(combined.guides[0], 1.0)])
    assert not alone.has_text
    with pytest.raises(UserError, match="no text encoder"):
        alone.embed_text(["a photo"])


def test_impossible_combinations_are_refused(combined: CombinedGuide) -> None:
    for parts in ([], [(combined.guides[0], 0.0)]):
        with pytest.raises(UserError, match="weight above 0"):
            CombinedGuide(parts)
    with pytest.raises(UserError, match="one part with a text encoder"):
        CombinedGuide([(combined.guides[1], 1.0), (combined.guides[1], 1.0)])


def test_group_weights_scale_the_losses(combined: CombinedGuide, images: Images) -> None:
    a, b = combined.embed(images(2, 1)), combined.embed(images(2, 2))
    weights = group_weights(combined, a)
    cos = torch.cosine_similarity(a, b, dim=-1)
    expected = 1 - ((2 * cos[:, :3].sum(dim=1) + 3 * cos[:, 3]) / 9).mean()
    torch.testing.assert_close(directional_loss(a, b, weights), expected)
    even = torch.full((4,), 0.25)
    torch.testing.assert_close(directional_loss(a, b, even), directional_loss(a, b))


def test_a_base_stores_its_combined_guide(
    tiny_base: Base,
    combined: CombinedGuide,
    clip_config: Callable[..., Path],
    images: Images,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    shutil.copy(clip_config("tests-tiny-clip"), folder)
    clip = {"kind": "open_clip", "model": "tests-tiny-clip", "config": "tests-tiny-clip.json"}
    spec = {
        "kind": "combined",
        "parts": [
            {"kind": "statistics", "stages": [0, 1, 2], "grid": 1, "weight": 1.0},
            {**clip, "weight": 0.5},
        ],
    }
    save_base(
        folder,
        name="both",
        config=tiny_base.config,
        diffae=tiny_base.diffae.state_dict(),
        z_mean=tiny_base.z_mean,
        z_std=tiny_base.z_std,
        guide=spec,
        guide_weights=combined.guides[1].model.state_dict(),  # type: ignore[attr-defined]
        perceptual=tiny_base.perceptual,
        prior=None,
        photos=None,
        provenance={},
    )
    base = load_base(folder)
    assert base.guide.has_text
    x = images(2)
    # The bundle stores the perceptual net in float16.
    torch.testing.assert_close(base.guide.embed(x), combined.embed(x), atol=5e-3, rtol=5e-3)
