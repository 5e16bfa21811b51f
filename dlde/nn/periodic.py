"""Convolutions on a periodic line: they commute with shifts of the field."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlde.errors import GridError


class PeriodicConv1d(nn.Module):
    """Convolution (batch, points, inputs) -> (batch, points, outputs) with an odd `kernel`.

    Output i looks at the inputs around i; a kernel wider than the line wraps around it. A product
    with a matrix of weights (outputs, kernel * inputs): on short lines faster than a library's
    convolution.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise GridError(f"kernel={kernel} has no centre; use an odd number of points")
        self.kernel = kernel
        self.linear = nn.Linear(kernel * inputs, outputs)

    def forward(self, v: Tensor) -> Tensor:
        n, reach = v.shape[1], self.kernel // 2
        if reach > n:
            around = v[:, torch.arange(-reach, n + reach, device=v.device) % n]
        else:
            around = torch.cat([v[:, n - reach :], v, v[:, :reach]], dim=1) if reach else v
        out: Tensor = self.linear(torch.cat([around[:, j : j + n] for j in range(self.kernel)], dim=-1))
        return out


def patches(v: Tensor, places: int) -> Tensor:
    """Points around each of `places` on a periodic line: (batch, points, channels) ->

    (batch, places, channels * points / places). Place j stands at point j * points / places, in the
    middle of its patch. Raises GridError where `places` does not divide the points.
    """
    batch, points, _ = v.shape
    check_places(points, places)
    return v.roll(points // places // 2, 1).reshape(batch, places, -1)


def check_places(points: int, places: int) -> None:
    """Raises GridError where so many places do not divide a line of points."""
    if points % places:
        possible = [str(n) for n in range(1, points + 1) if points % n == 0]
        raise GridError(
            f"{places} places do not divide a periodic line of {points} points; use one of "
            f"{', '.join(possible)}"
        )
