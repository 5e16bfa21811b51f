"""Proportional control: each actuator acts against the field that it feels.

a = -k <u - target, psi> / <1, psi>, cut at the actuators' limit.

The gain k is that of a grid with the least mean cost, by simulation on paths of the kind that others
are trained on. It looks at nothing but the present, yet its gain is chosen for the whole episode: the
textbook's law that a learned one has to be compared with. A gain of 0 is no control.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from dlde.figures import empty
from dlde.method import DataInfo, Evaluation, Method, Operation, Run
from dlde.problem import ActuatedField
from dlde.tasks.feedback import CONTROLLED, Controller, Feedback, SaturatedLinear, actuated, simulate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Tuned(nn.Module):
    """The law of the best gain: fields (batch, points) -> controls (batch, places)."""

    gains: Tensor
    costs: Tensor

    def __init__(self, problem: ActuatedField, gains: Tensor) -> None:
        super().__init__()
        self.register_buffer("gains", gains)
        self.register_buffer("costs", torch.zeros_like(gains))  # mean over the paths of tuning
        self.unit = SaturatedLinear(
            problem.shapes / problem.shapes.sum(1, keepdim=True), problem.target, problem.control_limit
        )

    @property
    def best(self) -> Tensor:
        """The gain of least cost, the first of equals."""
        return self.gains[self.costs.argmin()]

    def forward(self, u: Tensor) -> Tensor:
        return self.unit.scaled(u, self.best.to(u))


class ProportionalControl(Method):
    """Proportional control: acts against the felt field, with the best gain of a grid."""

    requires: ClassVar = ActuatedField

    gains: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = (
        0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0,
    )  # fmt: skip
    paths: Annotated[int, Field(ge=2)] = 64  # of the tuning, the same for every gain
    feedback: Feedback = Feedback()

    def check(self, info: DataInfo) -> None:
        """Raises SpecError where the problem has no actuators."""
        actuated(info)

    def build(self, info: DataInfo) -> Controller:
        problem = actuated(info)
        return Controller(Tuned(problem, torch.tensor(self.gains)), problem)

    def train(self, run: Run) -> nn.Module:
        problem = actuated(run.info)
        controller = self.build(run.info)
        law = controller.law
        assert isinstance(law, Tuned)
        seed = run.generator("paths").initial_seed()

        def costs() -> dict[str, Tensor]:
            laws = [functools.partial(law.unit.scaled, factor=gain) for gain in self.gains]
            paths = range(self.paths)
            return {"costs": torch.stack([simulate(problem, one, seed, paths).totals.mean() for one in laws])}

        law.costs.copy_(run.once("costs", costs)["costs"])
        return controller

    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        evaluation = self.feedback.evaluate(model, run)
        assert isinstance(model, Controller)
        law = model.law
        assert isinstance(law, Tuned)
        curve = sorted(zip(law.gains.tolist(), law.costs.tolist(), strict=True))
        run.figure("gains", _gains_figure(curve, float(law.best)))
        return Evaluation(
            metrics={**evaluation.metrics, "gain": float(law.best)},
            curves={**evaluation.curves, "cost_by_gain": curve},
        )

    def operations(self, info: DataInfo) -> dict[str, Operation]:
        return {"control": self.feedback.operation(info)}

    def control(self, model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
        """The control to hold now (batch, places), and its force (batch, points)."""
        return self.feedback.answer(model, **inputs)


def _gains_figure(curve: list[tuple[float, float]], best: float) -> Figure:
    """Mean cost on the paths of tuning against the gain."""
    gains, costs = np.array(curve).T
    figure = empty((5.5, 3.6))
    axes = figure.subplots()
    axes.plot(gains, costs, marker="o", color=CONTROLLED, linewidth=1.8)
    axes.axvline(best, color=CONTROLLED, linewidth=1.2, linestyle="--", label=f"chosen: {best:g}")
    axes.set(xlabel="gain", ylabel="mean cost of an episode", title="Tuning of the gain")
    axes.set_ylim(0, 1.1 * max(costs.max(), 1e-12))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
