"""Parsers of option values."""

from __future__ import annotations

from typing import get_args

import pytest

from factory.cli.options import Preset, memory_setting
from factory.methods.lookup import all_methods
from osasis.errors import UserError


def test_the_presets_of_every_method_can_be_chosen() -> None:
    assert set(get_args(Preset)) == {name for method in all_methods() for name in method.presets}


@pytest.mark.parametrize(
    ("size", "gigabytes"), [("24GB", 24.0), ("1.5 gb", 1.5), ("800MB", 0.8), ("1GiB", 1.073741824)]
)
def test_a_size_is_the_setting_memory_in_gb(size: str, gigabytes: float) -> None:
    assert memory_setting(size) == {"memory": pytest.approx(gigabytes)}


def test_without_a_size_the_setting_is_left_out() -> None:
    assert memory_setting(None) == {}


@pytest.mark.parametrize("size", ["24", "GB", "-1GB", "24 TB", "1,5GB"])
def test_a_size_without_number_or_unit_is_refused(size: str) -> None:
    with pytest.raises(UserError, match="give a number with GB, GiB, MB or MiB"):
        memory_setting(size)
