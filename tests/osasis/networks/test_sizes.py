"""Base configurations: what ships, and how wrong ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from osasis.errors import UserError
from osasis.networks.sizes import DiffAEConfig, PriorConfig, load_config, named_configs

PRIOR: dict[str, Any] = {
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [16],
    "head_channels": 16,
}


def test_every_shipped_configuration_loads() -> None:
    assert {"ffhq256", "horse128", "portraits64"} <= set(named_configs())
    for name in named_configs():
        config = load_config(name)
        assert config.name == name
        assert config.problems() == []


def test_sizes_of_the_official_configurations() -> None:
    ffhq = load_config("ffhq256")
    assert (ffhq.image_size, ffhq.levels, ffhq.z_channels) == (256, 6, 512)
    assert ffhq.prior is not None and ffhq.prior.unet(256).out_channels == 6
    assert load_config("horse128").prior is None


def test_a_file_round_trips(tiny_config: DiffAEConfig, tmp_path: Path) -> None:
    prior = PriorConfig(32, (1, 2), 1, (16,), 16)
    config = tiny_config.replace(prior=prior)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(config.to_dict()))
    assert load_config(path) == config


def test_every_wrong_field_is_named_at_once(tiny_config: DiffAEConfig) -> None:
    data = tiny_config.to_dict()
    del data["z_channels"], data["embed_channels"]
    data |= {"image_size": "32", "heads": True, "channel_mult": [1, 0], "name": 3, "colour": 1}
    data["prior"] = {**PRIOR, "head_channels": -1, "depth": 2}
    del data["prior"]["num_res_blocks"]
    with pytest.raises(UserError) as e:
        DiffAEConfig.parse(data, "mine.json")
    text = str(e.value)
    assert text.startswith("mine.json: ")
    for part in (
        "z_channels is missing",
        "embed_channels is missing",
        "image_size is '32'; it must be a positive integer",
        "heads is True",
        "channel_mult is [1, 0]; it must be a list of positive integers",
        "name is 3; it must be a string",
        "unknown field 'colour'",
        "prior.head_channels is -1",
        "prior.num_res_blocks is missing",
        "prior.unknown field 'depth'",
    ):
        assert part in text
    assert "\n" not in text


def test_impossible_sizes_are_named_at_once(tiny_config: DiffAEConfig) -> None:
    data = tiny_config.to_dict() | {"image_size": 30, "latent_layers": 1, "model_channels": 33}
    with pytest.raises(UserError) as e:
        DiffAEConfig.parse(data)
    text = str(e.value)
    assert "image_size 30 cannot be halved 2 times, as channel_mult [1, 2, 2] asks" in text
    assert "as encoder_channel_mult" in text
    assert "latent_layers is 1" in text
    assert "33 channels (multiplier 1) do not divide into 32 groups" in text


def test_impossible_sizes_of_the_prior_are_named(tiny_config: DiffAEConfig) -> None:
    prior = {**PRIOR, "channel_mult": [1] * 8, "head_channels": 24}
    with pytest.raises(UserError) as e:
        DiffAEConfig.parse(tiny_config.to_dict() | {"prior": prior})
    text = str(e.value)
    assert "prior.channel_mult" in text and "7 times" in text
    assert "prior.head_channels 24" in text


def test_attention_may_be_nowhere_but_levels_may_not(tiny_config: DiffAEConfig) -> None:
    data = tiny_config.to_dict() | {"attention_resolutions": []}
    assert DiffAEConfig.parse(data).attention_resolutions == ()
    with pytest.raises(UserError, match="channel_mult is \\[\\]"):
        DiffAEConfig.parse(tiny_config.to_dict() | {"channel_mult": []})


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError) as e:
        load_config("ffhq265")
    assert "did you mean 'ffhq256'?" in str(e.value) and "horse128" in str(e.value)
    with pytest.raises(UserError) as e:
        load_config("zzzzzz")
    assert "did you mean" not in str(e.value)


def test_broken_json_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{"name": "x",\n "image_size": }')
    with pytest.raises(UserError, match=r"not valid JSON \(line 2"):
        load_config(path)


@pytest.mark.parametrize("text", ["[1, 2]", '"ffhq256"', "3"])
def test_json_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(UserError, match="must be a JSON object"):
        load_config(path)
