"""Key layouts against the published lists of keys and shapes (tests/reference)."""

from __future__ import annotations

import json

import pytest
import torch

from osasis.bundles.base import Base
from osasis.errors import UserError
from osasis.networks.checkpoint_keys import (
    Layout,
    diffae_layout,
    from_official,
    prior_layout,
    to_official,
)
from osasis.networks.sizes import DiffAEConfig, load_config
from tests.conftest import REFERENCE


def published(name: str) -> dict[str, list[int]]:
    keys: dict[str, list[int]] = json.loads((REFERENCE / f"{name}.keys.json").read_text())
    return keys


def shapes(layout: Layout) -> dict[str, list[int]]:
    return {k: list(v) for k, v in layout.items()}


@pytest.mark.parametrize("name", ["ffhq256", "horse128"])
def test_diffae_layout_is_the_published_one(name: str) -> None:
    expected = published(f"{name}_autoenc_latent")
    assert shapes(diffae_layout(load_config(name))) == expected


def test_prior_layout_is_the_published_one() -> None:
    config = load_config("ffhq256")
    assert config.prior is not None
    assert shapes(prior_layout(config.prior, 256)) == published("ffhq_p2")


def test_to_official_inverts_from_official(tiny_base: Base) -> None:
    own = tiny_base.diffae.state_dict()
    official = to_official(own)
    assert {k: v.shape for k, v in official.items()} == diffae_layout(tiny_base.config)
    # The latent net's linear layers are stored under two names.
    assert len(official) > len(own)
    back = from_official(official, tiny_base.config, "test")
    assert set(back) == set(own)
    assert all(torch.equal(back[k], own[k]) for k in own)
    again = to_official(back)
    assert set(again) == set(official)
    assert all(torch.equal(again[k], official[k]) for k in official)


def test_without_prefix(tiny_base: Base) -> None:
    official = to_official(tiny_base.diffae.state_dict(), prefix="")
    assert "input_blocks.0.0.weight" in official and "latent_net.layers.0.linear.weight" in official
    back = from_official(official, tiny_base.config, "test", prefix="")
    assert set(back) == set(tiny_base.diffae.state_dict())


def test_keys_with_other_prefixes_are_ignored(tiny_base: Base) -> None:
    official = to_official(tiny_base.diffae.state_dict())
    extra = {"model.anything": torch.zeros(1), "x_T": torch.zeros(2)}
    assert set(from_official(official | extra, tiny_base.config, "test")) == set(
        tiny_base.diffae.state_dict()
    )


def test_half_precision_becomes_float32(tiny_base: Base) -> None:
    official = {k: v.half() for k, v in to_official(tiny_base.diffae.state_dict()).items()}
    back = from_official(official, tiny_base.config, "test")
    assert {v.dtype for v in back.values()} == {torch.float32}


def test_the_first_wrong_keys_are_named(tiny_config: DiffAEConfig, tiny_base: Base) -> None:
    state = to_official(tiny_base.diffae.state_dict())
    del state["ema_model.out.2.bias"]
    state["ema_model.out.9.bias"] = torch.zeros(3)
    state["ema_model.input_blocks.0.0.bias"] = torch.zeros(5)
    with pytest.raises(UserError) as e:
        from_official(state, tiny_config, "some.ckpt")
    text = str(e.value)
    assert text.startswith("some.ckpt: ")
    assert "ema_model.out.2.bias is missing" in text
    assert "ema_model.out.9.bias is unknown" in text
    assert "ema_model.input_blocks.0.0.bias has shape [5], not [8]" in text
    assert "more" not in text

    with pytest.raises(UserError) as e:
        from_official({}, tiny_config, "some.ckpt")
    assert str(e.value).count(" is missing") == 3
    assert f"and {len(diffae_layout(tiny_config)) - 3} more" in str(e.value)
