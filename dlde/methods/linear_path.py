"""Linear readout of time and path: Y_t ~ w (t, X_t) + c, which remembers nothing of how X came there.

The least that a map from paths to states has to beat; the truncated signature of order 1.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from dlde.method import DataInfo, Evaluation, Method, Operation, Run
from dlde.tasks.path_map import ROLE, PathMap, PathReadout


class PathPoints(nn.Module):
    """Increments (batch, steps, channels) -> the path from 0 (batch, steps + 1, channels)."""

    cure = "use a path of smaller increments"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_features = channels

    def forward(self, increments: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(increments[:, :1]), increments.cumsum(1)], 1)


class LinearPath(Method):
    """Linear readout of a path's present value and the time."""

    roles: ClassVar = (ROLE,)

    map: PathMap = PathMap()

    def check(self, info: DataInfo) -> None:
        """Raises SpecError or GridError where data and regression do not fit together."""
        self.map.check(info)
        self.map.check_regression(info, 1 + self.map.drivers(info), fewer="fewer drivers")

    def build(self, info: DataInfo) -> PathReadout:
        channels = 1 + self.map.drivers(info)
        return self.map.readout(info, PathPoints(channels), channels)

    def train(self, run: Run) -> nn.Module:
        model = self.build(run.info)
        self.map.regress(model, run)
        return model

    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        return self.map.evaluate(model, run)

    def operations(self, info: DataInfo) -> dict[str, Operation]:
        return {"predict": self.map.operation(info)}

    def predict(self, model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
        """The state along each path, at the times of its points."""
        return self.map.answer(model, inputs)
