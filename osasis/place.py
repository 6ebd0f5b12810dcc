"""Where a square lies on a photo. Knows no torch: who only reads photos need not load it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Place:
    """Where a square lies on a photo: photo coordinates (pixels, corners at whole numbers) to
    the square's, [-1, 1] in both directions: u = ux·x + uy·y + u0, v = vx·x + vy·y + v0."""

    ux: float
    uy: float
    u0: float
    vx: float
    vy: float
    v0: float

    def to_list(self) -> list[float]:
        return [self.ux, self.uy, self.u0, self.vx, self.vy, self.v0]

    def scaled(self, x: float, y: float) -> Place:
        """The same place on a photo that was resized by these factors."""
        return Place(self.ux / x, self.uy / y, self.u0, self.vx / x, self.vy / y, self.v0)

    def bounds(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The photo's pixels (left, top, right, bottom) that the square touches."""
        inverse = np.linalg.inv(np.array([[self.ux, self.uy], [self.vx, self.vy]]))
        corners = np.array([(u - self.u0, v - self.v0) for u in (-1, 1) for v in (-1, 1)])
        points = corners @ inverse.T
        low, high = np.floor(points.min(0)), np.ceil(points.max(0))
        return (
            int(np.clip(low[0], 0, width)),
            int(np.clip(low[1], 0, height)),
            int(np.clip(high[0], 0, width)),
            int(np.clip(high[1], 0, height)),
        )
