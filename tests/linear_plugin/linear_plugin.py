"""A package of a user's own, as small as can be: found by its entry points alone."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from dlde.datasets.info import DatasetInfo
from dlde.method import ArraySpec, DataInfo, Dim, Evaluation, Method, Operation, Run
from dlde.problem import Axis, Problem, Variable


class Decay(Problem):
    """du/dt = -rate u at every point of a periodic line."""

    version: ClassVar[str] = "1"
    rate: float = 1.0


class LinearMap(nn.Module):
    """Two layers that share one weight, so that tied weights are met."""

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.first = nn.Linear(size, size)
        self.second = nn.Linear(size, size)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, u: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(u))) * self.scale


class Linear(Method):
    """A linear map with a bend, for tests."""

    roles: ClassVar = ("train",)
    scale: float = 1.0
    lines: PositiveInt = 1

    def build(self, info: DataInfo) -> nn.Module:
        return LinearMap(info.data["train"].axes["x"].num_points, self.scale)

    def train(self, run: Run) -> nn.Module:
        return self.build(run.info)

    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        return Evaluation(metrics={})

    def operations(self, info: DataInfo) -> dict[str, Operation]:
        axis = info.data["train"].axes["x"]
        dims = (
            Dim(name="batch"),
            Dim(name="x", size=axis.num_points, axis=axis),
            Dim(name="channel", size=1),
        )
        field = ArraySpec(dims=dims, long_name="state", rms_range=(0.1, 10.0))
        both = {"u": field, "v": field}
        return {
            "predict": Operation(summary="State later.", inputs={"u": field}, outputs={"u": field}),
            "add": Operation(summary="Sum of two states.", inputs=both, outputs={"u": field}),
        }

    def predict(self, model: nn.Module, u: Tensor) -> dict[str, Tensor]:
        return {"u": model(u[..., 0])[..., None]}

    def add(self, model: nn.Module, u: Tensor, v: Tensor) -> dict[str, Tensor]:
        return {"u": u + v}


def info(num_points: int = 8) -> DataInfo:
    axis = Axis(start=0.0, stop=1.0, num_points=num_points, boundary="periodic")
    return DataInfo(
        data={
            "train": DatasetInfo(
                recipe="decay-small",
                problem=Decay(rate=2.0),
                variables={"u": Variable(dims=("time", "x"), long_name="state")},
                axes={"x": axis},
                times=(0.0, 1.0),
                samples={"train": 4, "test": 2},
                statistics={},
                digest="c0ffee" * 10,
            )
        }
    )
