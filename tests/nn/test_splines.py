"""Splines of the unit interval and the triangular map: identity, inverse, slopes, volume."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlde.nn.splines import TriangularMap, knots, spline


def free(bins: int, *, size: float = 2.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(3 * bins + 1, generator=generator, dtype=torch.float64)


def test_zeros_are_the_identity() -> None:
    x = torch.linspace(0, 1, 101, dtype=torch.float64)
    for inverse in (False, True):
        y, log_slope = spline(x, torch.zeros(25, dtype=torch.float64), inverse=inverse)
        torch.testing.assert_close(y, x, rtol=0, atol=1e-12)
        torch.testing.assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 1000), st.floats(0, 4))
def test_it_increases_through_its_knots_and_is_inverted(bins: int, seed: int, size: float) -> None:
    raw = free(bins, size=size, seed=seed)
    places, values, slopes = knots(raw)
    assert places[0] == values[0] == 0
    torch.testing.assert_close(torch.stack([places[-1], values[-1]]), torch.ones(2).double())
    y, log_slope = spline(places, raw)
    torch.testing.assert_close(y, values, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_slope.exp(), slopes, rtol=1e-6, atol=1e-9)
    x = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).sort().values
    y, log_slope = spline(x, raw)
    assert bool((y.diff() > 0).all())
    back, same = spline(y, raw, inverse=True)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-7)
    torch.testing.assert_close(same, log_slope, rtol=0, atol=1e-4)


def test_the_slope_is_the_derivative() -> None:
    x = torch.rand(50, dtype=torch.float64).requires_grad_()
    y, log_slope = spline(x, free(8))
    (derivative,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope.exp(), derivative)


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
def test_a_map_of_the_cube_is_inverted_and_its_determinant_is_exact(dims: int) -> None:
    torch.manual_seed(dims)
    cube = TriangularMap(dims, bins=6, width=8)
    z = torch.rand(20, dims, dtype=torch.float64)
    same, log_det = cube(z)
    torch.testing.assert_close(same, z, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det, torch.zeros(20).double(), rtol=0, atol=1e-12)
    with torch.no_grad():
        for parameter in cube.parameters():
            parameter.add_(torch.randn_like(parameter))
    x, log_det = cube(z)
    assert bool(((x >= 0) & (x <= 1)).all())
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda p: cube(p[None])[0][0], p) for p in z])
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)
    back, there = cube.inverse(x)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-6)
    torch.testing.assert_close(there, log_det, rtol=0, atol=1e-3)


def test_gradients_reach_every_number() -> None:
    cube = TriangularMap(2, bins=4, width=8)
    z = torch.rand(200, 2, dtype=torch.float64)
    x, log_det = cube(z)
    (x.square().sum() + log_det.sum()).backward()
    assert bool(cube.first.grad is not None and (cube.first.grad != 0).any())
    assert all(p.grad is not None for p in cube.parameters())
