"""Collocation: counting, measuring, serving, and the refusal of problems that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlde.errors import GridError, InputError, SpecError
from dlde.method import DataInfo
from dlde.nn.mlp import MLP
from dlde.numerics.jets import Jet
from dlde.problem import Problem, Residual, Variable
from dlde.problems.burgers import Burgers
from dlde.problems.convection_layer import ConvectionLayer
from dlde.problems.poisson import Poisson
from dlde.tasks import collocation
from dlde.tasks.collocation import Collocation, Trial, affordable, corners, relative_l2
from dlde.training.run import EngineRun

torch.set_num_threads(1)
TASK = Collocation(every=2)


class Oscillators(Problem, Residual):
    """u' = v, v' = -u on (0, 1), u(0) = 0, v(0) = 1; `fault` breaks one part of it."""

    fault: str = ""

    @property
    def box(self) -> dict[str, tuple[float, float]]:
        return {"t": (0.0, 1.0)}

    @property
    def unknowns(self) -> dict[str, Variable]:
        return {name: Variable(dims=("t",), long_name=name) for name in "uv"}

    @property
    def derivatives(self) -> tuple[str, ...]:
        return ("t",)

    @property
    def output_scale(self) -> dict[str, float]:
        return {"u": 2.0, "v": 1.0}

    def residual(self, x: Mapping[str, Tensor], u: Mapping[str, Jet]) -> dict[str, Tensor]:
        first, second = u["u"]["t"] - u["v"].value, u["v"]["t"] + u["u"].value
        if self.fault == "shape":
            first = first[:, None]
        if self.fault == "detached":
            second = second + torch.sin(5 * x["t"]).detach()
        if self.fault == "numpy":
            second = second + torch.from_numpy(x["t"].numpy() ** 2)
        return {"first": first, "second": second}

    def constrain(self, x: Mapping[str, Jet], network: Mapping[str, Jet]) -> dict[str, Jet]:
        return {"u": x["t"] * network["u"], "v": 1 + x["t"] * network["v"]}

    def reference(self, points: Tensor) -> dict[str, Tensor]:
        t = points[:, 0].double()
        known = {"u": t.sin(), "v": t.cos()}
        return {"u": known["u"]} if self.fault == "reference" else known


def trial(problem: Any, *widths: int) -> Trial:
    torch.manual_seed(100)
    return Trial(problem, MLP([len(problem.box), *(widths or (8, 8)), len(problem.unknowns)]))


def run_of(folder: Path, problem: Any) -> EngineRun:
    return EngineRun(folder, DataInfo.model_construct(problem=problem, data={}), {}, seed=100)


def test_a_trial_is_its_network_within_the_conditions() -> None:
    model = trial(Oscillators())
    t = torch.rand(5, 1)
    free = model.network(2 * t - 1)
    torch.testing.assert_close(model(t), torch.stack([t[:, 0] * 2 * free[:, 0], 1 + t[:, 0] * free[:, 1]], 1))


def test_served_values_derivatives_and_residuals_agree_with_autograd() -> None:
    model = trial(Oscillators()).double()
    t = torch.rand(5, 1, dtype=torch.float64, requires_grad=True)
    answers = TASK.solve(model, t)
    u, v = model(t).unbind(1)
    (u_t,), (v_t,) = (torch.autograd.grad(w.sum(), t, retain_graph=True) for w in (u, v))
    expected = {"u": u, "v": v, "u_t": u_t[:, 0], "v_t": v_t[:, 0],
                "residual_first": u_t[:, 0] - v, "residual_second": v_t[:, 0] + u}  # fmt: skip
    assert set(answers) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(answers[name], value)


def test_the_operation_promises_what_is_answered_and_refuses_points_outside() -> None:
    for problem in (Oscillators(), ConvectionLayer(), Poisson()):
        operation = TASK.operation(problem)
        low, high = corners(problem)
        points = torch.stack([low, high])
        operation.check({"points": points})
        assert set(operation.outputs) == set(TASK.solve(trial(problem), points))
        points[1, -1] += 0.1
        with pytest.raises(InputError, match="1 values outside"):
            operation.check({"points": points})


def test_evaluation_measures_the_error_of_what_the_model_answers(tmp_path: Path) -> None:
    """A network of zeros: u = 0 on the layer errs by the whole reference."""
    problem = ConvectionLayer()
    model = trial(problem)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    run = run_of(tmp_path, problem)
    metrics = TASK.evaluate(model, run).metrics
    assert metrics["relative_l2"] == pytest.approx(1)
    assert metrics["residual_rms"] == pytest.approx(1)
    assert metrics["max_error"] == pytest.approx(0.9015, abs=1e-3)  # at x = 1 + eps log(eps (1 - ...))
    assert (tmp_path / "figures" / "solution.png").is_file()


def test_several_unknowns_and_planes_are_measured_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collocation, "MEASURED", {1: 64, 2: 16})
    metrics = TASK.evaluate(trial(Oscillators()), run_of(tmp_path, Oscillators())).metrics
    assert metrics["relative_l2"] == pytest.approx((metrics["relative_l2_u"] + metrics["relative_l2_v"]) / 2)
    TASK.evaluate(trial(Poisson(), 4), run_of(tmp_path, Poisson()))
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["solution-u.png", "solution-v.png", "solution.png"]


def test_evaluations_are_counted_for_all_workers(tmp_path: Path) -> None:
    run, model = run_of(tmp_path, ConvectionLayer()), trial(ConvectionLayer())
    terms = TASK.loss(model, torch.rand(6, 1), run)
    assert set(terms) == {"convection"}
    assert int(model.evaluations) == 6
    torch.testing.assert_close(model.state_dict()["evaluations"], torch.tensor(6))


def test_watching_logs_and_stops(tmp_path: Path) -> None:
    problem = Oscillators()
    run, model = run_of(tmp_path, problem), trial(problem)
    task = Collocation(every=2, stop_below=10.0)
    watch, seen = task.watch(run), []
    for step in run.steps(10, state=run.state(model=model)):
        watch.after(step, model)
        seen.append(step)
    assert seen == [0, 1]
    assert '"relative_l2"' in (tmp_path / "curves" / "steps.jsonl").read_text().splitlines()[1]


def test_a_budget_pays_for_whole_steps() -> None:
    assert affordable(100, lambda step: 10) == 10
    assert affordable(109, lambda step: 10) == 10
    assert affordable(100, lambda step: 10 + (25 if step % 2 else 0)) == 5
    assert affordable(5, lambda step: 10) == 0


def test_errors_of_different_points_are_not_compared() -> None:
    with pytest.raises(GridError, match="predictions, but"):
        relative_l2(torch.zeros(3, 1), torch.zeros(4, 1))


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (Oscillators(fault="shape"), r"residual 'first' has shape \(3, 1\), expected \(3,\)"),
        (Oscillators(fault="reference"), "the reference of 'v' is missing"),
        (Burgers(), "has no trial function that meets its conditions"),
    ],
)
def test_problems_that_do_not_fit_are_refused(problem: Any, message: str) -> None:
    info = DataInfo.model_construct(problem=problem, data={})
    with pytest.raises(SpecError, match=message):
        TASK.check(info, trial(problem))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("detached", "the residual 'second' has no derivative along the points that autograd finds"),
        ("numpy", "cannot be taken at points that are differentiated along"),
    ],
)
def test_a_source_that_cannot_be_differentiated_is_named(fault: str, message: str) -> None:
    TASK.check_slopes(trial(Oscillators()))
    with pytest.raises(SpecError, match=message):
        TASK.check_slopes(trial(Oscillators(fault=fault)))
