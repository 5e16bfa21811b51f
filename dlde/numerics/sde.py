"""Strong schemes for dX = f(t, X) dt + g(t, X) dW on a given path of noise, for a batch of paths.

The increments of W are handed in, so that one path can be followed at several step sizes:
`coarsened` gives a coarse path's increments from a fine one's. States are (batch, n), increments
(batch, steps, drivers); all results hold the start and every `every`-th step after it.
Source: Kloeden & Platen, Numerical Solution of Stochastic Differential Equations (1992), 10.2-10.3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Drift = Callable[[float, Tensor], Tensor]  # (t, (batch, n)) -> (batch, n)
Diffusion = Callable[[float, Tensor], Tensor]  # (t, (batch, n)) -> (batch, n, drivers)
# (t, (batch, n), (batch, n, drivers)) -> (batch, n, drivers): column j is that of the diffusion,
# differentiated along column j of the third argument.
Along = Callable[[float, Tensor, Tensor], Tensor]


def euler_maruyama(
    drift: Drift, diffusion: Diffusion, start: Tensor, increments: Tensor, dt: float, *, every: int = 1
) -> Tensor:
    """X + f dt + g dW: (batch, steps / every + 1, n). Strong order 1/2; 1 where g does not depend on X."""

    def step(t: float, x: Tensor, dw: Tensor) -> Tensor:
        return x + drift(t, x) * dt + torch.einsum("bnj,bj->bn", diffusion(t, x), dw)

    return _march(step, start, increments, dt, every)


def milstein(
    drift: Drift,
    diffusion: Diffusion,
    along: Along,
    start: Tensor,
    increments: Tensor,
    dt: float,
    *,
    every: int = 1,
) -> Tensor:
    """Euler-Maruyama plus sum_ij (Dg_j g_i) I_ij with I_ij = (dW_i dW_j - [i = j] dt) / 2.

    Strong order 1 where the columns of g commute (one driver, diagonal noise); else the antisymmetric
    part of I_ij (the Levy area), which the increments do not hold, is missing and the order is 1/2.
    """

    def step(t: float, x: Tensor, dw: Tensor) -> Tensor:
        g = diffusion(t, x)
        kick = torch.einsum("bnj,bj->bn", g, dw)
        twice = along(t, x, kick[..., None].expand_as(g)) * dw[:, None] - along(t, x, g) * dt
        moved: Tensor = x + drift(t, x) * dt + kick + 0.5 * twice.sum(-1)
        return moved

    return _march(step, start, increments, dt, every)


def coarsened(increments: Tensor, factor: int) -> Tensor:
    """Increments (batch, steps / factor, drivers) of the same path over `factor` steps at a time."""
    batch, steps, drivers = increments.shape
    return increments.reshape(batch, steps // factor, factor, drivers).sum(2)


def path_of(increments: Tensor) -> Tensor:
    """The path (batch, steps + 1, drivers) from 0 that has these increments."""
    zero = torch.zeros_like(increments[:, :1])
    return torch.cat([zero, increments.cumsum(1)], 1)


def fractional_noise_factor(num_steps: int, dt: float, hurst: float) -> Tensor:
    """Lower Cholesky factor L (num_steps, num_steps), float64, of fractional Gaussian noise.

    L z of standard normals z are the increments over steps of length dt of a fractional Brownian
    motion B, Cov(B_s, B_t) = (s^2H + t^2H - |t - s|^2H) / 2. Exact in distribution; the covariance
    is well conditioned, as increments are far less dependent than values. hurst = 1/2 is Brownian.
    """
    lag = torch.arange(num_steps + 1, dtype=torch.float64)
    power = lag.pow(2 * hurst)
    covariance = torch.empty(num_steps, dtype=torch.float64)
    covariance[0] = 1.0
    covariance[1:] = 0.5 * (power[2:] - 2 * power[1:-1] + power[:-2])
    number = torch.arange(num_steps)
    toeplitz = covariance[(number[:, None] - number).abs()]
    factor: Tensor = dt**hurst * torch.linalg.cholesky(toeplitz)
    return factor


def _march(
    step: Callable[[float, Tensor, Tensor], Tensor], start: Tensor, increments: Tensor, dt: float, every: int
) -> Tensor:
    x, stored = start, [start]
    for number, dw in enumerate(increments.unbind(1)):
        x = step(number * dt, x, dw)
        if (number + 1) % every == 0:
            stored.append(x)
    return torch.stack(stored, 1)
