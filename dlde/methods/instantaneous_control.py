"""Instantaneous control: at every decision, the control that is cheapest one decision ahead.

It minimises mean_x (u + h sum_j a_j psi_j - target)^2 + lambda mean_j a_j^2 over a, where h is the
time that a control is held and lambda the price of energy; the field's own motion and the noise are
left out of the prediction. In closed form a = -K (u - target), cut at the actuators' limit, with
K = (h^2 Psi Psi^T / N + lambda I / M)^-1 h Psi / N for N points and M actuators.

Source: the idea of Choi, Temam, Moin & Kim, Feedback control for unsteady flow and its application to
the stochastic Burgers equation, J. Fluid Mech. 253 (1993), where it is called suboptimal.
Otherwise than there: the minimum is taken in closed form instead of one step of a gradient.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from dlde.method import DataInfo, Evaluation, Method, Operation, Run
from dlde.problem import ActuatedField
from dlde.tasks.feedback import Controller, Feedback, SaturatedLinear, actuated


class InstantaneousControl(Method):
    """Instantaneous control: minimises the cost predicted one decision ahead, in closed form."""

    requires: ClassVar = ActuatedField

    feedback: Feedback = Feedback()

    def check(self, info: DataInfo) -> None:
        """Raises SpecError where the problem has no actuators."""
        actuated(info)

    def build(self, info: DataInfo) -> Controller:
        problem = actuated(info)
        return Controller(SaturatedLinear(cheapest(problem), problem.target, problem.control_limit), problem)

    def train(self, run: Run) -> nn.Module:
        """Nothing is learned."""
        return self.build(run.info)

    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        return self.feedback.evaluate(model, run)

    def operations(self, info: DataInfo) -> dict[str, Operation]:
        return {"control": self.feedback.operation(info)}

    def control(self, model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
        """The control to hold now (batch, places), and its force (batch, points)."""
        return self.feedback.answer(model, **inputs)


def cheapest(problem: ActuatedField) -> Tensor:
    """K (places, points), float64."""
    h, shapes = problem.interval, problem.shapes
    places, points = shapes.shape
    curvature = h**2 / points * shapes @ shapes.T + problem.energy_price / places * torch.eye(places).double()
    gain: Tensor = torch.linalg.solve(curvature, h / points * shapes)
    return gain
