"""Radial equations: exact heat flow, moments of Gaussians, two roads to one number, and their accuracy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dlde.errors import NonFiniteError
from dlde.numerics.radial import Array, gaussian_mean, solve_radial

Q = np.array([0.0, 0.3, 4.0, 50.0])


def nothing(u: Array, squared_gradient: Array) -> Array:
    return np.zeros_like(u)


def gaussian(q: Array, width: float, time: float, dims: int) -> Array:
    """Heat flow of exp(-q / (4 width)), diffusivity 1."""
    return (width / (width + time)) ** (dims / 2) * np.exp(-q / (4 * (width + time)))


@pytest.mark.parametrize("dims", [1, 2, 10])
def test_heat_flow_of_a_gaussian(dims: int) -> None:
    """exp(-q) is not analytic at infinity, so that 80 points give nine digits instead of twelve."""
    solution = solve_radial(
        lambda q: gaussian(q, 3.0, 0.0, dims), nothing, dims=dims, time=0.2, diffusivity=2.0, num_points=80
    )
    np.testing.assert_allclose(solution(Q), gaussian(Q, 3.0, 0.4, dims), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dims", [1, 2, 20, 100])
def test_moments_of_a_gaussian_vector(dims: int) -> None:
    mean = gaussian_mean(lambda q: q, Q, dims=dims, variance=0.7)
    np.testing.assert_allclose(mean, Q + 0.7 * dims, rtol=1e-12)
    square = gaussian_mean(lambda q: q**2, Q, dims=dims, variance=0.7)
    np.testing.assert_allclose(square, (Q + 0.7 * dims) ** 2 + 2 * 0.7**2 * dims + 4 * 0.7 * Q, rtol=1e-12)


@pytest.mark.parametrize("dims", [1, 3, 40])
def test_quadrature_and_equation_agree(dims: int) -> None:
    """The heat equation's solution is a Gaussian mean."""
    solved = solve_radial(lambda q: 2 / (1 + q), nothing, dims=dims, time=1.0)(Q)
    np.testing.assert_allclose(
        solved, gaussian_mean(lambda q: 2 / (1 + q), Q, dims=dims, variance=2.0), rtol=2e-6
    )


@pytest.mark.parametrize("dims", [2, 10])
def test_a_source_with_the_gradient_is_the_heat_equation_in_disguise(dims: int) -> None:
    """u = -ln v turns v_t = Lap v into u_t = Lap u - |grad u|^2; here v = 2 + 1 / (1 + q)."""
    disguised = solve_radial(
        lambda q: -np.log(2 + 1 / (1 + q)), lambda u, squared_gradient: -squared_gradient, dims=dims, time=0.5
    )
    mean = gaussian_mean(lambda q: 2 + 1 / (1 + q), Q, dims=dims, variance=1.0)
    np.testing.assert_allclose(disguised(Q), -np.log(mean), rtol=1e-7)


def test_constant_data_follow_the_reaction_alone() -> None:
    solution = solve_radial(
        lambda q: np.full_like(q, 0.5), lambda u, squared_gradient: u - u**3, dims=7, time=0.8
    )
    exact = 0.5 * math.exp(0.8) / math.sqrt(1 + 0.25 * (math.exp(1.6) - 1))
    np.testing.assert_allclose(solution(Q), exact, rtol=1e-9)


def test_it_converges_geometrically() -> None:
    def at(num_points: int) -> Array:
        return solve_radial(
            lambda q: 0.5 / (1 + 0.2 * q),
            lambda u, squared_gradient: u - u**3,
            dims=3,
            time=0.3,
            num_points=num_points,
            tolerance=1e-11,
        )(Q)

    exact = at(48)
    errors = [np.abs(at(n) - exact).max() for n in (10, 16, 22)]
    assert errors[0] > 20 * errors[1] > 400 * errors[2]
    assert errors[2] < 1e-7


def test_values_at_the_points_themselves_are_not_interpolated() -> None:
    solution = solve_radial(lambda q: 1 / (1 + q), nothing, dims=2, time=1e-9, scale=3.0, num_points=17)
    np.testing.assert_allclose(solution(np.array([0.0, 3.0])), [1.0, 0.25], rtol=1e-7)


def test_a_solution_that_blows_up_is_refused() -> None:
    with pytest.raises(
        NonFiniteError, match=r"in 3 dimensions grows beyond all bounds at time 1, before time 2"
    ):
        solve_radial(
            np.ones_like, lambda u, squared_gradient: u**2, dims=3, time=2.0, num_points=8, tolerance=1e-5
        )
