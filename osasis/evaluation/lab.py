"""CIE L*a*b* (D65) of sRGB images. OpenCV's conversion is off by up to 0.2 in L*."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Linear sRGB to CIE XYZ (IEC 61966-2-1), divided by the white point's X, Y and Z.
WHITE = np.array([0.9505, 1.0, 1.089])
TO_XYZ = (
    np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    / WHITE[:, None]
)
KINK = 6 / 29


def to_lab(pixels: Tensor) -> np.ndarray:
    """L*a*b* of an sRGB image (3, H, W) in [-1, 1]; (H, W, 3) float64, L* in 0..100."""
    rgb = ((pixels.detach().double().cpu() + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    t = linear @ TO_XYZ.T
    f = np.where(t > KINK**3, np.cbrt(t), t / (3 * KINK**2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def from_lab(lab: np.ndarray) -> Tensor:
    """The sRGB image (3, H, W) in [-1, 1] of L*a*b* (H, W, 3); clipped to sRGB's gamut."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    t = np.where(f > KINK, f**3, 3 * KINK**2 * (f - 4 / 29))
    linear = (t @ np.linalg.inv(TO_XYZ).T).clip(0, 1)
    rgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return torch.from_numpy(rgb).permute(2, 0, 1).float().mul(2).sub(1)
