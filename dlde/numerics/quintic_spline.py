"""Quintic splines through equidistant values, for a batch of functions of time at once.

Four times continuously differentiable, so that a Runge-Kutta scheme of order 4 keeps its order over the
knots; with the not-a-knot condition at both ends quintics are met exactly, and the error falls like
spacing^6. Source: de Boor, A Practical Guide to Splines (1978), ch. XIII.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor

from dlde.errors import GridError

LEAST = 6  # points that a quintic needs

# s^0 ... s^5 on (0, 1) of the quintic that has a value, slope and second derivative at either end
_HERMITE = (
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.5, 0.0, 0.0, 0.0),
    (-10.0, -6.0, -1.5, 10.0, -4.0, 0.5),
    (15.0, 8.0, 1.5, -15.0, 7.0, -1.0),
    (-6.0, -3.0, -0.5, 6.0, -3.0, 0.5),
)


class Spline:
    """Functions (batch,) of time on [0, extent], through values (batch, num_points >= 6) at equal distances.

    Called with one time, which is a number on the host: nothing waits for a device.
    """

    def __init__(self, values: Tensor, extent: float) -> None:
        num_points = values.shape[-1]
        if values.ndim != 2 or num_points < LEAST:
            raise GridError(f"values of shape {tuple(values.shape)}: expected (batch, num_points >= {LEAST})")
        self.spacing = extent / (num_points - 1)
        ends = torch.stack(
            [values, *(values @ matrix.to(values).T for matrix in _differentiation(num_points))]
        )
        pieces = torch.cat([ends[:, :, :-1], ends[:, :, 1:]])  # (6, batch, pieces)
        self._pieces = torch.einsum("ke,ebp->pkb", values.new_tensor(_HERMITE), pieces).contiguous()

    def __call__(self, t: float) -> Tensor:
        """Values (batch,) at time t; beyond the ends the outer quintic goes on."""
        place = t / self.spacing
        piece = min(max(int(place), 0), len(self._pieces) - 1)
        *lower, total = self._pieces[piece].unbind(0)
        for coefficient in reversed(lower):
            total = torch.add(coefficient, total, alpha=place - piece)
        return total


@lru_cache(maxsize=8)
def _differentiation(num_points: int) -> tuple[Tensor, Tensor]:
    """Values at unit distances -> the spline's first and second derivatives there, float64 matrices."""
    places = np.arange(num_points)
    spline = make_interp_spline(places, np.eye(num_points), k=5)
    first, second = (torch.from_numpy(np.ascontiguousarray(spline(places, order))) for order in (1, 2))
    return first, second
