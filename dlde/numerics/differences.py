"""Central differences of high order, as a second opinion: in space on periodic grids, and in time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

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


def five_times(times: Sequence[float], delta: float) -> list[float]:
    """Five times around each, `delta` apart: for `time_derivative`."""
    return [time + shift * delta for time in times for shift in (-2, -1, 0, 1, 2)]


def middles(times: Sequence[float], dt: float) -> tuple[list[float], float]:
    """The middles between neighbouring times (the first from 0), and a sixteenth of the step around them."""
    knots = [0.0, *times] if times[0] else list(times)
    near = min([dt, *np.diff(knots)]) / 16
    return [(begin + end) / 2 for begin, end in pairwise(knots)], float(near)


def time_derivative(states: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """States at `five_times` (batch, 5 times, ...) -> those in the middle, and their derivatives in time.

    Central differences of order 4; each (batch, times, ...).
    """
    before_2, before, middle, after, after_2 = (states[:, place::5] for place in range(5))
    return middle, (8 * (after - before) - (after_2 - before_2)) / (12 * delta)


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
