"""Cubic splines through equidistant values, for a batch of functions of time at once.

Twice continuously differentiable, with the not-a-knot condition at both ends, so that cubics are met
exactly and the error falls like spacing^4. Source: de Boor, A Practical Guide to Splines (1978), ch. IV.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from dlde.errors import GridError


class Spline:
    """Functions (batch,) of time on [0, extent], through values (batch, num_points >= 4) at equal distances.

    Called with one time, which is a number on the host: nothing waits for a device.
    """

    def __init__(self, values: Tensor, extent: float) -> None:
        num_points = values.shape[-1]
        if values.ndim != 2 or num_points < 4:
            raise GridError(f"values of shape {tuple(values.shape)}: expected (batch, num_points >= 4)")
        self.spacing = extent / (num_points - 1)
        slopes = values @ _differentiation(num_points).to(values).T  # times the spacing
        self._values = values.T.contiguous()
        self._slopes = slopes.T.contiguous()

    def __call__(self, t: float) -> Tensor:
        """Values (batch,) at time t; beyond the ends the outer cubic goes on."""
        place = t / self.spacing
        piece = min(max(int(place), 0), len(self._values) - 2)
        s = place - piece
        rest = 1 - s
        value = self._values[piece] * (rest * rest * (1 + 2 * s))
        value.add_(self._values[piece + 1], alpha=s * s * (3 - 2 * s))
        value.add_(self._slopes[piece], alpha=s * rest * rest)
        return value.add_(self._slopes[piece + 1], alpha=-s * s * rest)


@lru_cache(maxsize=8)
def _differentiation(num_points: int) -> Tensor:
    """Values at unit distances -> the spline's derivatives there, (num_points, num_points), float64."""
    places = np.arange(num_points)
    spline = CubicSpline(places, np.eye(num_points), bc_type="not-a-knot")
    return torch.from_numpy(np.ascontiguousarray(spline(places, 1)))
