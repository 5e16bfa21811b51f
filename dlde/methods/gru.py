"""Gated recurrent unit trained by gradient descent: the trained rival of a random system on paths.

The state at t is an affine function of the hidden state h of a GRU that is fed the increments of
(t, X); trained on the mean square error over all times of random batches of paths.

Source: K. Cho et al., Learning Phrase Representations using RNN Encoder-Decoder (2014), arXiv 1406.1078.
Increments are multiplied by the root of their number on a training path, so that they are of order one.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from dlde.method import DataInfo, Descent, Evaluation, Method, Operation, Run
from dlde.tasks.path_map import ROLE, PathMap, Scaler


class RecurrentNetwork(nn.Module):
    """Times (batch, time), path (batch, time, driver) -> state (batch, time, component), float64 outside.

    `gain` multiplies the scaled increments, `mean` and `std` (component,) unscale the answer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, drivers: int, components: int, hidden: int, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.scaler = Scaler(1 + drivers)
        self.recurrent = nn.GRU(1 + drivers, hidden, batch_first=True)
        self.start = nn.Parameter(torch.zeros(hidden))
        self.readout = nn.Linear(hidden, components)
        self.register_buffer("mean", torch.zeros(components, dtype=torch.float64))
        self.register_buffer("std", torch.ones(components, dtype=torch.float64))

    def forward(self, times: Tensor, path: Tensor) -> Tensor:
        increments = (self.scaler(times, path) * self.gain).float()
        start = self.start.expand(1, len(path), -1).contiguous()
        hidden, _ = self.recurrent(increments, start)
        hidden = torch.cat([start.transpose(0, 1), hidden], 1)
        state: Tensor = self.readout(hidden).double() * self.std + self.mean
        return state


class GRU(Method):
    """Gated recurrent unit from a driving path to the state, trained by gradient descent."""

    roles: ClassVar = (ROLE,)
    chains: ClassVar = True

    hidden: PositiveInt = 64
    map: PathMap = PathMap()
    # Of the rates 3e-3, 5e-3, 1e-2 and 2e-2 and batches of 10 to 100 the best over a minute on one core.
    descent: Descent = Descent(steps=1000, batch=40, rate=3e-3, clip=1.0)

    def check(self, info: DataInfo) -> None:
        """Raises SpecError or GridError where the data hold no paths."""
        self.map.check(info)

    def build(self, info: DataInfo) -> RecurrentNetwork:
        return RecurrentNetwork(
            drivers=self.map.drivers(info),
            components=self.map.components(info),
            hidden=self.hidden,
            gain=math.sqrt(len(info.data[ROLE].times) - 1),
        )

    def train(self, run: Run) -> nn.Module:
        model = self.build(run.info)
        self.map.fit_scale(model.scaler, run)
        pairs = self.map.pairs(run, batch=self.descent.batch)
        model.to(run.device)
        model.mean.copy_(pairs.mean)
        model.std.copy_(pairs.std)
        run.fit(model, pairs, pairs.loss, self.descent)
        return model

    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        return self.map.evaluate(model, run)

    def operations(self, info: DataInfo) -> dict[str, Operation]:
        return {"predict": self.map.operation(info)}

    def predict(self, model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
        """The state along each path, at the times of its points."""
        return self.map.answer(model, inputs)
