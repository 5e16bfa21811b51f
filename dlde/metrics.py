"""Errors of predicted fields: one exact definition for each name.

Each takes a prediction and its reference, (batch, ...) of one shape, and returns a value for each
sample (`vrmse`: for each sample and channel). A norm is a root mean square over all axes but the
first, so that it means the same on every grid. Differences and sums are taken in float64. A
reported figure of that name is the mean over the samples; for `max_error` it is the largest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dlde.errors import GridError


def rms(field: Tensor) -> Tensor:
    """Root mean square (batch,) of each sample; its gradient at zero is zero."""
    flat = field.double().flatten(1)
    norm: Tensor = torch.linalg.vector_norm(flat, dim=1)
    return norm / math.sqrt(flat.shape[1])


def rmse(prediction: Tensor, reference: Tensor) -> Tensor:
    """Root mean square (batch,) of the error."""
    return rms(_difference(prediction, reference))


def relative_l2(prediction: Tensor, reference: Tensor, floor: float = 0.0) -> Tensor:
    """‖prediction - reference‖ / max(‖reference‖, floor), (batch,).

    `floor` is a root mean square, in the field's units: below it a reference counts as vanished,
    and its error is measured against the floor (`floored` counts such samples).
    """
    return rmse(prediction, reference) / rms(reference).clamp(min=floor)


def floored(reference: Tensor, floor: float) -> Tensor:
    """Whether `relative_l2` measures a sample against the floor, (batch,) of bool."""
    return rms(reference) < floor


def max_error(prediction: Tensor, reference: Tensor) -> Tensor:
    """Largest absolute error (batch,) at any point."""
    return _difference(prediction, reference).abs().flatten(1).amax(1)


def vrmse(prediction: Tensor, reference: Tensor) -> Tensor:
    """sqrt(mean squared error / (variance + 1e-7)) over space, of (batch, *space, channel): (batch, channel).

    The variance is the reference's, with n - 1 in the denominator, as in The Well
    (Ohana et al. 2024, arXiv 2412.00568), where the mean of every field scores 1.
    """
    error = _difference(prediction, reference).flatten(1, -2)
    variance = reference.double().flatten(1, -2).var(dim=1)
    return (error.square().mean(dim=1) / (variance + 1e-7)).sqrt()


def _difference(prediction: Tensor, reference: Tensor) -> Tensor:
    if prediction.shape != reference.shape:  # else broadcasting would hide it
        raise GridError(
            f"prediction has shape {tuple(prediction.shape)}, but its reference {tuple(reference.shape)}"
        )
    return prediction.double() - reference.double()
