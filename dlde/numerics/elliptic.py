"""Elliptic equations on a rectangle with walls, batched: transforms, interpolation, diffusion networks.

A grid has n cells per axis and n + 1 nodes, walls included. Everything runs on the device and in the
precision of its inputs, except for `solve_directly`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from scipy.sparse.linalg import splu
from torch import Tensor

from dlde.errors import InputError
from dlde.numerics.spectral import resample

Array = NDArray[np.float64]


def sine_transform(field: Tensor) -> Tensor:
    """sum_ij field_ij sin(pi k i / nx) sin(pi l j / ny) over the inner nodes (..., nx - 1, ny - 1).

    The same shape comes back, for k, l >= 1; applied twice it gives nx ny / 4 times the field.
    """
    for axis in (-1, -2):
        length = field.shape[axis]
        odd = torch.nn.functional.pad(field.transpose(-1, axis), (1, 1))
        odd = torch.cat([odd, -odd[..., 1:-1].flip(-1)], dim=-1)
        field = torch.fft.rfft(odd).imag[..., 1 : length + 1].mul(-0.5).transpose(-1, axis)
    return field


def solve_poisson(source: Tensor, symbols: tuple[Array, Array]) -> Tensor:
    """-Lap u = source at the inner nodes, u = 0 on the walls: (..., nx - 1, ny - 1).

    The Laplacian is what the sines make of it: `symbols` holds minus its eigenvalues along x and y,
    such as `second_difference` or `second_derivative`.
    """
    nx, ny = (len(symbol) + 1 for symbol in symbols)
    inverse = 4 / (nx * ny) / (symbols[0][:, None] + symbols[1])
    return sine_transform(sine_transform(source) * torch.from_numpy(inverse).to(source))


def second_difference(num_cells: int, extent: float) -> Array:
    """Minus the eigenvalues of (u[i-1] - 2 u[i] + u[i+1]) / h^2 for the sines k = 1 .. num_cells - 1."""
    half_phase = np.pi * np.arange(1, num_cells, dtype=np.float64) / (2 * num_cells)
    return np.asarray((2 * num_cells / extent * np.sin(half_phase)) ** 2, np.float64)


def second_derivative(num_cells: int, extent: float) -> Array:
    """Minus the eigenvalues of u_xx for the sines k = 1 .. num_cells - 1."""
    return np.asarray((np.pi * np.arange(1, num_cells) / extent) ** 2, np.float64)


def between_walls(field: Tensor, num_points: Sequence[int]) -> Tensor:
    """The sine interpolant of nodal values (..., x, y) that vanish on the walls, on another grid."""
    for axis, wanted in zip((-2, -1), num_points, strict=True):
        along = field.transpose(-1, axis)
        odd = torch.cat([along, -along[..., 1:-1].flip(-1)], dim=-1)
        field = resample(odd, 2 * (wanted - 1))[..., :wanted].transpose(-1, axis)
    return field


def interpolated(field: Tensor, num_points: Sequence[int]) -> Tensor:
    """Nodal values (..., x, y) on another grid of the same rectangle: sampled where every wanted node

    is one, else by quintic splines (order 6 for smooth fields).
    """
    for axis, wanted in zip((-2, -1), num_points, strict=True):
        given = field.shape[axis]
        stride, rest = divmod(given - 1, wanted - 1)
        if not rest:
            field = field[..., ::stride, :] if axis == -2 else field[..., ::stride]
            continue
        field = _matmul(field, _spline(given, wanted), axis)
    return field.contiguous()


@lru_cache(maxsize=16)
def _spline(given: int, wanted: int) -> Array:
    """(wanted, given)."""
    degree = min(5, given - 1 - given % 2)
    matrix: Array = make_interp_spline(np.linspace(0, 1, given), np.eye(given), k=degree)(
        np.linspace(0, 1, wanted)
    )
    return matrix


def wall_field(
    generator: np.random.Generator,
    num_points: Sequence[int],
    extent: Sequence[float],
    *,
    exponent: float,
    tau: float,
    sigma: float,
    num_modes: int,
    zero: str,
) -> Array:
    """One Gaussian field N(0, sigma^2 (-Lap + tau^2 I)^-exponent) at the nodes of a rectangle with walls.

    `zero` says what vanishes on the walls: the "value" (a sum of sines), or the normal "slope" (a sum of
    cosines, without the constant). Of the eigenfunctions the first `num_modes` per axis are
    taken; the generator is consumed alike for every grid.
    Source: Li et al., Fourier Neural Operator (2021), arXiv 2010.08895, appendix A.3.
    """
    k = np.arange(1, num_modes + 1) if zero == "value" else np.arange(num_modes)
    squares = [(np.pi * k / length) ** 2 for length in extent]
    std = sigma * (squares[0][:, None] + squares[1] + tau**2) ** (-exponent / 2)
    coefficients = std * generator.standard_normal(std.shape)
    if zero == "slope":
        coefficients[0, 0] = 0
    basis = []
    for count, length in zip(num_points, extent, strict=True):
        phase = np.pi * np.outer(np.linspace(0, 1, count), k)
        waves = np.sin(phase) if zero == "value" else np.cos(phase)
        if zero == "value":
            waves[[0, -1]] = 0
        basis.append(np.sqrt(np.where(k > 0, 2, 1) / length) * waves)
    field: Array = basis[0] @ coefficients @ basis[1].T
    return field


Network = tuple[Tensor, Tensor]  # conductances along x (batch, nx, ny - 1) and along y (batch, nx - 1, ny)


def network(coefficient: Tensor, num_cells: Sequence[int]) -> Network:
    """The finite-volume form of -div(a grad u) on the unit square, as conductances between nodes.

    `coefficient` (batch, x, y) is given at the nodes of a grid that may be another one, and is constant
    around each of them, up to half way to the next. Along an edge resistances are added, across it
    conductances: on the grid of `coefficient` these are the harmonic means of neighbours, on one that
    is finer or coarser the exact averages over the edge's cell.
    """
    nx, ny = num_cells
    parts = [_halfway(count) for count in coefficient.shape[1:]]
    edges = [np.linspace(0, 1, cells + 1) for cells in num_cells]
    middles = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    along = [_mean_over(edge, part) for edge, part in zip(edges, parts, strict=True)]
    across = [_mean_over(middle, part) for middle, part in zip(middles, parts, strict=True)]
    resistance = 1 / coefficient
    along_x = 1 / _matmul(resistance, along[0], -2)
    along_y = 1 / _matmul(resistance, along[1], -1)
    return _matmul(along_x, across[1], -1) * (nx / ny), _matmul(along_y, across[0], -2) * (ny / nx)


def mean_in_cells(coefficient: Tensor, num_cells: Sequence[int]) -> Tensor:
    """The average (batch, nx, ny) over every cell of a grid of a coefficient as `network` reads it."""
    for axis, cells in zip((-2, -1), num_cells, strict=True):
        matrix = _mean_over(np.linspace(0, 1, cells + 1), _halfway(coefficient.shape[axis]))
        coefficient = _matmul(coefficient, matrix, axis)
    return coefficient


def balance(links: Network, u: Tensor) -> Tensor:
    """What flows out of every inner node: u (batch, nx + 1, ny + 1) -> (batch, nx - 1, ny - 1)."""
    along_x = links[0] * torch.diff(u[:, :, 1:-1], dim=1)
    along_y = links[1] * torch.diff(u[:, 1:-1], dim=2)
    return torch.diff(along_x, dim=1).add_(torch.diff(along_y, dim=2)).neg_()


def element_balance(coefficient: Tensor, u: Tensor) -> Tensor:
    """The same by bilinear finite elements on the unit square: integrals of a grad u . grad v.

    `coefficient` (batch, nx, ny) is constant in every cell, u (batch, nx + 1, ny + 1) nodal, and v runs
    over the hat functions of the inner nodes: (batch, nx - 1, ny - 1).
    """
    nx, ny = coefficient.shape[1:]

    def along(field: Tensor, cells: Tensor) -> Tensor:
        """Differences along the first axis, each weighed over the two cells beside its edge."""
        steps = torch.diff(field, dim=1)
        left, right = steps[..., :-1], steps[..., 1:]
        flow = torch.zeros_like(steps)
        flow[..., :-1] += cells * (left / 3 + right / 6)
        flow[..., 1:] += cells * (right / 3 + left / 6)
        return -torch.diff(flow, dim=1)[..., 1:-1]

    return along(u, coefficient) * (nx / ny) + along(u.mT, coefficient.mT).mT * (ny / nx)


def diagonal(links: Network) -> Tensor:
    """Sum of the conductances at every inner node (batch, nx - 1, ny - 1)."""
    return links[0][:, 1:] + links[0][:, :-1] + links[1][:, :, 1:] + links[1][:, :, :-1]


def solve_directly(links: Network, rhs: Tensor) -> Tensor:
    """`balance(u) = rhs` with u = 0 on the walls, by sparse LU, sample by sample; computed in float64.

    A sample with conductances that are not finite is NaN. Raises InputError elsewhere than on a CPU.
    """
    if rhs.device.type != "cpu":
        raise InputError(
            f"the sparse direct solver runs on the CPU alone, but the instances are on {rhs.device}; "
            "use method: multigrid"
        )
    shape = rhs.shape[1:]
    number = np.arange(rhs[0].numel()).reshape(shape)
    pairs = [(number[1:].ravel(), number[:-1].ravel()), (number[:, 1:].ravel(), number[:, :-1].ravel())]
    rows = np.concatenate([number.ravel(), *(place for pair in pairs for place in pair)])
    columns = np.concatenate([number.ravel(), *(place for pair in pairs for place in pair[::-1])])
    center = diagonal(links)
    solution = torch.empty_like(rhs, dtype=torch.float64)
    for sample in range(len(rhs)):
        sides = [
            -links[0][sample, 1:-1].reshape(-1).double().numpy(),
            -links[1][sample, :, 1:-1].reshape(-1).double().numpy(),
        ]
        values = np.concatenate(
            [center[sample].reshape(-1).double().numpy(), *(side for side in sides for _ in range(2))]
        )
        if not np.isfinite(values).all():
            solution[sample] = torch.nan
            continue
        matrix = scipy.sparse.csc_matrix((values, (rows, columns)))
        factors = splu(
            matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        u = factors.solve(rhs[sample].reshape(-1).double().numpy())
        solution[sample] = torch.from_numpy(u).view(shape)
    return solution.to(rhs.dtype)


def _matmul(field: Tensor, matrix: Array, axis: int) -> Tensor:
    """One product for every sample, so that a sample's bits do not depend on the batch."""
    weights = torch.from_numpy(matrix).to(field)
    return weights @ field if axis == -2 else (weights @ field.mT).mT


def _halfway(count: int) -> Array:
    """Where one node's part of the unit interval ends and the next one's begins (count + 1,)."""
    nodes = np.linspace(0, 1, count)
    return np.concatenate([[0.0], (nodes[1:] + nodes[:-1]) / 2, [1.0]])


def _mean_over(ends: Array, parts: Array) -> Array:
    """(intervals, parts): the mean over [ends[i], ends[i + 1]] of a function that is constant on parts."""
    overlap = np.minimum(ends[1:, None], parts[1:]) - np.maximum(ends[:-1, None], parts[:-1])
    overlap[overlap < 1e-12] = 0
    weights: Array = overlap / overlap.sum(1, keepdims=True)
    return weights
