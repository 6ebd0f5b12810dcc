"""A tiny base of DiffStyler, and two styles of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from diffstyler.style import Style
    from factory.methods.diffstyler.base import DiffStylerBase


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from tests.diffstyler.tiny_base import write_base

    torch.set_num_threads(1)
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def base(folder: Path) -> DiffStylerBase:
    from factory.methods import load_base
    from factory.methods.diffstyler.base import DiffStylerBase

    loaded = load_base(folder)
    assert isinstance(loaded, DiffStylerBase)
    return loaded


@pytest.fixture(scope="session")
def styles(base: DiffStylerBase) -> dict[str, Style]:
    """Two styles with random adapters and different prompts."""
    from diffstyler.settings import make_settings
    from diffstyler.style import Style
    from tests.diffstyler.tiny_base import FEW
    from tests.diffstyler.tiny_sd import random_adapter

    settings = make_settings("default", **FEW)
    return {
        name: Style(name, random_adapter(base.networks, seed), f"painting of {name}", settings)
        for seed, name in enumerate("ab", start=1)
    }


@pytest.fixture(scope="session")
def photos() -> Tensor:
    import torch

    from tests.diffstyler.tiny_sd import picture

    return torch.stack([picture(seed) for seed in (1, 2)])
