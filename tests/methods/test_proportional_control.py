"""Proportional control: its law, and that its gain is the best of the grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dlde.errors import SpecError
from dlde.method import DataInfo
from dlde.methods.proportional_control import ProportionalControl, Tuned
from dlde.problems.burgers import Burgers
from dlde.problems.controlled_burgers import ControlledBurgers
from dlde.tasks.feedback import Controller, Feedback
from dlde.training.run import EngineRun
from tests.actuated import Cells, Quick

SMALL = ControlledBurgers(horizon=0.2, num_points=32, noise_modes=4)


def trained(folder: Path, method: ProportionalControl, problem: Any) -> tuple[Controller, Tuned, EngineRun]:
    run = Quick(folder, DataInfo.model_construct(problem=problem, data={}), {}, seed=100)
    model = method.train(run)
    assert isinstance(model, Controller)
    assert isinstance(model.law, Tuned)
    return model, model.law, run


def test_the_law_is_minus_the_gain_times_the_felt_field(tmp_path: Path) -> None:
    problem = ControlledBurgers(horizon=0.02, target_modes=(0.5,))
    model, _, _ = trained(tmp_path, ProportionalControl(gains=(2.0,), paths=2), problem)
    assert model(torch.ones(1, 64) + problem.target.float()).tolist() == [pytest.approx([-2.0] * 8, rel=1e-5)]
    assert model(problem.target.float()[None] - 9).tolist() == [[5.0] * 8]


def test_the_gain_is_the_best_of_the_grid(tmp_path: Path) -> None:
    """Cells have one best gain, which the grid brackets; the paths of tuning are none of the evaluation's."""
    problem = Cells(episode=60, control_limit=9.0)
    best = problem.best_gain()
    gains = tuple(round(factor * best, 3) for factor in (0.0, 0.5, 0.8, 1.0, 1.2, 2.0))
    _, law, _ = trained(tmp_path, ProportionalControl(gains=gains, paths=16), problem)
    assert float(law.best) == pytest.approx(gains[3])
    assert law.costs[0] > 2 * law.costs[3]


def test_a_gain_of_zero_is_no_control_and_tuning_is_not_repeated(tmp_path: Path) -> None:
    method = ProportionalControl(gains=(0.0,), paths=4, feedback=Feedback(paths=4))
    model, law, run = trained(tmp_path, method, SMALL)
    metrics = method.evaluate(model, run).metrics
    assert metrics["cost"] == metrics["cost_uncontrolled"]
    assert metrics["gain"] == 0
    (tmp_path / "once" / "costs.safetensors").stat()
    again, same, _ = trained(tmp_path, method, SMALL)
    assert same.costs.equal(law.costs)
    u = torch.randn(2, 32)
    assert method.control(again, u=u)["force"].equal(method.control(model, u=u)["force"])
    assert list(method.operations(DataInfo(problem=SMALL))) == ["control"]


def test_a_tuned_gain_calms_the_field(tmp_path: Path) -> None:
    method = ProportionalControl(gains=(0.0, 4.0), paths=4, feedback=Feedback(paths=4))
    model, _, run = trained(tmp_path, method, SMALL)
    evaluation = method.evaluate(model, run)
    assert evaluation.metrics["gain"] == 4
    assert evaluation.metrics["relative_cost"] < 0.9
    assert [gain for gain, _ in evaluation.curves["cost_by_gain"]] == [0, 4]


def test_bad_gains_and_problems_are_refused() -> None:
    with pytest.raises(SpecError, match=r"gains.0: input should be greater than or equal to 0, got -1"):
        ProportionalControl.parse({"gains": [-1.0]}, source="test")
    with pytest.raises(SpecError, match="gains: tuple should have at least 1 item"):
        ProportionalControl.parse({"gains": []}, source="test")
    with pytest.raises(SpecError, match="needs a problem with actuators"):
        ProportionalControl().check(DataInfo(problem=Burgers()))
