"""The Frechet distance against the closed form and scipy's matrix root."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch

from osasis.evaluation.artfid import art_fid, set_fid
from osasis.evaluation.frechet import frechet


def test_frechet_of_gaussians_matches_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    b = 2 * torch.randn(20_000, 3, generator=generator, dtype=torch.float64) + 1
    assert frechet(a, a) < 1e-6
    # |mean gap|^2 + sum (s_a - s_b)^2 = 3 + 3.
    assert abs(frechet(a, b) - 6) < 0.25


def test_frechet_equals_the_definition_with_a_matrix_square_root() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 6)), rng.normal(size=(30, 6)) @ rng.normal(size=(6, 6)) + 0.3
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert abs(frechet(torch.from_numpy(a), torch.from_numpy(b)) - expected) < 1e-8


def test_artfid_is_the_product_of_its_parts_and_counts_each_style_image_once() -> None:
    rng = np.random.default_rng(2)
    stylized, style = rng.normal(size=(12, 3)), rng.normal(size=(4, 3)) + 1
    lpips = rng.uniform(size=(12, 1))
    rows = np.concatenate([lpips, stylized, style[np.arange(12) % 4]], axis=1)
    fid = frechet(torch.from_numpy(stylized), torch.from_numpy(style))
    assert abs(set_fid(rows) - fid) < 1e-9
    assert abs(art_fid(rows) - (1 + lpips.mean()) * (1 + fid)) < 1e-9
    assert np.isnan(set_fid(rows[:1]))
