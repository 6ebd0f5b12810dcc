"""Resolving a precision for a device, and autocast."""

from __future__ import annotations

import pytest
import torch

from osasis.arithmetic import ENVIRONMENT, Arithmetic, autocast, has_bfloat16, resolve
from osasis.bundles.base import Base
from osasis.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16", "float16"])
def test_forward_passes_compute_in_the_given_arithmetic(arithmetic: Arithmetic) -> None:
    """Also on a CPU that has to emulate bfloat16."""
    with autocast(CPU, arithmetic):
        product = torch.mm(torch.ones(2, 2), torch.ones(2, 2))
    assert product.dtype == getattr(torch, arithmetic)
    assert resolve(arithmetic, CPU) == arithmetic


def test_float32_products_are_exact_unless_tf32_is_asked_for() -> None:
    arithmetics: tuple[Arithmetic, ...] = ("tf32", "bfloat16", "float32")
    for arithmetic in arithmetics:
        with autocast(CPU, arithmetic):
            pass
        assert torch.backends.cuda.matmul.allow_tf32 is (arithmetic == "tf32")
        assert torch.backends.cudnn.allow_tf32 is (arithmetic == "tf32")
    # A CPU has no TF32: what is recorded is what was computed.
    assert resolve("tf32", CPU) == "float32"


def test_auto_depends_on_the_instructions_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert resolve("auto", CPU) == ("bfloat16" if has_bfloat16(CPU) else "float32")


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_the_environment_variable_sets_auto(
    arithmetic: Arithmetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, arithmetic)
    assert resolve("auto", CPU) == arithmetic
    other: Arithmetic = "float32" if arithmetic == "bfloat16" else "bfloat16"
    assert resolve(other, CPU) == other


def test_an_invalid_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "float8")
    with pytest.raises(UserError, match=f"{ENVIRONMENT} is 'float8'; set it to one of float32"):
        resolve("auto", CPU)
    assert resolve("float32", CPU) == "float32"


@torch.no_grad()
def test_float16_is_closer_to_float32_than_bfloat16(tiny_base: Base) -> None:
    x = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)

    def noise(arithmetic: Arithmetic) -> torch.Tensor:
        with autocast(CPU, arithmetic):
            return tiny_base.eps_a(torch.zeros(1, 16))(x, torch.tensor([500])).float()

    exact = noise("float32")
    half, brain = ((noise(a) - exact).abs().mean() for a in ("float16", "bfloat16"))
    assert 0 < half < 0.5 * brain
