"""Base configurations: the shipped ones, and errors of invalid ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from osasis.errors import UserError
from osasis.networks.sizes import DiffAEConfig, PriorConfig, load_config, named_configs
from osasis.validation import InvalidInputError, Problem

PRIOR: dict[str, Any] = {
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [16],
    "head_channels": 16,
}


def problems(data: dict[str, Any]) -> dict[str, list[Problem]]:
    """The problems of an invalid configuration, by field."""
    with pytest.raises(InvalidInputError) as e:
        DiffAEConfig.parse(data, "mine.json")
    assert e.value.subject == "mine.json"
    found: dict[str, list[Problem]] = {}
    for problem in e.value.problems:
        found.setdefault(problem.field, []).append(problem)
    return found


def test_every_shipped_configuration_loads() -> None:
    assert {"ffhq256", "horse128", "portraits64"} <= set(named_configs())
    for name in named_configs():
        assert load_config(name).name == name


def test_sizes_of_the_official_configurations() -> None:
    ffhq = load_config("ffhq256")
    assert (ffhq.image_size, ffhq.levels, ffhq.z_channels) == (256, 6, 512)
    assert ffhq.prior is not None and ffhq.prior.unet(256).out_channels == 6
    assert load_config("horse128").prior is None


def test_a_file_round_trips(tiny_config: DiffAEConfig, tmp_path: Path) -> None:
    config = tiny_config.replace(prior=PriorConfig.parse(PRIOR))
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(config.to_dict()))
    assert load_config(path) == config


def test_every_invalid_field_is_reported_at_once(tiny_config: DiffAEConfig) -> None:
    data = tiny_config.to_dict()
    del data["z_channels"], data["embed_channels"]
    data |= {"image_size": "32", "heads": True, "channel_mult": [1, 0], "name": 3, "colour": 1}
    data["prior"] = {**PRIOR, "head_channels": -1, "depth": 2}
    del data["prior"]["num_res_blocks"]
    found = problems(data)
    assert {field: [p.value for p in ps] for field, ps in found.items()} == {
        "z_channels": [None],
        "embed_channels": [None],
        "image_size": ["32"],
        "heads": [True],
        "channel_mult[1]": [0],
        "name": [3],
        "colour": [1],
        "prior.head_channels": [-1],
        "prior.num_res_blocks": [None],
        "prior.depth": [2],
    }
    assert found["image_size"][0].allowed == "a whole number from 1"
    assert found["channel_mult[1]"][0].allowed == "a whole number from 1"


def test_sizes_that_do_not_divide_are_reported_at_once(tiny_config: DiffAEConfig) -> None:
    found = problems(tiny_config.to_dict() | {"image_size": 30, "model_channels": 33})
    assert found["channel_mult"][0].value == [1, 2, 2]
    assert "image_size 30" in found["channel_mult"][0].message
    assert found["encoder_channel_mult"][0].value == list(tiny_config.encoder_channel_mult)
    groups = [p.value for p in found["channel_mult"][1:]]
    assert 1 in groups and 2 in groups
    assert problems(tiny_config.to_dict() | {"latent_layers": 1})["latent_layers"][0].value == 1


def test_sizes_of_the_prior_that_do_not_divide_are_reported(tiny_config: DiffAEConfig) -> None:
    prior = {**PRIOR, "channel_mult": [1] * 8, "head_channels": 24}
    found = problems(tiny_config.to_dict() | {"prior": prior})
    assert found["prior.channel_mult"][0].value == [1] * 8
    assert found["prior.head_channels"][0].value == 24


def test_attention_resolutions_may_be_empty_but_levels_may_not(tiny_config: DiffAEConfig) -> None:
    data = tiny_config.to_dict() | {"attention_resolutions": []}
    assert DiffAEConfig.parse(data).attention_resolutions == ()
    found = problems(tiny_config.to_dict() | {"channel_mult": []})
    assert [p.value for p in found["channel_mult"]] == [[]]


def test_the_error_for_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UserError) as e:
        load_config("ffhq265")
    assert "nearest: ffhq256" in str(e.value) and "horse128" in str(e.value)
    with pytest.raises(UserError) as e:
        load_config("zzzzzz")
    assert "nearest" not in str(e.value)


def test_the_error_for_invalid_json_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{"name": "x",\n "image_size": }')
    with pytest.raises(UserError, match=r"line 2"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "value"), [("[1, 2]", [1, 2]), ('"ffhq256"', "ffhq256"), ("3", 3)]
)
def test_json_that_is_not_an_object_is_refused(tmp_path: Path, text: str, value: Any) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError) as e:
        load_config(path)
    assert [(p.field, p.value) for p in e.value.problems] == [("", value)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_of_any_editor(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "own.json"
    config = load_config("ffhq256")
    path.write_text(json.dumps(config.to_dict()), encoding=encoding)
    assert load_config(path) == config
    path.write_bytes(b'{"name": "\xff"}')
    with pytest.raises(UserError, match="not UTF-8 at byte 10; save it as UTF-8"):
        load_config(path)


@pytest.mark.parametrize(
    ("name", "cutoff"), [("ffhq256", 32), ("horse128", 32), ("portraits64", 32)]
)
def test_the_two_coarsest_levels_keep_the_content(name: str, cutoff: int) -> None:
    config = load_config(name)
    assert config.suggested_cutoff == cutoff
    assert sum(size < cutoff for size in sizes_of_levels(config)) == 2


def sizes_of_levels(config: DiffAEConfig) -> list[int]:
    return [config.image_size >> level for level in range(config.levels)]
