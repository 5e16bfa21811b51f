"""Strong schemes against closed forms and measured orders; fractional noise against its covariance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dlde.numerics.sde import coarsened, euler_maruyama, fractional_noise_factor, milstein, path_of

STEPS = 512
MU, SIGMA = 0.3, 0.8


def brownian(batch: int, drivers: int = 1, steps: int = STEPS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, steps, drivers, generator=generator, dtype=torch.float64)
    return noise / math.sqrt(steps)


def slope(errors: list[float]) -> float:
    """Order seen when the step is halved from each error to the next."""
    return -float(np.polyfit(np.arange(len(errors)), np.log2(errors), 1)[0])


def geometric(scheme: str, increments: Tensor) -> Tensor:
    dt = 1 / increments.shape[1]
    start = torch.ones(len(increments), 1, dtype=torch.float64)
    drift, diffusion = (lambda t, x: MU * x), (lambda t, x: SIGMA * x[..., None])
    if scheme == "euler":
        return euler_maruyama(drift, diffusion, start, increments, dt)
    return milstein(drift, diffusion, lambda t, x, v: SIGMA * v, start, increments, dt)


@pytest.mark.parametrize(("scheme", "order"), [("euler", 0.5), ("milstein", 1.0)])
def test_strong_order_with_multiplicative_noise(scheme: str, order: float) -> None:
    fine = brownian(800)
    exact = torch.exp(MU - SIGMA**2 / 2 + SIGMA * fine.sum((1, 2)))
    errors = [
        float((geometric(scheme, coarsened(fine, STEPS // n))[:, -1, 0] - exact).abs().mean())
        for n in (16, 32, 64, 128)
    ]
    assert order - 0.12 < slope(errors) < order + 0.12


def test_euler_has_order_one_with_additive_noise() -> None:
    """Against the same scheme at a step 16 times finer than the finest, on the same paths."""
    fine = brownian(400)

    def end(increments: Tensor) -> Tensor:
        return euler_maruyama(
            lambda t, x: torch.sin(x),
            lambda t, x: torch.full_like(x, 0.7)[..., None],
            torch.ones(len(increments), 1, dtype=torch.float64),
            increments,
            1 / increments.shape[1],
        )[:, -1]

    reference = end(fine)
    errors = [float((end(coarsened(fine, STEPS // n)) - reference).abs().mean()) for n in (8, 16, 32)]
    assert 0.9 < slope(errors) < 1.2


def test_without_noise_it_is_eulers_method_and_knows_the_time() -> None:
    still = torch.zeros(1, 4, 1, dtype=torch.float64)
    start = torch.zeros(1, 1, dtype=torch.float64)
    path = euler_maruyama(
        lambda t, x: torch.full_like(x, t), lambda t, x: x[..., None], start, still, 0.25, every=2
    )
    torch.testing.assert_close(path[0, :, 0], torch.tensor([0.0, 0.0625, 0.375], dtype=torch.float64))


def test_commuting_fields_reach_order_one_with_two_drivers() -> None:
    """Linear fields x -> s_j x commute: X = exp(sum_j s_j W_j - s_j^2 t / 2)."""
    fine = brownian(800, drivers=2)
    s = torch.tensor([0.5, -0.6], dtype=torch.float64)
    exact = torch.exp((fine.sum(1) * s).sum(1) - 0.5 * s.square().sum())

    def error(n: int) -> float:
        increments = coarsened(fine, STEPS // n)
        x = milstein(
            lambda t, x: torch.zeros_like(x),
            lambda t, x: x[..., None] * s,
            lambda t, x, v: v * s,
            torch.ones(len(fine), 1, dtype=torch.float64),
            increments,
            1 / n,
        )
        return float((x[:, -1, 0] - exact).abs().mean())

    assert 0.88 < slope([error(n) for n in (16, 32, 64)]) < 1.12


def test_a_coarse_path_meets_the_fine_one() -> None:
    fine = brownian(3, drivers=2, steps=12)
    torch.testing.assert_close(path_of(coarsened(fine, 4)), path_of(fine)[:, ::4])
    assert not path_of(fine)[:, 0].any()


@pytest.mark.parametrize("hurst", [0.1, 0.3, 0.5, 0.8])
def test_fractional_noise_has_the_covariance_of_fractional_brownian_motion(hurst: float) -> None:
    """Exactly: that of the cumulative sums L L^T is (s^2H + t^2H - |t - s|^2H) / 2."""
    n, dt = 60, 0.05
    factor = fractional_noise_factor(n, dt, hurst)
    walk = factor.cumsum(0)
    t = dt * torch.arange(1, n + 1, dtype=torch.float64)
    power = t ** (2 * hurst)
    expected = (power[:, None] + power - (t[:, None] - t).abs() ** (2 * hurst)) / 2
    torch.testing.assert_close(walk @ walk.T, expected, rtol=0, atol=1e-12)
    if hurst == 0.5:
        torch.testing.assert_close(factor, math.sqrt(dt) * torch.eye(n, dtype=torch.float64))
