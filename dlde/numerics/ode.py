"""Explicit Runge-Kutta schemes with given steps for y' = f(t, y), for a batch of systems at once.

States are (batch, components). Steps are the same for all samples and known in advance, so nothing is
read back to the host and a sample's values do not depend on its neighbours'; a solution that blows up
becomes NaN. Differentiable by autograd where f is.

Sources: dopri5: Dormand & Prince, J. Comput. Appl. Math. 6 (1980); dop853: Hairer, Norsett & Wanner,
Solving Ordinary Differential Equations I (1993), II.5, its coefficients as scipy holds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import DOP853, RK45
from torch import Tensor

from dlde.errors import GridError

Scheme = Literal["rk4", "dopri5", "dop853"]
VectorField = Callable[[float, Tensor], Tensor]  # (t, (batch, components)) -> (batch, components)

ORDERS: dict[Scheme, int] = {"rk4": 4, "dopri5": 5, "dop853": 8}


class Tableau(NamedTuple):
    """Stage i is f at t + nodes[i] dt and y + dt sum_j rows[i][j] k_j; the step adds dt sum weights k."""

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


@cache
def tableau(scheme: Scheme) -> Tableau:
    """The coefficients of a scheme; the higher-order result of an embedded pair."""
    if scheme == "rk4":
        return Tableau(
            (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0, 0.5), (0, 0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
        )
    pair = RK45 if scheme == "dopri5" else DOP853
    rows = tuple(tuple(map(float, row[:number])) for number, row in enumerate(pair.A))
    return Tableau(tuple(map(float, pair.C)), rows, tuple(map(float, pair.B)))


@cache
def stability_radius(scheme: Scheme) -> float:
    """Largest r such that no y' = lambda y with |lambda dt| <= r and Re(lambda) <= 0 grows by steps of dt.

    A growth of a hundredth is let pass, as dopri5 has a thousandth over much of the imaginary axis.
    """
    nodes, rows, weights = tableau(scheme)
    matrix = np.zeros((len(nodes), len(nodes)))
    for number, row in enumerate(rows):
        matrix[number, : len(row)] = row
    powers = [np.ones(len(nodes))]  # R(z) = 1 + sum_k z^(k + 1) weights . matrix^k 1
    for _ in nodes[1:]:
        powers.append(matrix @ powers[-1])
    polynomial = np.array([*(weights @ power for power in reversed(powers)), 1.0])
    rays = np.exp(1j * np.pi * np.linspace(0.5, 1, 181))
    radii = np.arange(1, 1000) / 100
    growth = np.abs(np.polyval(polynomial, radii[:, None] * rays)).max(1)
    return float(radii[np.argmax(growth > 1.01) - 1])


def eigenvalues(field: VectorField, y: Tensor) -> NDArray[np.complex128]:
    """Of the Jacobians of f(0, .) at states (batch, components), flat; by central differences, to 1e-8 or so.

    States where they are not finite are left out.
    """
    size = 1e-6 * max(1.0, float(y.abs().max()))
    columns = [
        (field(0.0, y + shift) - field(0.0, y - shift)) / (2 * size)
        for shift in size * torch.eye(y.shape[1], dtype=y.dtype)
    ]
    jacobians = torch.stack(columns, -1).numpy()
    finite = jacobians[np.isfinite(jacobians).all((1, 2))]
    found: NDArray[np.complex128] = np.linalg.eigvals(finite).ravel().astype(complex)
    return found


def rounded_down(step: float) -> str:
    """A step to three digits, as a message names the largest one: accepted when it is given back."""
    scale = 10.0 ** (math.floor(math.log10(step)) - 2)
    return f"{math.floor(step / scale) * scale:.3g}"


def stretches(times: Sequence[float], dt: float) -> list[tuple[float, int]]:
    """(end, number of equal steps of at most `dt`) of every stretch of time: from 0 to the first, and on.

    Raises GridError for times that do not increase from 0 or later, and for a dt that is not positive.
    """
    if not times or times[0] < 0 or any(later <= earlier for earlier, later in pairwise(times)):
        raise GridError(f"times must increase from a time >= 0, got {tuple(times)}")
    if not dt > 0:
        raise GridError(f"dt must be positive, got {dt:g}")
    starts = [0.0, *times[:-1]]
    return [
        (end, math.ceil((end - start) / dt * (1 - 1e-12))) for start, end in zip(starts, times, strict=True)
    ]


def solve_ode(
    field: VectorField, start: Tensor, times: Sequence[float], dt: float, *, scheme: Scheme = "dop853"
) -> Tensor:
    """States (batch, times, components) at increasing `times` >= 0, from `start` at time 0.

    Between two times the steps are equal and at most `dt`, so that the times are met exactly.
    """
    coefficients = tableau(scheme)
    y, now, states = start, 0.0, []
    for end, num_steps in stretches(times, dt):
        for number in range(num_steps):
            size = (end - now) / num_steps
            y = _step(field, now + number * size, y, size, coefficients)
        states.append(y)
        now = end
    return torch.stack(states, 1)


def _step(field: VectorField, t: float, y: Tensor, dt: float, coefficients: Tableau) -> Tensor:
    slopes: list[Tensor] = []
    for node, row in zip(coefficients.nodes, coefficients.rows, strict=True):
        slopes.append(field(t + node * dt, _moved(y, dt, row, slopes)))
    return _moved(y, dt, coefficients.weights, slopes)


def _moved(y: Tensor, dt: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """y + dt sum_j weights[j] slopes[j]."""
    moved = y
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            # the first addition makes a new tensor, which no one else sees
            moved = y.add(slope, alpha=dt * weight) if moved is y else moved.add_(slope, alpha=dt * weight)
    return moved
