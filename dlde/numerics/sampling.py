"""Points in a box, given by its corners `low` and `high` (coordinates,): random, regular and in between.

Everything is drawn on the CPU from the generator that is handed in, so that all workers and devices
draw the same points. Results are (num_points, coordinates) in the dtype of `low`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlde.errors import GridError


def uniform(num_points: int, low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """Independent points."""
    return low + (high - low) * _rand(num_points, low, generator)


def grid(num_points: int, low: Tensor, high: Tensor) -> Tensor:
    """Equally spaced, ends included, as many along each axis; the first axis varies slowest.

    Raises GridError where the number of points is no power of the dimension.
    """
    per_axis = points_per_axis(num_points, len(low))
    lines = [torch.linspace(float(a), float(b), per_axis, dtype=low.dtype)
             for a, b in zip(low, high, strict=True)]  # fmt: skip
    return torch.cartesian_prod(*lines).reshape(-1, len(low))


def noisy_grid(num_points: int, low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """Equally spaced points plus Gaussian noise of a quarter of the spacing (extent / points per axis).

    What neurodiffeq (Chen et al., J. Open Source Softw. 5 (2020) 1931) draws by default, but points
    that would leave the box are reflected into it.
    """
    per_axis = points_per_axis(num_points, len(low))
    noise = torch.randn((num_points, len(low)), generator=generator, dtype=low.dtype)
    x = (grid(num_points, low, high) - low) / (high - low) + noise / (4 * per_axis)
    x = x.abs()
    return low + (high - low) * torch.where(x > 1, 2 - x, x).clamp(0, 1)


def latin_hypercube(num_points: int, low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """One point in each of `num_points` slices of every axis, the slices paired at random."""
    strata = torch.stack([torch.randperm(num_points, generator=generator) for _ in low], dim=1)
    unit = (strata + _rand(num_points, low, generator)) / num_points
    return low + (high - low) * unit.to(low)


def lattice(num_points: int, low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """An evenly spread set, shifted at random with wrapping: each point alone is uniform.

    Along the first axis the points are equally spaced; further ones are multiples, modulo one, of
    powers of the root of g^d = g + 1 (for two axes the golden ratio), which never come close. A mean over
    them scatters far less than over independent points.
    """
    dims = len(low)
    root = 1.5
    for _ in range(64):
        root = (1 + root) ** (1 / dims)
    steps = [1 / max(num_points, 1), *(root**-power for power in range(1, dims))]
    number = torch.arange(num_points, dtype=torch.float64).unsqueeze(1)
    shift = torch.rand(dims, generator=generator, dtype=torch.float64)
    unit = (number * torch.tensor(steps, dtype=torch.float64) + shift) % 1
    return low + (high - low) * unit.to(low)


def sobol(num_points: int, low: Tensor, high: Tensor, *, seed: int) -> Tensor:
    """The first points of a scrambled Sobol sequence; the more, the denser, at an error near 1 / points."""
    engine = torch.quasirandom.SobolEngine(len(low), scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    return low + (high - low) * engine.draw(num_points, dtype=torch.float64).to(low)


def midpoints(per_axis: int, low: Tensor, high: Tensor) -> Tensor:
    """The midpoints of `per_axis` equal cells along each axis: the nodes of the midpoint rule."""
    unit = (torch.arange(per_axis, dtype=low.dtype) + 0.5) / per_axis
    cells = torch.cartesian_prod(*[unit] * len(low)).reshape(-1, len(low))
    return low + (high - low) * cells


def proportional(weights: Tensor, num_points: int, generator: torch.Generator) -> Tensor:
    """Indices (num_points,) drawn with replacement, with probabilities proportional to weights (pool,)."""
    return torch.multinomial(weights.cpu(), num_points, replacement=True, generator=generator)


def points_per_axis(num_points: int, dims: int) -> int:
    """The integer root. Raises GridError with the nearest numbers that have one."""
    root = round(num_points ** (1 / dims))
    if root**dims != num_points or root < 2:
        low = max(int(num_points ** (1 / dims)), 2)
        raise GridError(
            f"{num_points} points are no grid with as many (at least 2) along each of {dims} axes; "
            f"use {low**dims} or {(low + 1) ** dims}",
            possible=[low**dims, (low + 1) ** dims],
        )
    return int(root)


def _rand(num_points: int, low: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand((num_points, len(low)), generator=generator, dtype=low.dtype)
