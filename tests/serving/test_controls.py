"""The descriptions of the page's controls."""

from __future__ import annotations

from factory.methods import base_facts
from osasis.mix import Mix
from serving.config import Limits
from serving.controls import controls
from tests.tiny import CONFIG


def test_each_field_of_the_mix_has_a_control_within_its_range() -> None:
    base = base_facts({"config": CONFIG.to_dict()})
    found = {c["name"]: c for c in controls(base, Limits(decode_steps=60), ["smile"])}
    assert set(found) == set(base["mix_fields"]) - {"styles"}
    assert list(found)[:3] == ["strength", "palette", "structure"]
    fields = Mix.model_fields
    assert all(c["description"] == fields[name].description for name, c in found.items())
    assert found["strength"]["help"] == "how strongly the style is applied"
    assert not any(found[name]["expert"] for name in ("strength", "palette", "structure"))
    for name, c in found.items():
        sent = [c["low"], c["high"]] if c["kind"] == "slider" else c["values"]
        if c["kind"] == "levels":
            assert c["values"] == [32, 16, 8]
            continue
        for value in sent:
            Mix.of("a", **{name: value})
    assert found["decode_steps"]["values"] == [5, 10, 20, 50]
    assert found["content_cutoff"]["values"] == [8, 16, 32, 64]
    assert found["blend"]["values"] == ["weights", "noise"]
    assert found["text_edit"]["values"] == [None, "smile"]


def test_text_edits_have_controls_where_there_are_any() -> None:
    base = base_facts({"config": CONFIG.to_dict()})
    names = {c["name"] for c in controls(base, Limits(), [])}
    assert not names & {"text_edit", "text_amount"} and "strength" in names


def test_another_method_has_controls_of_its_own() -> None:
    base = base_facts({"method": "diffstyler", "image_size": 512})
    found = {c["name"]: c for c in controls(base, Limits(), [])}
    assert found["guidance"]["kind"] == "slider" and found["negative_prompt"]["kind"] == "text"
    assert not set(found) & {"t0", "content_cutoff", "level_weights", "spacing", "palette"}
