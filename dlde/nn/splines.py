"""Monotone rational-quadratic splines of the unit interval, and a map of the unit cube made of them.

A spline has K bins of widths w and heights h (each summing to one) and slopes at the K + 1 knots; in a bin
it is a quotient of two quadratics, increasing, with a continuous derivative and an inverse in closed
form. Source: Gregory & Delbourgo, IMA J. Numer. Anal. 2 (1982); as a layer of a flow: Durkan, Bekasov,
Murray & Papamakarios, Neural Spline Flows (2019), arXiv 1906.04032.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, softplus

from dlde.nn.mlp import MLP

SMALLEST = 1e-3  # width or height of a bin, and slope at a knot: densities stay within a factor 1000
UNIT = math.log(math.e - 1)  # softplus(UNIT) = 1: a slope of one


def knots(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places (..., K + 1), values (..., K + 1) and slopes (..., K + 1) from free numbers (..., 3 K + 1).

    Zeros give the identity.
    """
    bins = (raw.shape[-1] - 1) // 3
    ends = []
    for part in (raw[..., :bins], raw[..., bins : 2 * bins]):
        sizes = SMALLEST + (1 - SMALLEST * bins) * part.softmax(-1)
        ends.append(pad(sizes.cumsum(-1), (1, 0)))
    return ends[0], ends[1], SMALLEST + (1 - SMALLEST) * softplus(raw[..., 2 * bins :] + UNIT)


def spline(x: Tensor, raw: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """The spline at x in [0, 1] (points,), and the logarithm of its slope there (points,).

    `raw` is (3 K + 1,) or (points, 3 K + 1). With `inverse` the spline's inverse at x; the logarithm is
    that of the spline's own slope, at the point found.
    """
    places, values, slopes = (part.expand(len(x), -1) for part in knots(raw))
    edges = (values if inverse else places)[:, 1:-1].detach()
    bin_ = torch.searchsorted(edges.contiguous(), x.detach().contiguous().unsqueeze(1), right=True)

    def at(table: Tensor, shift: int = 0) -> Tensor:
        return table.gather(1, bin_ + shift).squeeze(1)

    left, low = at(places), at(values)
    width, height = at(places, 1) - left, at(values, 1) - low
    steep, first, last = height / width, at(slopes), at(slopes, 1)
    bend = first + last - 2 * steep
    if inverse:
        rise = x - low
        a = height * (steep - first) + rise * bend
        b = height * first - rise * bend
        c = -steep * rise
        t = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        y = left + width * t
    else:
        t = (x - left) / width
    between = t * (1 - t)
    divisor = steep + bend * between
    if not inverse:
        y = low + height * (steep * t.square() + first * between) / divisor
    slope = steep.square() * (last * t.square() + 2 * steep * between + first * (1 - t).square())
    return y, slope.log() - 2 * divisor.log()


class TriangularMap(nn.Module):
    """The unit cube onto itself, one to one: component k is a spline of z_k, given the components before.

    The identity at the start, in double precision. The logarithm of its Jacobian's determinant is a sum of
    one term for each component, whatever the dimension.
    """

    def __init__(self, dims: int, *, bins: int, width: int) -> None:
        super().__init__()
        size = 3 * bins + 1
        self.first = nn.Parameter(torch.zeros(size, dtype=torch.float64))
        self.further = nn.ModuleList(
            MLP([number, width, width, size], dtype=torch.float64) for number in range(1, dims)
        )
        for network in self.further:
            assert isinstance(network, MLP)
            for parameter in network.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x (points, dims) and log det dx/dz (points,)."""
        return self._through(z, inverse=False)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (points, dims) that is mapped to x, and log det dx/dz (points,) there."""
        return self._through(x, inverse=True)

    def _through(self, points: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        found: list[Tensor] = []
        logs: list[Tensor] = []
        for number, column in enumerate(points.unbind(1)):
            raw = self.first
            if number:
                before = points[:, :number] if inverse else torch.stack(found, dim=1)
                raw = self.further[number - 1](2 * before - 1)
            value, log_slope = spline(column, raw, inverse=inverse)
            found.append(value)
            logs.append(log_slope)
        return torch.stack(found, dim=1), torch.stack(logs).sum(0)
