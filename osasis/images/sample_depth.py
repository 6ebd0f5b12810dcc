"""Scaling of samples of any depth to 8 bits."""

from __future__ import annotations

import numpy as np


def white_level(values: np.ndarray, bits: int | None = None) -> float:
    """The sample that counts as white.

    bits: depth that the file states for its integers; up to 16, white is the largest value of this
    depth. Other integers and floats state no range: white is the smallest of 1 (floats only), 255
    and 65535 that is at least the largest value, else the largest value.
    """
    floating = values.dtype.kind == "f"
    if not floating and bits is not None and bits <= 16:
        return float(2 ** (bits - (values.dtype.kind == "i")) - 1)
    top = float(np.max(values, where=np.isfinite(values), initial=0))
    # Resampled floats overshoot 1 slightly, so values up to 2 count as the range 0..1.
    steps = ((2.0, 1.0),) * floating + ((255.0, 255.0), (65535.0, 65535.0))
    return next((step for limit, step in steps if top <= limit), top)


def scaled_to_8_bits(values: np.ndarray, white: float) -> np.ndarray:
    """0..``white`` as 0..255, rounded to the nearest; values outside are clipped, NaN is 0."""
    scaled = np.nan_to_num(values.astype(np.float32) * np.float32(255 / white), nan=0.0)
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
