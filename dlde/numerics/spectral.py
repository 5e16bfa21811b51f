"""Batched pseudo-spectral time stepping of periodic semilinear equations u_t = L u + N(u).

A state is held as the Fourier coefficients below the 2/3 cut, scaled so that they do not depend on
the number of points (`norm="forward"`): a change of grid is a change of the length of the inverse
transform. Everything runs on the device and in the precision of its inputs, and nothing is read
back to the host while stepping.

Sources: integrating factor: Trefethen, Spectral Methods in MATLAB (2000), ch. 10; exponential time
differencing: Cox & Matthews, J. Comput. Phys. 176 (2002); its coefficients by contour integrals:
Kassam & Trefethen, SIAM J. Sci. Comput. 26 (2005).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlde.errors import GridError, InputError

Scheme = Literal["if-rk4", "etdrk4"]
Symbol = NDArray[np.float64] | NDArray[np.complex128]
Nonlinear = Callable[[Tensor], Tensor]  # coefficients (batch, *modes) -> a new tensor of the same shape

_BLOCK_BYTES = 384 * 1024  # of one state; measured: larger leaves the cache, smaller pays for calls


class Transform:
    """Between a real periodic field (batch, *space) and its coefficients (batch, *modes), 1-D or 2-D.

    The modes kept are 3 |k| < num_points (dealiased: products of two fields are then exact), or all
    below num_points / 2. `modes` is their shape; along the last axis k >= 0 only, along the first
    of two k = 0, 1, ..., K, -K, ..., -1.
    """

    def __init__(self, num_points: Sequence[int], extent: Sequence[float], *, dealias: bool = True) -> None:
        if len(num_points) not in (1, 2) or len(extent) != len(num_points):
            raise GridError(
                f"num_points={tuple(num_points)} and extent={tuple(extent)}: "
                "expected one or two axes, the same number in both"
            )
        self.num_points = tuple(num_points)
        self.cuts = tuple((n - 1) // 3 if dealias else (n - 1) // 2 for n in num_points)
        if min(self.cuts) < 1:
            raise GridError(
                f"num_points={self.num_points} keeps no mode but the mean; "
                f"use at least {4 if dealias else 3} points per axis"
            )
        self.extent = tuple(extent)
        self.modes = (*(2 * cut + 1 for cut in self.cuts[:-1]), self.cuts[-1] + 1)

    def wavenumbers(self) -> tuple[NDArray[np.float64], ...]:
        """2 pi k / extent along each axis, shaped to broadcast over `modes`; float64."""
        whole = [np.r_[0 : cut + 1, -cut:0] for cut in self.cuts[:-1]] + [np.arange(self.cuts[-1] + 1)]
        scaled = [2 * np.pi * k / length for k, length in zip(whole, self.extent, strict=True)]
        return tuple(np.meshgrid(*scaled, indexing="ij", sparse=True))

    def forward(self, field: Tensor) -> Tensor:
        """Coefficients of a field on any grid that holds the kept modes; higher modes are dropped."""
        shape = tuple(field.shape[-len(self.cuts) :])
        if any(n <= 2 * cut for n, cut in zip(shape, self.cuts, strict=True)):
            raise GridError(
                f"a field on {shape} points cannot fill modes up to {self.cuts}; "
                f"it needs more than {tuple(2 * cut for cut in self.cuts)} points"
            )
        coefficients: Tensor = torch.fft.rfft(field, norm="forward")[..., : self.modes[-1]]
        if len(self.cuts) == 1:
            return coefficients
        columns = torch.fft.fft(coefficients, dim=-2, norm="forward")
        cut = self.cuts[0]
        return torch.cat([columns[..., : cut + 1, :], columns[..., -cut:, :]], dim=-2)

    def backward(self, coefficients: Tensor, num_points: Sequence[int] | None = None) -> Tensor:
        """Values at the points of a grid, its own by default; on a coarse grid nothing is filtered."""
        if num_points is None:
            num_points = self.num_points
            if len(num_points) == 1:
                field: Tensor = torch.fft.irfft(coefficients, n=num_points[0], norm="forward")
                return field
        strides = [-(-(2 * cut + 1) // n) for cut, n in zip(self.cuts, num_points, strict=True)]
        fine = [n * stride for n, stride in zip(num_points, strides, strict=True)]
        if len(self.cuts) == 2:
            cut = self.cuts[0]
            rows = coefficients.new_zeros(*coefficients.shape[:-2], fine[0], self.modes[-1])
            rows[..., : cut + 1, :] = coefficients[..., : cut + 1, :]
            rows[..., -cut:, :] = coefficients[..., -cut:, :]
            coefficients = torch.fft.ifft(rows, dim=-2, norm="forward")
        field = torch.fft.irfft(coefficients, n=fine[-1], norm="forward")
        if len(self.cuts) == 2:
            field = field[..., :: strides[0], :]
        return field[..., :: strides[-1]]


def resample(field: Tensor, num_points: int) -> Tensor:
    """Values of the trigonometric interpolant along the last axis at `num_points` equidistant points.

    Exact for fields with modes below both halves; going to fewer points samples and never filters.
    """
    old = field.shape[-1]
    stride = -(-old // num_points)
    fine = num_points * stride
    if fine == old:
        return field[..., ::stride]
    coefficients = torch.fft.rfft(field, norm="forward")
    if old % 2 == 0:
        coefficients[..., -1] *= 0.5  # one bin holds the pair of modes at +-old/2
    finer: Tensor = torch.fft.irfft(coefficients, n=fine, norm="forward")
    return finer[..., ::stride]


class Stepper:
    """Steps v_t = linear * v + nonlinear(v) for coefficients v (batch, *modes), order 4 in time.

    `linear` is the symbol of L over the modes, real (diffusion) or complex (dispersion).
    `if-rk4` is Runge-Kutta 4 under the integrating factor; `etdrk4` integrates the linear part
    inside each stage too, which is the more accurate one where L is stiff but does not dissipate.
    Linear equations are solved exactly by both. Nothing is adaptive: a sample's values do not depend
    on its neighbours', and a solution that blows up becomes NaN.
    """

    def __init__(self, linear: Symbol, nonlinear: Nonlinear, scheme: Scheme = "if-rk4") -> None:
        if scheme not in get_args(Scheme):
            raise InputError(f"unknown scheme {scheme!r}; known: {', '.join(get_args(Scheme))}")
        self.linear = linear
        self.nonlinear = nonlinear
        self.scheme = scheme

    def solve(self, v0: Tensor, times: Sequence[float], dt: float) -> Tensor:
        """The states (batch, time, *modes) at increasing `times` >= 0, from `v0` at time 0.

        Between two times the steps are equal and at most `dt`. On a CPU, samples go through in
        blocks that fit the cache.
        """
        if not times or times[0] < 0 or any(b <= a for a, b in itertools.pairwise(times)):
            raise GridError(f"times must increase from a time >= 0, got {tuple(times)}")
        if dt <= 0:
            raise GridError(f"dt must be positive, got {dt:g}")
        if v0.shape[1:] != self.linear.shape:
            raise GridError(f"v0 has modes {tuple(v0.shape[1:])}, but the linear symbol {self.linear.shape}")
        states = v0.new_empty(v0.shape[0], len(times), *v0.shape[1:])
        size = max(1, _BLOCK_BYTES // (v0[:1].numel() * v0.element_size()))
        if v0.device.type != "cpu":
            size = max(1, len(v0))
        for source, target in zip(torch.split(v0, size), torch.split(states, size), strict=True):
            self._solve_block(source, target, times, dt)
        return states

    def _solve_block(self, v0: Tensor, states: Tensor, times: Sequence[float], dt: float) -> None:
        paired = not np.iscomplexobj(self.linear)  # real factors act on (re, im) pairs: no promotion
        v = torch.view_as_real(v0).clone() if paired else v0.clone()
        step = _if_rk4 if self.scheme == "if-rk4" else _etdrk4

        def nonlinear(v: Tensor) -> Tensor:
            if paired:
                return torch.view_as_real(self.nonlinear(torch.view_as_complex(v)))
            return self.nonlinear(v)

        now = 0.0
        for index, time in enumerate(times):
            num_steps = math.ceil((time - now) / dt * (1 - 1e-12))
            if num_steps:
                step_size = (time - now) / num_steps
                factors = self._factors(step_size, v)
                for _ in range(num_steps):
                    v = step(nonlinear, v, step_size, factors)
            states[:, index] = torch.view_as_complex(v) if paired else v
            now = time

    def _factors(self, dt: float, like: Tensor) -> list[Tensor]:
        factors = (_if_rk4_factors if self.scheme == "if-rk4" else _etdrk4_factors)(dt, self.linear)
        tensors = [torch.from_numpy(factor).to(like.device, like.dtype) for factor in factors]
        if like.is_complex():
            return tensors
        return [torch.stack([factor, factor], dim=-1) for factor in tensors]


def _if_rk4_factors(dt: float, linear: Symbol) -> list[Symbol]:
    half, whole = np.exp(linear * dt / 2), np.exp(linear * dt)
    return [half, half * (dt / 2), half * dt, half * (dt / 3), whole, whole * (dt / 6)]


def _if_rk4(nonlinear: Nonlinear, v: Tensor, dt: float, factors: Sequence[Tensor]) -> Tensor:
    half, half_2, half_1, half_3, whole, whole_6 = factors
    a = nonlinear(v)
    decayed = half * v
    b = nonlinear(torch.addcmul(decayed, half_2, a))
    c = nonlinear(decayed.add_(b, alpha=dt / 2))
    out = whole * v
    d = nonlinear(torch.addcmul(out, half_1, c))
    return out.addcmul_(whole_6, a).addcmul_(half_3, b.add_(c)).add_(d, alpha=dt / 6)


def _etdrk4_factors(dt: float, linear: Symbol) -> list[Symbol]:
    """Means over a circle of radius 1 around each dt * L: no cancellation where dt * L is small."""
    num_nodes = 64
    circle = np.exp(2j * np.pi * (np.arange(num_nodes) + 0.5) / num_nodes)
    z = dt * linear[..., None] + circle

    def mean(values: NDArray[np.complex128]) -> Symbol:
        coefficient: Symbol = dt * values.mean(-1)
        return coefficient if np.iscomplexobj(linear) else np.ascontiguousarray(coefficient.real)

    e = np.exp(z)
    return [
        np.exp(linear * dt / 2),
        np.exp(linear * dt),
        mean((np.exp(z / 2) - 1) / z),
        mean((-4 - z + e * (4 - 3 * z + z**2)) / z**3),
        mean(2 * (2 + z + e * (z - 2)) / z**3),
        mean((-4 - 3 * z - z**2 + e * (4 - z)) / z**3),
    ]


def _etdrk4(nonlinear: Nonlinear, v: Tensor, dt: float, factors: Sequence[Tensor]) -> Tensor:
    half, whole, stage, first, middle, last = factors
    decayed = half * v
    at_v = nonlinear(v)
    a = torch.addcmul(decayed, stage, at_v)
    at_a = nonlinear(a)
    at_b = nonlinear(decayed.addcmul_(stage, at_a))
    at_c = nonlinear((half * a).addcmul_(stage, at_b.mul(2).sub_(at_v)))
    return (whole * v).addcmul_(first, at_v).addcmul_(middle, at_a.add_(at_b)).addcmul_(last, at_c)
