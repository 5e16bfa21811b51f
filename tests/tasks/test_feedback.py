"""Measuring a feedback law: the same unseen paths for all, known numbers, and what is served."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from dlde.errors import InputError, SpecError
from dlde.method import DataInfo
from dlde.problems.burgers import Burgers
from dlde.problems.controlled_burgers import ControlledBurgers
from dlde.tasks.feedback import (
    Controller,
    Feedback,
    SaturatedLinear,
    at_rest,
    interval,
    largest_field,
    simulate,
    slopes,
)
from dlde.training.run import EngineRun
from tests.actuated import Cells, Quick

SHORT = ControlledBurgers(horizon=0.1)
INFO = DataInfo(problem=SHORT)


class Zero(nn.Module):
    def forward(self, u: Tensor) -> Tensor:
        return u.new_zeros(len(u), 8)


def evaluated(tmp_path: Path, law: nn.Module, **fields: Any) -> Any:
    return Feedback(paths=6, **fields).evaluate(law, Quick(tmp_path, INFO, {}, seed=100))


def test_doing_nothing_costs_what_no_control_costs(tmp_path: Path) -> None:
    run = EngineRun(tmp_path, INFO, {}, seed=100)
    evaluation = Feedback(paths=6).evaluate(Controller(Zero(), SHORT), run)
    metrics = evaluation.metrics
    assert metrics["cost"] == metrics["cost_uncontrolled"]
    assert metrics["relative_cost"] == 1
    assert metrics["energy"] == 0
    assert metrics["slope"] == metrics["slope_uncontrolled"]
    assert metrics["cost"] == pytest.approx(SHORT.horizon * metrics["distance"], rel=1e-12)
    assert len(evaluation.curves["cost_over_time"]) == 5
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {"fields", "cost"}


def test_another_seed_has_other_paths_and_the_run_has_no_say(tmp_path: Path) -> None:
    law = Controller(Zero(), SHORT)
    costs = [evaluated(tmp_path, law, seed=seed).metrics["cost"] for seed in (1, 1, 2)]
    assert costs[0] == costs[1] != costs[2]
    other = Quick(tmp_path, INFO, {}, seed=101)
    assert Feedback(paths=6, seed=1).evaluate(law, other).metrics["cost"] == costs[0]


def test_paths_do_not_hang_on_how_many_there_are() -> None:
    many, few = (simulate(SHORT, at_rest(SHORT), 3, range(n)) for n in (9, 4))
    torch.testing.assert_close(many.fields[:4], few.fields, rtol=0, atol=1e-13)
    assert many.fields.shape == (9, 6, 64)
    assert many.controls.shape == (9, 5, 8)
    assert many.totals.shape == (9,)


def test_the_best_law_of_independent_cells_is_the_best_of_its_neighbours() -> None:
    """The Riccati gain beats gains 30 % off, on the same paths: rewards mean what they say."""
    problem = Cells(episode=60)
    best = problem.best_gain()
    costs = [
        float(
            simulate(
                problem,
                SaturatedLinear(factor * best * problem.shapes, problem.target, 9.0),
                0,
                range(32),
            ).totals.mean()
        )
        for factor in (0.7, 1.0, 1.3)
    ]
    assert costs[1] < min(costs[0], costs[2])


def test_a_saturated_law_is_linear_and_then_flat() -> None:
    law = SaturatedLinear(torch.tensor([[2.0, 0.0]]), torch.tensor([0.5, 0.0]), limit=1.0)
    u = torch.tensor([[0.5, 9.0], [0.75, 0.0], [5.0, 0.0], [-5.0, 0.0]])
    assert law(u).flatten().tolist() == [0.0, -0.5, -1.0, 1.0]
    assert law.scaled(u, 0.5).flatten().tolist() == [0.0, -0.25, -1.0, 1.0]


def test_the_interval_is_students() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64)
    mean, low, high = interval(values)
    expected = stats.t.interval(0.95, 3, loc=3.5, scale=stats.sem(values.numpy()))
    assert mean == 3.5
    assert (low, high) == pytest.approx(expected, rel=1e-9)


def test_the_slope_of_a_sine_is_known() -> None:
    problem = ControlledBurgers(horizon=0.02, sigma=0.0, viscosity=1e-9, interval=0.001)
    x = torch.arange(64, dtype=torch.float64) / 64
    fields = torch.stack([torch.sin(6 * math.pi * x), 1 + 0 * x])
    torch.testing.assert_close(
        slopes(problem, fields), torch.tensor([0.5 * (6 * math.pi) ** 2, 0.0], dtype=torch.float64)
    )


def test_the_served_law_gives_control_and_force() -> None:
    law = Controller(SaturatedLinear(SHORT.shapes, SHORT.target, 5.0), SHORT)
    u = torch.randn(3, 64)
    answer = Feedback().answer(law, u)
    torch.testing.assert_close(answer["a"], (-u @ SHORT.shapes.float().T).clamp(-5, 5))
    torch.testing.assert_close(answer["force"], answer["a"] @ SHORT.shapes.float())


def test_the_operation_refuses_other_grids_and_warns_of_large_fields() -> None:
    operation = Feedback().operation(INFO)
    u = torch.zeros(2, 64)
    with pytest.raises(InputError, match=r"u' has shape \(2, 65\), expected \(batch, x = 64\)"):
        operation.check({"u": torch.zeros(2, 65)})
    doubled = torch.linspace(0, 1, 64)
    with pytest.raises(InputError, match="uniform from 0 to 1, periodic, end point excluded"):
        operation.check({"u": u}, {"x": doubled})
    operation.check({"u": u}, {"x": torch.arange(64) / 64})
    with pytest.raises(InputError, match="1 values that are NaN or infinite"):
        operation.check({"u": torch.cat([u.flatten()[1:], torch.tensor([math.nan])]).view(2, 64)})
    assert operation.warnings({"u": u}) == []
    u[1, 5] = 3.1 * largest_field(SHORT)
    (warning,) = operation.warnings({"u": u})
    assert "values outside the training range" in warning


def test_a_problem_without_actuators_is_refused() -> None:
    with pytest.raises(SpecError, match="needs a problem with actuators, such as controlled-burgers"):
        Feedback().operation(DataInfo(problem=Burgers()))
