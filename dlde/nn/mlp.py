"""Fully connected networks that carry jets: one pass gives the outputs and their derivatives.

For each layer z = W a + b, a = tanh z, the derivatives along i and j are

    z_i = W a_i,  z_ij = W a_ij,  a_i = s z_i,  a_ij = s z_ij - 2 a s z_i z_j   with s = 1 - a^2.

First and second derivatives travel as one tensor each, (directions, points, width), so that a layer
costs three matrix products whatever their number; derivatives of the inputs that do not differ
between points, as those of coordinates, pass the first layer as one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import overload

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from dlde.numerics.jets import Jet


class MLP(nn.Module):
    """(..., sizes[0]) -> (..., sizes[-1]) with tanh between the linear layers.

    Weights and biases begin uniform in +-1 / sqrt(inputs), so that the kinks of the first layer's units
    lie all over [-1, 1]; with biases zero they would all lie in the middle. The first layer's are
    `steepness` times as large: as narrow a feature as the inputs are expected to show.
    """

    def __init__(
        self, sizes: Sequence[int], *, steepness: float = 1.0, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs, dtype=dtype) for inputs, outputs in pairwise(sizes)
        )
        with torch.no_grad():
            for parameter in self.layers[0].parameters():
                parameter.mul_(steepness)

    @overload
    def forward(self, x: Tensor) -> Tensor: ...
    @overload
    def forward(self, x: Jet) -> Jet: ...
    def forward(self, x: Tensor | Jet) -> Tensor | Jet:
        """Of a jet (points, inputs): the jet of the outputs, with the same derivatives."""
        if isinstance(x, Jet):
            return self._carry(x)
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if number < len(self.layers):
                x = x.tanh()
        return x

    def _carry(self, jet: Jet) -> Jet:
        firsts = [name for name in jet.names if len(name) == 1]
        seconds = [name for name in jet.names if len(name) == 2]
        left = [firsts.index(name[0]) for name in seconds]
        right = [firsts.index(name[1]) for name in seconds]
        pure = left == right == list(range(len(firsts)))  # the common case, without a gather
        a, d1, d2 = jet.value, _stack(jet, firsts), _stack(jet, seconds)
        for number, layer in enumerate(self.layers, start=1):
            assert isinstance(layer, nn.Linear)
            z = linear(a, layer.weight, layer.bias)
            d1 = None if d1 is None else linear(d1, layer.weight)
            d2 = None if d2 is None else linear(d2, layer.weight)
            if number == len(self.layers):
                a = z
                break
            a = z.tanh()
            if d1 is None:
                continue
            slope = 1 - a * a
            if seconds:
                crossed = d1 * d1 if pure else d1[left] * d1[right]
                bent = (-2 * a * slope) * crossed
                d2 = bent if d2 is None else torch.addcmul(bent, slope, d2)
            d1 = slope * d1
        parts: dict[str, Tensor] = {}
        for names, stacked in ((firsts, d1), (seconds, d2)):
            if stacked is not None:
                parts.update(zip(names, stacked.unbind(0), strict=True))
        return Jet(a, parts, jet.names)


def _stack(jet: Jet, names: Sequence[str]) -> Tensor | None:
    """(directions, points or 1, inputs); None where all of them vanish."""
    known = [jet.parts[name] for name in names if name in jet.parts]
    if not known:
        return None
    zero = 0 * sum(known[1:], known[0])  # in the shape that all broadcast to
    return torch.stack([jet.parts.get(name, zero).expand_as(zero) for name in names])
