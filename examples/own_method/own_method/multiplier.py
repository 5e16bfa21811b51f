"""A linear operator that is diagonal in Fourier space: one learned number for every mode.

It maps a field to a later one; of diffusion it finds exp(-diffusivity k^2 t).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from dlde.method import DataInfo, Descent, Evaluation, Method, Operation, Run
from dlde.tasks.field_map import ROLE, FieldMap


class Diagonal(nn.Module):
    """(batch, x, 1) -> (batch, x, 1); modes beyond the learned ones vanish."""

    def __init__(self, modes: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(modes))

    def forward(self, u: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(u[..., 0])[:, : len(self.factors)]
        return torch.fft.irfft(spectrum * self.factors, u.shape[1])[..., None]


class Multiplier(Method):
    """A factor for every Fourier mode, learned from pairs of fields."""

    roles: ClassVar = (ROLE,)
    chains: ClassVar = True

    modes: PositiveInt = 8
    map: FieldMap = FieldMap()
    descent: Descent = Descent(steps=400, batch=16, rate=2e-2, schedule="cosine")

    def check(self, info: DataInfo) -> None:
        self.map.check(info)

    def build(self, info: DataInfo) -> nn.Module:
        return Diagonal(self.modes)

    def train(self, run: Run) -> nn.Module:
        model = self.build(run.info)
        pairs = self.map.pairs(run, batch=self.descent.batch)
        run.fit(model, pairs, pairs.loss, self.descent)
        return model

    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        return self.map.evaluate(model, run, minimum=2 * self.modes)

    def operations(self, info: DataInfo) -> dict[str, Operation]:
        return {"predict": self.map.operation(info, minimum=2 * self.modes)}

    def predict(self, model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
        """The later field, on the grid of the earlier one."""
        return {self.map.output: model(inputs[self.map.input])}
