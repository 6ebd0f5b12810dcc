"""Group norm in half precision, against float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.networks.blocks import GroupNorm32

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_group_norm_in_half_precision(device: str, dtype: torch.dtype, error: float) -> None:
    torch.manual_seed(0)
    norm = GroupNorm32(64).to(device)
    torch.nn.init.normal_(norm.weight, 1, 0.1)
    x = (torch.randn(2, 64, 16, 16, device=device) + 3).to(dtype)
    upstream = torch.randn_like(x)
    half, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    with torch.autocast(device, dtype):
        y = norm(half)
    y.backward(upstream)
    weight, bias = norm.weight.detach().double(), norm.bias.detach().double()
    expected = F.group_norm(exact, norm.num_groups, weight, bias, norm.eps)
    expected.backward(upstream.double())
    assert half.grad is not None and exact.grad is not None
    assert y.dtype == dtype
    assert relative(y.detach(), expected.detach()) < error
    assert relative(half.grad, exact.grad) < error
