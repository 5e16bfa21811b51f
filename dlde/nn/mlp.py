"""Fully connected networks that carry jets: one pass gives the outputs and their derivatives.

A linear layer maps every derivative as it maps the value; `dlde.nn.derivatives` does the rest.
Derivatives of the inputs that do not differ between points, as those of coordinates, pass the first
layer as one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import overload

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from dlde.nn import derivatives
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
            return self._jet(x)
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if number < len(self.layers):
                x = x.tanh()
        return x

    def _jet(self, jet: Jet) -> Jet:
        for number, layer in enumerate(self.layers, start=1):
            assert isinstance(layer, nn.Linear)
            parts = {name: linear(part, layer.weight) for name, part in jet.parts.items()}
            value = linear(jet.value, layer.weight, layer.bias)
            jet = Jet(value, parts, jet.names, jet.operators)
            if number < len(self.layers):
                jet = derivatives.tanh(jet)
        return jet
