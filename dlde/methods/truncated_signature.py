"""Truncated signature: the state of an unknown system as a linear function of its path's signature.

The signature of (t, X) up to `order`, the iterated integrals of up to that many channels, and a ridge
regression on it: what the randomized signature is measured against. Features grow as
(1 + drivers)^order. The path is taken as piecewise linear between its points.

Source: T. Lyons, Rough paths, signatures and the modelling of functions on streams (2014), arXiv 1405.4537.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor, nn

from dlde.method import DataInfo, Evaluation, Method, Operation, Run
from dlde.numerics.signature import num_signature_features, signature
from dlde.tasks.path_map import ROLE, PathMap, PathReadout


class SignatureLift(nn.Module):
    """Increments (batch, steps, channels) -> levels 1 to `order` (batch, steps + 1, features)."""

    cure = "use a path of smaller increments, or a lower method.order"

    def __init__(self, channels: int, order: int) -> None:
        super().__init__()
        self.order = order
        self.num_features = num_signature_features(channels, order)

    def forward(self, increments: Tensor) -> Tensor:
        return signature(increments, self.order)


class TruncatedSignature(Method):
    """Truncated signature: a linear readout of the iterated integrals of a path."""

    roles: ClassVar = (ROLE,)

    order: PositiveInt = 5  # of the deepest integrals
    map: PathMap = PathMap()

    def check(self, info: DataInfo) -> None:
        """Raises SpecError or GridError where data, features and regression do not fit together."""
        self.map.check(info)
        features = num_signature_features(1 + self.map.drivers(info), self.order)
        self.map.check_regression(info, features, fewer=f"an order lower than method.order={self.order}")

    def build(self, info: DataInfo) -> PathReadout:
        lift = SignatureLift(1 + self.map.drivers(info), self.order)
        return self.map.readout(info, lift, lift.num_features)

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
