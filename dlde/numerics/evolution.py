"""Around time stepping: finer grids, the largest stable step, and how well an equation is met."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dlde.numerics.differences import five_times
from dlde.numerics.spectral import Stepper, Symbol, resample

_CHECKED_TIMES = 8


def refined_to(field: Tensor, num_points: Sequence[int]) -> Tensor:
    """The trigonometric interpolant on at least `num_points` along each of the last axes."""
    for dim, points in zip(range(-len(num_points), 0), num_points, strict=True):
        field = resample(field, max(field.shape[dim], points), dim)
    return field.contiguous()


def largest_stable_step(stepper: Stepper, rate: Symbol, dt: float) -> float:
    """dt, or a tenth less again and again until no mode grows where the nonlinear part is `rate` * v."""
    while stepper.amplification(rate, dt).max() > 1 + 1e-9:
        dt /= 1.1
    return dt


def stencil(times: Sequence[float], dt: float) -> tuple[list[float], float]:
    """Five times around positive ones, `delta` apart, and delta: for `differences.time_derivative`.

    delta is half a step, or less where stored times lie close. Of many times, 8 are taken at most.
    """
    positive = [t for t in times if t > 0]
    positive = positive[:: math.ceil(len(positive) / _CHECKED_TIMES) or 1]
    delta = min([dt / 2, *((b - a) / 8 for a, b in itertools.pairwise([0.0, *positive]))])
    return five_times(positive, delta), delta


def rounding(field: Tensor, delta: float, precision: str) -> Tensor:
    """What differences in time can make of rounding errors in a field, amply; a term for `relative_size`.

    It keeps the defect of a state at rest, where all terms are rounding errors, from looking large.
    """
    return field * (1e3 * torch.finfo(getattr(torch, precision)).eps / delta)


def relative_size(defect: Tensor, terms: Sequence[Tensor]) -> Tensor:
    """(batch,): the largest over time of |defect| / (size of the largest term), sizes in L2 per sample.

    All are (batch, time, ...); zero where every term is.
    """

    def size(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], -1).square().mean(-1).sqrt()

    scale = torch.stack([size(term) for term in terms]).amax(0)
    relative = size(defect) / scale.clamp(min=torch.finfo(scale.dtype).tiny)
    return relative.amax(1)
