"""Radially symmetric parabolic equations in any number of dimensions, solved as functions of q = |x|^2.

    u_t = diffusivity Lap u + F(u, |grad u|^2),   Lap u = 4 q u_qq + 2 dims u_q,   |grad u|^2 = 4 q u_q^2

In q the origin is no singularity, and no symmetry has to be imposed there. With
q = scale (1 + xi) / (1 - xi) the half line becomes (-1, 1), the operator is degenerate at both ends,
and Chebyshev collocation converges geometrically for data that are analytic on the half line and at
infinity: 48 points give twelve digits for data such as 1 / (1 + q). Time by Radau's method.

Sources: Boyd, Chebyshev and Fourier Spectral Methods (2001), ch. 17 (rational Chebyshev functions);
Berrut & Trefethen, SIAM Review 46 (2004) (barycentric interpolation).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.stats import chi2, ncx2

from dlde.errors import NonFiniteError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RadialSolution:
    """u at the final time by its values at Chebyshev's points, xi from 1 to -1."""

    values: Array
    scale: float

    def __call__(self, squared_radius: Array) -> Array:
        """u at points with |x|^2 = `squared_radius`, any shape."""
        q = np.asarray(squared_radius, dtype=np.float64)
        n = len(self.values) - 1
        nodes = np.cos(np.pi * np.arange(n + 1) / n)
        weights = (-1.0) ** np.arange(n + 1)
        weights[[0, -1]] *= 0.5
        distance = ((q - self.scale) / (q + self.scale))[..., None] - nodes
        at_node = distance == 0
        terms = weights / np.where(at_node, 1.0, distance)
        between = (terms * self.values).sum(-1) / terms.sum(-1)
        exact = np.where(at_node, self.values, 0.0).sum(-1)
        found: Array = np.where(at_node.any(-1), exact, between)
        return found


def solve_radial(
    initial: Callable[[Array], Array],
    source: Callable[[Array, Array], Array],
    *,
    dims: int,
    time: float,
    diffusivity: float = 1.0,
    scale: float = 50.0,
    num_points: int = 48,
    tolerance: float = 1e-10,
) -> RadialSolution:
    """u(., time) from u(., 0) = `initial`(q) with F(u, |grad u|^2) = `source`.

    `initial` is asked at q up to infinity and must have a limit there; `scale` is the q where half the
    points lie below. Raises NonFiniteError where the time integration fails (a solution that blows up).
    """
    n = num_points - 1
    xi = np.cos(np.pi * np.arange(n + 1) / n)
    derivative = _chebyshev_derivative(xi)
    by_q = ((1 - xi) ** 2 / (2 * scale))[:, None] * derivative
    weight = (1 - xi**2)[:, None] / 2  # q (1 - xi)^2 / (2 scale), finite at both ends
    laplacian = 4 * weight * (derivative @ by_q) + 2 * dims * by_q
    with np.errstate(divide="ignore"):
        q = scale * (1 + xi) / (1 - xi)

    def change(t: float, u: Array) -> Array:
        squared_gradient = 4 * weight[:, 0] * (derivative @ u) * (by_q @ u)
        rate: Array = diffusivity * (laplacian @ u) + source(u, squared_gradient)
        return rate

    start = initial(q)
    largest = 1e8 * (1 + np.abs(start).max())

    def room(t: float, u: Array) -> float:
        return float(largest - np.abs(u).max())

    room.terminal = True  # type: ignore[attr-defined]
    solved = solve_ivp(
        change, (0.0, time), start, method="Radau", events=room, rtol=tolerance, atol=1e-3 * tolerance
    )
    if solved.status != 0:
        raise NonFiniteError(
            f"the radial solution in {dims} dimensions grows beyond all bounds at time {solved.t[-1]:.4g}, "
            f"before time {time:g}",
            time=float(solved.t[-1]),
        )
    return RadialSolution(solved.y[:, -1], scale)


def gaussian_mean(
    function: Callable[[Array], Array],
    squared_radius: Array,
    *,
    dims: int,
    variance: float,
    num_nodes: int = 200,
) -> Array:
    """E[function(|x + sqrt(variance) N|^2)] for |x|^2 = `squared_radius` (batch,), N standard normal.

    |x + sqrt(variance) N|^2 / variance is noncentral chi-square with `dims` degrees of freedom. Taken by
    Gauss-Legendre quadrature over the radius, where that law is smooth and about one wide; the mass
    left out is below 1e-20.
    """
    shift = np.asarray(squared_radius, dtype=np.float64)[:, None] / variance
    middle = np.sqrt(shift + dims)
    low, high = np.maximum(middle - 10, 0), middle + 10
    node, weight = np.polynomial.legendre.leggauss(num_nodes)
    radius = low + (high - low) * (node + 1) / 2
    # scipy's noncentral law is not defined without a shift
    density = np.where(
        shift > 0, ncx2.pdf(radius**2, dims, np.where(shift > 0, shift, 1.0)), chi2.pdf(radius**2, dims)
    )
    values = 2 * radius * density * function(variance * radius**2)
    mean: Array = (values * weight).sum(-1) * (high - low)[:, 0] / 2
    return mean


def _chebyshev_derivative(points: Array) -> Array:
    """Of the polynomial through values at Chebyshev's points; rows sum to zero exactly."""
    n = len(points) - 1
    number = np.arange(n + 1)
    edge = np.where((number == 0) | (number == n), 2.0, 1.0) * (-1.0) ** number
    apart = 2 * np.sin((number[:, None] + number) * math.pi / (2 * n))
    apart = apart * np.sin((number - number[:, None]) * math.pi / (2 * n))  # points[i] - points[j]
    matrix = np.outer(edge, 1 / edge) / (apart + np.eye(n + 1))
    derivative: Array = matrix - np.diag(matrix.sum(1))
    return derivative
