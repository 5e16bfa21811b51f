"""Runge-Kutta schemes: their orders, exact times, stability, and scipy's solution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from dlde.errors import GridError
from dlde.numerics.ode import ORDERS, Scheme, solve_ode, stability_radius, stretches, tableau

SCHEMES = list(ORDERS)


def rotation(t: float, y: Tensor) -> Tensor:
    return torch.stack([y[:, 1], -y[:, 0]], -1)


def driven(t: float, y: Tensor) -> Tensor:
    """y' = cos(t) - (y^2 - (sin(t) + 2)^2) / 2, which y = sin(t) + 2 solves."""
    return math.cos(t) - 0.5 * (y.square() - (math.sin(t) + 2) ** 2)


@pytest.mark.parametrize(("scheme", "dt"), [("rk4", 0.25), ("dopri5", 0.25), ("dop853", 0.5)])
def test_the_order_of_a_scheme(scheme: Scheme, dt: float) -> None:
    """Over three refinements, of a nonlinear equation that depends on time."""
    times = (1.0, 2.0, 3.0, 4.0)
    exact = torch.tensor(times, dtype=torch.float64).sin() + 2
    start = torch.full((1, 1), 2.0, dtype=torch.float64)
    errors = [
        float((solve_ode(driven, start, times, dt / 2**k, scheme=scheme)[0, :, 0] - exact).norm())
        for k in range(4)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(orders > ORDERS[scheme] - 0.5), orders
    assert np.all(orders < ORDERS[scheme] + 1.5), orders


@pytest.mark.parametrize("scheme", SCHEMES)
def test_coefficients_are_consistent(scheme: Scheme) -> None:
    nodes, rows, weights = tableau(scheme)
    assert sum(weights) == pytest.approx(1, abs=1e-14)
    np.testing.assert_allclose([sum(row) for row in rows], nodes, atol=1e-13)
    assert sum(w * c for w, c in zip(weights, nodes, strict=True)) == pytest.approx(0.5, abs=1e-14)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_linear_equation_decays_inside_the_stability_radius_and_blows_up_beyond(scheme: Scheme) -> None:
    radius = stability_radius(scheme)
    start = torch.ones(1, 1, dtype=torch.float64)

    def after(rate: float) -> float:
        return float(solve_ode(lambda t, y: -rate * y, start, (100.0,), 1.0, scheme=scheme))

    assert abs(after(0.99 * radius)) <= 1
    assert abs(after(2 * radius)) > 1e3
    turned = solve_ode(rotation, torch.tensor([[1.0, 0.0]]), (100 * radius,), radius, scheme=scheme)
    assert float(turned.norm()) < 1.01**100 + 1e-3


def test_times_are_met_exactly_with_equal_steps_between_them() -> None:
    assert stretches((0.0, 0.25, 1.0), 0.1) == [(0.0, 0), (0.25, 3), (1.0, 8)]
    assert stretches((0.3,), 0.1) == [(0.3, 3)]  # 0.3 / 0.1 is a little above 3 in floating point
    clock = solve_ode(
        lambda t, y: torch.ones_like(y), torch.zeros(1, 1, dtype=torch.float64), (0.0, 0.25, 1.0), 0.1
    )
    np.testing.assert_allclose(clock[0, :, 0], [0, 0.25, 1], atol=1e-15)


def test_a_solution_agrees_with_scipy() -> None:
    """Van der Pol's equation against DOP853 with rtol 1e-12."""

    def field(t: float, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, 1.5 * (1 - x**2) * v - x], -1)

    start = torch.tensor([[2.0, 0.0], [0.1, -1.0]], dtype=torch.float64)
    times = (1.0, 3.0, 6.0)
    found = solve_ode(field, start, times, 0.02)
    for row, y0 in enumerate(start.numpy()):
        reference = solve_ivp(
            lambda t, y: field(t, torch.from_numpy(y)[None])[0].numpy(),
            (0, 6), y0, method="DOP853", rtol=1e-12, atol=1e-12, t_eval=times,
        )  # fmt: skip
        np.testing.assert_allclose(found[row], reference.y.T, atol=2e-10)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_sample_does_not_depend_on_its_neighbours_to_the_bit(scheme: Scheme) -> None:
    start = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = solve_ode(rotation, start, (0.5, 2.0), 0.1, scheme=scheme)
    alone = solve_ode(rotation, start[3:4], (0.5, 2.0), 0.1, scheme=scheme)
    assert torch.equal(together[3:4], alone)
    start[0] = torch.nan
    assert torch.equal(solve_ode(rotation, start, (0.5, 2.0), 0.1, scheme=scheme)[1:], together[1:])


def test_gradients_pass_through() -> None:
    """d y(1) / d y(0) of y' = rate y is e^rate, and by the rate it is y(1)."""
    start = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    end = solve_ode(lambda t, y: rate * y, start, (1.0,), 0.1, scheme="dop853")
    by_start, by_rate = torch.autograd.grad(end.sum(), (start, rate))
    assert float(by_start) == pytest.approx(math.exp(0.5), rel=1e-12)
    assert float(by_rate) == pytest.approx(math.exp(0.5), rel=1e-12)


@pytest.mark.parametrize(
    ("times", "dt", "message"),
    [
        ((), 0.1, "times must increase from a time >= 0"),
        ((-1.0, 1.0), 0.1, "times must increase from a time >= 0"),
        ((1.0, 1.0), 0.1, r"times must increase .*\(1.0, 1.0\)"),
        ((1.0,), 0.0, "dt must be positive, got 0"),
    ],
)
def test_mistakes_are_refused(times: tuple[float, ...], dt: float, message: str) -> None:
    with pytest.raises(GridError, match=message):
        solve_ode(rotation, torch.zeros(1, 2), times, dt)
