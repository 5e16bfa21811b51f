"""Instantaneous control: the closed form is the minimum of what it predicts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dlde.errors import SpecError
from dlde.method import DataInfo
from dlde.methods.instantaneous_control import InstantaneousControl, cheapest
from dlde.problems.burgers import Burgers
from dlde.problems.controlled_burgers import ControlledBurgers
from dlde.tasks.feedback import Feedback
from tests.actuated import Cells, Quick


def test_the_closed_form_is_the_minimum_of_the_predicted_cost() -> None:
    problem = ControlledBurgers(target_modes=(0.3,))
    u = problem.initial(1, range(3))
    a = (-(u - problem.target) @ cheapest(problem).T).requires_grad_()
    predicted = u + problem.interval * a @ problem.shapes - problem.target
    cost = predicted.square().mean(1) + problem.energy_price * a.square().mean(1)
    (slope,) = torch.autograd.grad(cost.sum(), a)
    assert float(slope.abs().max()) < 1e-15
    assert float(a.detach().abs().max()) > 1e-2


def test_with_free_energy_and_an_actuator_at_every_point_it_cancels_the_field() -> None:
    cells = Cells(energy_price=0.0)
    torch.testing.assert_close(cheapest(cells), cells.shapes)


def test_it_trains_nothing_and_calms_the_field_a_little(tmp_path: Path) -> None:
    info = DataInfo(problem=ControlledBurgers(horizon=0.2, num_points=32, noise_modes=4))
    method = InstantaneousControl(feedback=Feedback(paths=4))
    method.check(info)
    run = Quick(tmp_path, info, {}, seed=100)
    model = method.train(run)
    assert 0.8 < method.evaluate(model, run).metrics["relative_cost"] < 1
    operation = method.operations(info)["control"]
    answer = method.control(model, u=torch.randn(5, 32))
    assert sorted(answer) == sorted(operation.outputs)
    assert answer["a"].shape == (5, 8)


def test_a_problem_without_actuators_is_refused() -> None:
    with pytest.raises(SpecError, match="needs a problem with actuators"):
        InstantaneousControl().check(DataInfo(problem=Burgers()))
