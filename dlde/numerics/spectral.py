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
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlde.errors import GridError, InputError

Scheme = Literal["if-rk4", "etdrk4"]
Symbol = NDArray[np.float64] | NDArray[np.complex128] | Tensor  # (*modes), or a tensor (batch, *modes)
# Coefficients (batch, *modes) -> a new tensor of the same shape; also of the time and of the samples'
# own data where the stepper has `data`.
Nonlinear = Callable[..., Tensor]

_TimedNonlinear = Callable[[Tensor, float], Tensor]

_BLOCK_BYTES = 384 * 1024  # of one state; measured: larger leaves the cache, smaller pays for calls


class Transform:
    """Between a periodic field (batch, *space) and its coefficients (batch, *modes), 1-D or 2-D.

    The modes kept are (degree + 1) |k| < num_points (dealiased: products of `degree` fields are then
    exact), or all below num_points / 2. `modes` is their shape: k = 0, 1, ..., K, -K, ..., -1 along an
    axis, along the last axis of a real field k >= 0 only.
    """

    def __init__(
        self,
        num_points: Sequence[int],
        extent: Sequence[float],
        *,
        dealias: bool = True,
        degree: int = 2,
        real: bool = True,
    ) -> None:
        if len(num_points) not in (1, 2) or len(extent) != len(num_points):
            raise GridError(
                f"num_points={tuple(num_points)} and extent={tuple(extent)}: "
                "expected one or two axes, the same number in both"
            )
        self.num_points = tuple(num_points)
        share = degree + 1 if dealias else 2
        self.cuts = tuple((n - 1) // share for n in num_points)
        if min(self.cuts) < 1:
            raise GridError(
                f"num_points={self.num_points} keeps no mode but the mean; "
                f"use at least {share + 1} points per axis"
            )
        self.extent = tuple(extent)
        self.real = real
        self._buffer = torch.empty(0)
        self._kept: Tensor | None = None  # the part of it that holds modes
        both = tuple(2 * cut + 1 for cut in self.cuts)
        self.modes = (*both[:-1], self.cuts[-1] + 1) if real else both

    def wavenumbers(self) -> tuple[NDArray[np.float64], ...]:
        """2 pi k / extent along each axis, shaped to broadcast over `modes`; float64."""
        whole = [np.r_[0 : cut + 1, -cut:0] for cut in self.cuts]
        whole[-1] = whole[-1][: self.modes[-1]]
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
        coefficients: Tensor
        if self.real:
            coefficients = torch.fft.rfft(field, norm="forward")[..., : self.modes[-1]]
        else:
            coefficients = _keep(torch.fft.fft(field, norm="forward"), self.cuts[-1], -1)
        if len(self.cuts) == 1:
            return coefficients
        return _keep(torch.fft.fft(coefficients, dim=-2, norm="forward"), self.cuts[0], -2)

    def backward(self, coefficients: Tensor, num_points: Sequence[int] | None = None) -> Tensor:
        """Values at the points of a grid, its own by default; on a coarse grid nothing is filtered."""
        field: Tensor
        if num_points is None:
            num_points = self.num_points
            if self.real and len(num_points) == 1:
                field = torch.fft.irfft(self._padded(coefficients), n=num_points[0], norm="forward")
                return field
        strides = [-(-(2 * cut + 1) // n) for cut, n in zip(self.cuts, num_points, strict=True)]
        fine = [n * stride for n, stride in zip(num_points, strides, strict=True)]
        if len(self.cuts) == 2:
            rows = _spread(coefficients, self.cuts[0], fine[0], -2)
            coefficients = torch.fft.ifft(rows, dim=-2, norm="forward")
        if self.real:
            field = torch.fft.irfft(coefficients, n=fine[-1], norm="forward")
        else:
            field = torch.fft.ifft(_spread(coefficients, self.cuts[-1], fine[-1], -1), norm="forward")
        if len(self.cuts) == 2:
            field = field[..., :: strides[0], :]
        return field[..., :: strides[-1]]

    def _padded(self, coefficients: Tensor) -> Tensor:
        """With zeros up to half the points, in a buffer that is used again: padding anew takes longer."""
        if coefficients.requires_grad:
            return coefficients
        kept = self._kept
        if (
            kept is None
            or kept.shape != coefficients.shape
            or kept.dtype != coefficients.dtype
            or kept.device != coefficients.device
        ):
            shape = (*coefficients.shape[:-1], self.num_points[-1] // 2 + 1)
            self._buffer = coefficients.new_zeros(shape)
            self._kept = kept = self._buffer[..., : self.modes[-1]]
        kept.copy_(coefficients)
        return self._buffer


def _keep(coefficients: Tensor, cut: int, dim: int) -> Tensor:
    """Modes 0..cut and -cut..-1 of a full axis."""
    n = coefficients.shape[dim]
    return torch.cat([coefficients.narrow(dim, 0, cut + 1), coefficients.narrow(dim, n - cut, cut)], dim=dim)


def _spread(coefficients: Tensor, cut: int, num_points: int, dim: int) -> Tensor:
    """The inverse of `_keep`, zero between."""
    shape = list(coefficients.shape)
    shape[dim] = num_points
    full = coefficients.new_zeros(shape)
    full.narrow(dim, 0, cut + 1).copy_(coefficients.narrow(dim, 0, cut + 1))
    full.narrow(dim, num_points - cut, cut).copy_(coefficients.narrow(dim, cut + 1, cut))
    return full


def resample(field: Tensor, num_points: int, dim: int = -1) -> Tensor:
    """Values of the trigonometric interpolant along an axis at `num_points` equidistant points.

    Exact for real fields with modes below both halves; going to fewer points samples and never filters.
    """
    old = field.shape[dim]
    if old == num_points:
        return field
    if dim not in (-1, field.ndim - 1):
        return resample(field.movedim(dim, -1), num_points).movedim(-1, dim)
    stride = -(-old // num_points)
    fine = num_points * stride
    if fine == old:
        return field[..., ::stride]
    coefficients = torch.fft.rfft(field, norm="forward")
    if old % 2 == 0:
        coefficients[..., -1] *= 0.5  # one bin holds the pair of modes at +-old/2
    finer: Tensor = torch.fft.irfft(coefficients, n=fine, norm="forward")
    return finer[..., ::stride]


def derivative(field: Tensor, extent: float, dim: int = -1) -> Tensor:
    """The derivative of the trigonometric interpolant of a real field along an axis, at its points."""
    n = field.shape[dim]
    k = 2 * math.pi / extent * torch.arange(n // 2 + 1, dtype=field.dtype, device=field.device)
    if n % 2 == 0:
        k[-1] = 0  # the highest mode of an even grid has no slope at the points
    field = field.movedim(dim, -1)
    slope: Tensor = torch.fft.irfft(torch.fft.rfft(field) * (1j * k), n=n)
    return slope.movedim(-1, dim)


def check_times(times: Sequence[float]) -> None:
    """Raises GridError unless the times increase from one that is not negative."""
    if not times or times[0] < 0 or any(b <= a for a, b in itertools.pairwise(times)):
        raise GridError(f"times must increase from a time >= 0, got {tuple(times)}")


class Stepper:
    """Steps v_t = linear * v + nonlinear(v) for coefficients v (batch, *modes), order 4 in time.

    `linear` is the symbol of L over the modes, real (diffusion) or complex (dispersion): an array
    (*modes) for all samples, or a tensor (batch, *modes) with one for each. With `data`, tensors
    (batch, ...) of the samples' own (none is allowed, too), it is nonlinear(v, time, *data).
    `if-rk4` is Runge-Kutta 4 under the integrating factor; `etdrk4` integrates the linear part
    inside each stage too, which is the more accurate one where L is stiff but does not dissipate.
    Linear equations are solved exactly by both. Nothing is adaptive: a sample's values do not depend
    on its neighbours', and a solution that blows up becomes NaN.
    """

    def __init__(
        self,
        linear: Symbol,
        nonlinear: Nonlinear,
        scheme: Scheme = "if-rk4",
        *,
        data: Sequence[Tensor] | None = None,
    ) -> None:
        if scheme not in get_args(Scheme):
            raise InputError(f"unknown scheme {scheme!r}; known: {', '.join(get_args(Scheme))}")
        self.linear = linear
        self.nonlinear = nonlinear
        self.scheme = scheme
        self.data = data

    def solve(self, v0: Tensor, times: Sequence[float], dt: float) -> Tensor:
        """The states (batch, time, *modes) at increasing `times` >= 0, from `v0` at time 0.

        Between two times the steps are equal and at most `dt`. On a CPU, samples go through in
        blocks that fit the cache.
        """
        check_times(times)
        if dt <= 0:
            raise GridError(f"dt must be positive, got {dt:g}")
        each = isinstance(self.linear, Tensor) and self.linear.ndim == v0.ndim
        if tuple(self.linear.shape) != tuple(v0.shape if each else v0.shape[1:]):
            raise GridError(
                f"v0 has modes {tuple(v0.shape[1:])}, but the linear symbol {tuple(self.linear.shape)}"
            )
        if any(len(rows) != len(v0) for rows in self.data or ()):
            lengths = [len(rows) for rows in self.data or ()]
            raise GridError(f"v0 has {len(v0)} samples, but their data {lengths}")
        states = v0.new_empty(v0.shape[0], len(times), *v0.shape[1:])
        size = max(1, _BLOCK_BYTES // (v0[:1].numel() * v0.element_size()))
        if v0.device.type != "cpu":
            size = max(1, len(v0))
        for start in range(0, len(v0), size):
            rows = slice(start, start + size)
            linear = self.linear[rows] if each else self.linear
            data = None if self.data is None else [one[rows] for one in self.data]
            self._solve_block(v0[rows], states[rows], linear, data, times, dt)
        return states

    def amplification(self, rate: Symbol, dt: float) -> NDArray[np.float64]:
        """|growth| of each mode over one step where the nonlinear part is `rate` * v, in float64.

        It is at most about |exp(dt (linear + rate))| where the step is stable for that rate.
        """
        v = torch.ones(tuple(self.linear.shape), dtype=torch.complex128)
        slope = torch.as_tensor(rate).to(v)
        linear = torch.as_tensor(self.linear).to(v)
        factors = [torch.as_tensor(factor).to(v) for factor in _FACTORS[self.scheme](dt, linear)]
        step = _STEPS[self.scheme](lambda v, t: slope * v, v, 0.0, dt, factors)
        growth: NDArray[np.float64] = step.abs().numpy()
        return growth

    def _solve_block(
        self,
        v0: Tensor,
        states: Tensor,
        linear: Symbol,
        data: Sequence[Tensor] | None,
        times: Sequence[float],
        dt: float,
    ) -> None:
        # Real factors act on (re, im) pairs: no promotion.
        paired = not (linear.is_complex() if isinstance(linear, Tensor) else np.iscomplexobj(linear))
        v = torch.view_as_real(v0).clone() if paired else v0.clone()
        step = _STEPS[self.scheme]

        def nonlinear(v: Tensor, time: float) -> Tensor:
            state = torch.view_as_complex(v) if paired else v
            change = self.nonlinear(state) if data is None else self.nonlinear(state, time, *data)
            return torch.view_as_real(change) if paired else change

        now = 0.0
        for index, time in enumerate(times):
            num_steps = math.ceil((time - now) / dt * (1 - 1e-12))
            if num_steps:
                step_size = (time - now) / num_steps
                factors = _tensors(_FACTORS[self.scheme](step_size, linear), v)
                for number in range(num_steps):
                    v = step(nonlinear, v, now + number * step_size, step_size, factors)
            states[:, index] = torch.view_as_complex(v) if paired else v
            now = time


def _tensors(factors: Sequence[Symbol], like: Tensor) -> list[Tensor]:
    tensors = [torch.as_tensor(factor).to(like.device, like.dtype) for factor in factors]
    return tensors if like.is_complex() else [torch.stack([factor, factor], dim=-1) for factor in tensors]


def _exp(z: Any) -> Any:
    """Of an array by numpy, of a tensor by torch: the two differ in the last bit."""
    return torch.exp(z) if isinstance(z, Tensor) else np.exp(z)


def _if_rk4_factors(dt: float, linear: Symbol) -> list[Symbol]:
    half, whole = _exp(linear * dt / 2), _exp(linear * dt)
    return [half, half * (dt / 2), half * dt, half * (dt / 3), whole, whole * (dt / 6)]


def _if_rk4(
    nonlinear: _TimedNonlinear, v: Tensor, time: float, dt: float, factors: Sequence[Tensor]
) -> Tensor:
    half, half_2, half_1, half_3, whole, whole_6 = factors
    a = nonlinear(v, time)
    decayed = half * v
    b = nonlinear(torch.addcmul(decayed, half_2, a), time + dt / 2)
    c = nonlinear(decayed.add_(b, alpha=dt / 2), time + dt / 2)
    out = whole * v
    d = nonlinear(torch.addcmul(out, half_1, c), time + dt)
    return out.addcmul_(whole_6, a).addcmul_(half_3, b.add_(c)).add_(d, alpha=dt / 6)


def _etdrk4_factors(dt: float, linear: Symbol) -> list[Symbol]:
    """Means over a circle of radius 1 around each dt * L: no cancellation where dt * L is small."""
    num_nodes = 64
    circle = np.exp(2j * np.pi * (np.arange(num_nodes) + 0.5) / num_nodes)
    z: Any = dt * linear[..., None]
    if isinstance(z, Tensor):
        z = z + torch.from_numpy(circle).to(z.device)
        real = not linear.is_complex()  # type: ignore[union-attr]
    else:
        z = z + circle
        real = not np.iscomplexobj(linear)

    def mean(values: Any) -> Any:
        coefficient = dt * values.mean(-1)
        return coefficient.real + 0 if real else coefficient  # a copy: no strides of complex numbers

    e = _exp(z)
    return [
        _exp(linear * dt / 2),
        _exp(linear * dt),
        mean((_exp(z / 2) - 1) / z),
        mean((-4 - z + e * (4 - 3 * z + z**2)) / z**3),
        mean(2 * (2 + z + e * (z - 2)) / z**3),
        mean((-4 - 3 * z - z**2 + e * (4 - z)) / z**3),
    ]


def _etdrk4(
    nonlinear: _TimedNonlinear, v: Tensor, time: float, dt: float, factors: Sequence[Tensor]
) -> Tensor:
    half, whole, stage, first, middle, last = factors
    decayed = half * v
    at_v = nonlinear(v, time)
    a = torch.addcmul(decayed, stage, at_v)
    at_a = nonlinear(a, time + dt / 2)
    at_b = nonlinear(decayed.addcmul_(stage, at_a), time + dt / 2)
    at_c = nonlinear((half * a).addcmul_(stage, at_b.mul(2).sub_(at_v)), time + dt)
    return (whole * v).addcmul_(first, at_v).addcmul_(middle, at_a.add_(at_b)).addcmul_(last, at_c)


_STEPS: dict[Scheme, Callable[..., Tensor]] = {"if-rk4": _if_rk4, "etdrk4": _etdrk4}
_FACTORS: dict[Scheme, Callable[[float, Symbol], list[Symbol]]] = {
    "if-rk4": _if_rk4_factors,
    "etdrk4": _etdrk4_factors,
}
