"""Samplers: inside the box, even, and each with the property it is named for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlde.errors import GridError
from dlde.numerics import sampling

torch.set_num_threads(1)
LOW, HIGH = torch.tensor([-1.0, 2.0], dtype=torch.float64), torch.tensor([1.0, 2.5], dtype=torch.float64)
RANDOM: dict[str, Callable[..., Tensor]] = {
    "uniform": sampling.uniform,
    "noisy-grid": sampling.noisy_grid,
    "latin-hypercube": sampling.latin_hypercube,
    "lattice": sampling.lattice,
}


def generator(seed: int = 100) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_points_lie_in_the_box_and_depend_on_the_generator_alone(name: str) -> None:
    draw = RANDOM[name]
    x = draw(64, LOW, HIGH, generator())
    assert x.shape == (64, 2)
    assert x.dtype == torch.float64
    assert bool(((x >= LOW) & (x <= HIGH)).all())
    torch.testing.assert_close(x, draw(64, LOW, HIGH, generator()), rtol=0, atol=0)
    assert not torch.equal(x, draw(64, LOW, HIGH, generator(101)))


@pytest.mark.parametrize("name", ["uniform", "latin-hypercube", "lattice"])
def test_every_point_alone_is_uniform(name: str) -> None:
    """Mean and variance of one and the same point over 2000 draws, within four standard errors."""
    g = generator()
    unit = torch.stack([(RANDOM[name](16, LOW, HIGH, g)[5] - LOW) / (HIGH - LOW) for _ in range(2000)])
    assert (unit.mean(0) - 0.5).abs().max() < 4 * (1 / 12 / 2000) ** 0.5
    assert (unit.var(0) - 1 / 12).abs().max() < 4 * (1 / 180 / 2000) ** 0.5


def test_even_points_scatter_less() -> None:
    """Variance of a mean over 256 points, where independent points have 1 / 256 of the function's."""

    def variance(name: str) -> float:
        g = generator()
        means = [torch.sin(3 * RANDOM[name](256, LOW, HIGH, g)).sum(1).mean() for _ in range(100)]
        return float(torch.stack(means).var())

    independent = variance("uniform")
    assert variance("lattice") < 0.02 * independent
    assert variance("latin-hypercube") < 0.02 * independent


def test_a_lattice_on_a_line_is_equally_spaced() -> None:
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    x = sampling.lattice(8, zero, one, generator()).flatten().sort().values
    torch.testing.assert_close(x.diff(), torch.full((7,), 1 / 8, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(2, 5))
def test_grids_hold_the_corners_and_are_equally_spaced(dims: int, per_axis: int) -> None:
    low = torch.full((dims,), -1.0, dtype=torch.float64)
    x = sampling.grid(per_axis**dims, low, -low)
    assert x.shape == (per_axis**dims, dims)
    for axis in range(dims):
        lines = x[:, axis].unique()
        torch.testing.assert_close(lines, torch.linspace(-1, 1, per_axis, dtype=torch.float64))
    assert len(x.unique(dim=0)) == per_axis**dims


def test_noise_is_a_quarter_of_the_spacing() -> None:
    """Of points whose noise cannot reach the walls."""
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    g = generator()
    moved = torch.stack([sampling.noisy_grid(65, zero, one, g) for _ in range(500)])
    noise = (moved - sampling.grid(65, zero, one))[:, 20:-20]
    assert abs(float(noise.std()) * 4 * 65 - 1) < 0.02


def test_latin_hypercubes_have_a_point_in_every_slice() -> None:
    x = (sampling.latin_hypercube(20, LOW, HIGH, generator()) - LOW) / (HIGH - LOW)
    for axis in range(2):
        assert (x[:, axis] * 20).long().unique().tolist() == list(range(20))


def test_sobol_means_converge_faster_than_random_ones() -> None:
    """Order of the error of a mean over 2^8 ... 2^14 points: near one, where random points have a half."""
    exact = (1 - torch.cos(torch.tensor(1.0, dtype=torch.float64))) ** 2
    zero, one = torch.zeros(2).double(), torch.ones(2).double()
    counts = [2**k for k in (8, 11, 14)]
    errors = [
        torch.stack([
            torch.sin(sampling.sobol(n, zero, one, seed=seed)).prod(1).mean() - exact for seed in range(20)
        ]).square().mean().sqrt()
        for n in counts
    ]  # fmt: skip
    order = torch.log2(errors[0] / errors[2]) / 6
    assert order > 0.9


def test_midpoints_integrate_lines_exactly() -> None:
    x = sampling.midpoints(4, LOW, HIGH)
    assert x.shape == (16, 2)
    torch.testing.assert_close(x.mean(0), (LOW + HIGH) / 2)


def test_proportional_draws_follow_their_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0])
    counts = sampling.proportional(weights, 8000, generator()).bincount(minlength=3)
    assert counts[0] == 0
    assert abs(float(counts[2]) / 8000 - 0.75) < 4 * (0.75 * 0.25 / 8000) ** 0.5


@pytest.mark.parametrize(
    ("count", "dims", "near"), [(60, 2, "49 or 64"), (1, 1, "2 or 3"), (9, 3, "8 or 27")]
)
def test_no_grid_of_that_many_points(count: int, dims: int, near: str) -> None:
    with pytest.raises(GridError, match=f"{count} points are no grid .* use {near}"):
        sampling.points_per_axis(count, dims)
