"""Central differences of high order on periodic grids, as a second opinion on spectral derivatives."""

from __future__ import annotations

from functools import cache

import numpy as np
from torch import Tensor


def difference(field: Tensor, order: int, spacing: float, dim: int = -1, *, accuracy: int = 8) -> Tensor:
    """The derivative of that order along a periodic axis, with an error of spacing^accuracy (even)."""
    reach = accuracy // 2 + (order - 1) // 2
    parts = [
        weight * field.roll(-offset, dim)
        for offset, weight in zip(range(-reach, reach + 1), _weights(order, reach), strict=True)
        if weight
    ]
    return sum(parts[1:], parts[0]) / spacing**order


@cache
def _weights(order: int, reach: int) -> tuple[float, ...]:
    """Those that differentiate every polynomial up to degree 2 reach exactly at 0."""
    offsets = np.arange(-reach, reach + 1, dtype=float)
    powers = np.arange(len(offsets))
    moments = np.zeros(len(offsets))
    moments[order] = np.prod(np.arange(1, order + 1))
    weights = np.linalg.solve(offsets ** powers[:, None], moments)
    weights = (weights + (-1) ** order * weights[::-1]) / 2
    return tuple(weights.tolist())
