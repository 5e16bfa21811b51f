"""What several periodic evolution problems share around the stepper: coefficients that differ from
sample to sample, grids that differ from the solver's, stable steps, and differences for defects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlde.numerics.spectral import Nonlinear, Scheme, Stepper, Symbol, resample

_BLOCK_BYTES = 256 * 1024  # of one state on a CPU, as in the stepper
_RK4_IMAGINARY = 2 * 2**0.5  # where RK4 leaves the imaginary axis
RK4_REAL = 2.785  # and the real one


def march(
    v0: Tensor,
    times: Sequence[float],
    dt: float,
    linear: Symbol,
    nonlinear: Callable[[slice], Nonlinear],
    scheme: Scheme = "if-rk4",
) -> Tensor:
    """`Stepper.solve` for samples that may each have their own equation.

    v0 (batch, *modes) -> (batch, time, *modes). `linear` is (*modes), the same for all, or
    (batch, *modes). `nonlinear(rows)` is the nonlinear term of these samples; where `linear` is shared,
    rows are all and the term must take any number of samples.
    """
    if linear.shape == v0.shape[1:]:
        return Stepper(linear, nonlinear(slice(None)), scheme).solve(v0, times, dt)
    states = v0.new_empty(len(v0), len(times), *v0.shape[1:])
    for rows in _blocks(v0):
        states[rows] = _march_rows(v0[rows], times, dt, linear[rows], nonlinear(rows), scheme)
    return states


def _march_rows(
    v0: Tensor, times: Sequence[float], dt: float, linear: Symbol, nonlinear: Nonlinear, scheme: Scheme
) -> Tensor:
    """The samples as one state of a batch of one: to the stepper their axis is one more of the modes'."""
    stepper = Stepper(linear, lambda v: nonlinear(v[0])[None], scheme)
    return stepper.solve(v0[None], times, dt)[0].transpose(0, 1)


def _blocks(v0: Tensor) -> Iterator[slice]:
    size = max(1, _BLOCK_BYTES // (v0[:1].numel() * v0.element_size()))
    if v0.device.type != "cpu":
        size = max(1, len(v0))
    for start in range(0, len(v0), size):
        yield slice(start, start + size)


def refined_to(field: Tensor, num_points: Sequence[int]) -> Tensor:
    """The trigonometric interpolant on at least `num_points` along each of the last axes."""
    for axis, points in enumerate(num_points, start=field.ndim - len(num_points)):
        if field.shape[axis] < points:
            field = resample(field.transpose(axis, -1), points).transpose(axis, -1)
    return field.contiguous()


def largest_stable_step(decay: NDArray[np.float64], frequency: NDArray[np.float64]) -> float:
    """The largest dt (to 2 %) at which integrating-factor RK4 lets no mode grow.

    A mode decays at its rate `decay` >= 0 inside the factor and turns at `frequency` outside:
    exp(-decay dt) |P(i frequency dt)| <= 1 for all modes, P the polynomial of RK4. Infinite where
    nothing turns.
    """
    decay, frequency = decay[frequency > 0], frequency[frequency > 0]
    if not frequency.size:
        return float("inf")
    dt = _RK4_IMAGINARY / float(frequency.max())
    while dt * frequency.max() < 1e4:
        z = 1j * frequency * (1.02 * dt)
        growth = np.log(np.abs(1 + z * (1 + z / 2 * (1 + z / 3 * (1 + z / 4)))))
        if (growth > decay * (1.02 * dt)).any():
            break
        dt *= 1.02
    return dt


def stencil(times: Sequence[float], dt: float) -> tuple[list[float], float]:
    """Five times around each positive one, `delta` apart, and delta: for `time_derivative`.

    delta is half a step, or less where stored times lie close.
    """
    positive = [t for t in times if t > 0]
    delta = min([dt / 2, *((b - a) / 8 for a, b in itertools.pairwise([0.0, *positive]))])
    return [t + step * delta for t in positive for step in (-2, -1, 0, 1, 2)], delta


def time_derivative(states: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """(batch, 5 times, ...) of a `stencil` -> the states in the middle and their derivatives in time.

    Central differences of order 4; each (batch, times, ...).
    """
    before_2, before, middle, after, after_2 = (states[:, i::5] for i in range(5))
    return middle, (8 * (after - before) - (after_2 - before_2)) / (12 * delta)


def difference(field: Tensor, axis: int, spacing: float, derivative: int = 1) -> Tensor:
    """The first or second derivative along a periodic axis, by central differences of order 8."""
    weights = (4 / 5, -1 / 5, 4 / 105, -1 / 280) if derivative == 1 else (8 / 5, -1 / 5, 8 / 315, -1 / 560)
    out = torch.zeros_like(field) if derivative == 1 else -205 / 72 * field
    for shift, weight in enumerate(weights, start=1):
        ahead, behind = field.roll(-shift, axis), field.roll(shift, axis)
        out += weight * (ahead - behind if derivative == 1 else ahead + behind)
    return out / spacing**derivative


def relative_size(defect: Tensor, terms: Sequence[Tensor]) -> Tensor:
    """(batch,): the largest over time of |defect| / (size of the largest term), sizes in L2 per sample.

    All are (batch, time, ...); zero where every term is.
    """

    def size(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], -1).square().mean(-1).sqrt()

    scale = torch.stack([size(term) for term in terms]).amax(0)
    relative = size(defect) / scale.clamp(min=torch.finfo(scale.dtype).tiny)
    return relative.amax(1)
