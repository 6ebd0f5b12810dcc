"""bfloat16 only where the hardware has it."""

from __future__ import annotations

import pytest
import torch

from osasis import precision
from osasis.precision import autocast


def product_type() -> torch.dtype:
    return torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype


@pytest.mark.parametrize(("has", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_needs_a_cpu_that_computes_in_it(
    has: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has)
    with autocast(torch.device("cpu"), "bfloat16"):
        assert product_type() == expected
    with autocast(torch.device("cpu"), "float32"):
        assert product_type() == torch.float32
