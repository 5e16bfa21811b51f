"""What backward methods share: the recursion, its order, the loss, sampling, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from dlde.errors import InputError, NonFiniteError, SpecError
from dlde.method import DataInfo
from dlde.numerics.sde import path_of
from dlde.problem import Problem, Semilinear
from dlde.problems.black_scholes_lending import BlackScholesLending
from dlde.problems.burgers_hd import BurgersHD
from dlde.problems.hjb_lq import HJBLQ
from dlde.tasks.parabolic import BackwardPaths, Finite, Paths, Recent, state_of
from dlde.training.run import EngineRun


class Linear(Problem, Semilinear):
    """u_t + Lap u / 2 - rate u = 0 with u(T, x) = sum x: u = exp(-rate (T - t)) sum x."""

    reference_kind: ClassVar = "exact"

    dims: int = 3
    horizon: float = 1.0
    start: float = 0.5
    rate: float = 0.3
    bad_after: float = 9.0  # a time from which the driver is NaN
    whole: bool = True

    @property
    def value_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def paths(self, start: Tensor, increments: Tensor, dt: float) -> Tensor:
        return start[:, None] + path_of(increments)

    def diffusion(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    def driver(self, t: float, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        f = -self.rate * y
        if t >= self.bad_after:
            f = f / 0
        return f if self.whole else f.sum()

    def terminal(self, x: Tensor) -> Tensor:
        return x.sum(-1)

    def reference(self, x: Tensor) -> Tensor | None:
        return None


def run_of(problem: Any, folder: Path, seed: int = 100) -> EngineRun:
    return EngineRun(folder, DataInfo(problem=problem), {}, seed=seed)


def test_the_recursion_by_hand() -> None:
    problem, task = Linear(dims=2), BackwardPaths(intervals=2, precision="float64")
    increments = torch.tensor([[[0.1, 0.2], [0.3, -0.1]]], dtype=torch.float64)
    paths = Paths(problem.paths(torch.full((1, 2), 0.5).double(), increments, 0.5), increments, 0.5)
    z = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]], dtype=torch.float64)
    mismatch, reached = task.mismatch(problem, paths, torch.tensor([2.0]).double(), z)
    first = 2.0 * (1 + 0.3 * 0.5) + 0.1 + 0.4
    second = first * (1 + 0.3 * 0.5) + 0.9 - 0.4
    torch.testing.assert_close(mismatch, torch.tensor([second - 1.5]).double())
    assert int(reached) == 2


def test_the_exact_value_and_control_meet_the_terminal_value_to_half_an_order(tmp_path: Path) -> None:
    """A control frozen over a time step leaves a mismatch of order dt^1/2; its mean falls faster."""
    problem = BurgersHD(dims=4, horizon=0.4)
    sizes, errors = (8, 16, 32, 64), []
    for intervals in sizes:
        task = BackwardPaths(intervals=intervals, precision="float64")
        paths = task.sample(run_of(problem, tmp_path), 4000, "order")
        x = paths.states[:, :-1].transpose(0, 1)
        t = torch.arange(intervals, dtype=torch.float64)[:, None] * paths.dt
        u = problem.solution(t, x)
        z = (u * (1 - u))[..., None].expand_as(x)  # s grad u = dims u (1 - u) / dims
        mismatch, _ = task.mismatch(problem, paths, u[0], z)
        errors.append(float(mismatch.square().mean().sqrt()))
    order = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert 0.4 < order < 0.65
    assert errors[-1] < 0.1


def test_the_loss_is_quadratic_then_linear_and_smooth() -> None:
    task = BackwardPaths()
    assert float(task.loss(torch.tensor([3.0, -4.0]))) == 12.5
    assert float(task.loss(torch.tensor([-60.0]))) == 2 * 50 * 60 - 50**2
    at = torch.tensor([49.999, 50.001, -50.001], dtype=torch.float64, requires_grad=True)
    task.loss(at).backward()
    assert at.grad is not None
    torch.testing.assert_close(3 * at.grad, torch.tensor([99.998, 100.0, -100.0], dtype=torch.float64))
    assert float(task.loss(torch.tensor([50.0]))) == 2500


def test_paths_depend_on_seed_and_keys_alone_and_are_shared_out(tmp_path: Path) -> None:
    problem, task = HJBLQ(dims=3), BackwardPaths(intervals=4)
    run = run_of(problem, tmp_path)
    whole = task.sample(run, 6, 17, region=0.5)
    assert torch.equal(task.sample(run, 6, 17, region=0.5).states, whole.states)
    assert not torch.equal(task.sample(run, 6, 18, region=0.5).states, whole.states)
    assert not torch.equal(task.sample(run_of(problem, tmp_path, 101), 6, 17).states, whole.states)
    parts = []
    for rank in range(3):
        worker = run_of(problem, tmp_path)
        worker.comm = type("Worker", (), {"rank": rank, "size": 3})()
        parts.append(task.sample(worker, 6, 17, region=0.5).states)
    assert torch.equal(torch.cat(parts), whole.states)


def test_a_region_is_a_box_around_the_state(tmp_path: Path) -> None:
    problem = HJBLQ(dims=50, start=2.0)
    starts = BackwardPaths(intervals=1).sample(run_of(problem, tmp_path), 400, 0, region=0.5).states[:, 0]
    assert 1.5 <= float(starts.min()) < 1.501
    assert 2.499 < float(starts.max()) <= 2.5
    alone = BackwardPaths(intervals=1).sample(run_of(problem, tmp_path), 4, 0).states[:, 0]
    assert torch.equal(alone, torch.full((4, 50), 2.0))


def test_increments_have_the_variance_of_their_time_step(tmp_path: Path) -> None:
    task = BackwardPaths(intervals=5)
    increments = task.sample(run_of(HJBLQ(dims=100, horizon=2.0), tmp_path), 1000, 0).increments
    assert abs(float(increments.var()) / 0.4 - 1) < 0.01  # 5e5 numbers: a deviation of 0.002
    assert abs(float(increments.mean())) < 0.005


def test_single_precision_carries_a_value_of_57_to_a_millionth(tmp_path: Path) -> None:
    problem, ends = BlackScholesLending(), []
    for precision in ("float32", "float64"):
        task = BackwardPaths(intervals=40, precision=precision)  # type: ignore[arg-type]
        double = BackwardPaths(intervals=40, precision="float64").sample(run_of(problem, tmp_path), 64, 0)
        paths = Paths(double.states.to(task.dtype), double.increments.to(task.dtype), double.dt)
        z = torch.full((40, 64, 100), 0.1, dtype=task.dtype)
        y = torch.full((64,), 57.3, dtype=task.dtype)
        ends.append(task.mismatch(problem, paths, y, z)[0].double())
    assert float((ends[0] - ends[1]).abs().max()) < 57e-6


def test_recent_values() -> None:
    recent = Recent(torch.tensor(7.0), 3)
    assert float(recent.mean()) == 7
    means = []
    for step, value in enumerate([1.0, 4.0, 7.0, 10.0, 1.0]):
        recent.keep(step, torch.tensor(value))
        means.append(float(recent.mean()))
    assert means == [1, 3, 4, 7, 6]


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (
            Linear(bad_after=0.5),
            r"the driver f at time step 2 \(t = 0.5\) holds 64 values of 64 that are NaN or infinite",
        ),
        (Linear(whole=False), r"the driver f at time step 0 \(t = 0\) has shape \(\), expected \(64,\)"),
        (HJBLQ(start=1e30), r"the terminal value g holds 64 values of 64 that are NaN"),
        (HJBLQ(start=1e39), r"the states at time step 0 \(t = 0\) holds 6400 values"),
    ],
    ids=str,
)
def test_an_equation_that_gives_no_numbers_is_refused_before_training(problem: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        BackwardPaths(intervals=4).check(DataInfo(problem=problem))


def test_a_region_that_reaches_negative_prices_is_refused() -> None:
    info = DataInfo(problem=BlackScholesLending(dims=2))
    with pytest.raises(
        SpecError, match="region=100 around the state 100 reaches states that are not positive"
    ):
        BackwardPaths().check(info, region=100.0)
    BackwardPaths().check(info, region=99.0)
    BackwardPaths().check(DataInfo(problem=HJBLQ(dims=2)), region=100.0)


@pytest.mark.parametrize(
    "field", [{"intervals": 0}, {"window": 0}, {"clip": 0.0}, {"precision": "half"}], ids=str
)
def test_fields_that_mean_nothing_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(field))):
        BackwardPaths.parse(field, source="paths")


def fail_after(error: Exception, *reached: int) -> None:
    with Finite(4, 0.25) as finite:
        for step in reached:
            finite.see(torch.tensor(step))
        raise error


def test_another_error_passes_the_watch_unchanged_and_a_late_one_is_named() -> None:
    with pytest.raises(ValueError, match=r"^mine$"):
        fail_after(ValueError("mine"), 2)
    with pytest.raises(NonFiniteError, match=r"^loss$"):
        fail_after(NonFiniteError("loss", step=3), 4)
    with pytest.raises(NonFiniteError, match=r"^loss\. .*in time step 2 \(t = 0.5\) of 4") as caught:
        fail_after(NonFiniteError("loss", step=3), 4, 2, -1)  # after the first the weights are lost
    assert caught.value.time_step == 2
    assert caught.value.step == 3


def test_a_nan_in_the_recursion_is_located() -> None:
    problem, task = Linear(bad_after=0.5), BackwardPaths(intervals=4)
    increments = torch.zeros(2, 4, 3)
    paths = Paths(problem.paths(torch.ones(2, 3), increments, 0.25), increments, 0.25)
    _, reached = task.mismatch(problem, paths, torch.ones(2), torch.zeros(4, 2, 3))
    assert int(reached) == 2  # Y_2 is finite, the step from t = 0.5 is not


def test_what_is_served_and_what_is_refused() -> None:
    info = DataInfo(problem=HJBLQ(dims=3, start=0.1))
    alone, box = BackwardPaths().operation(info), BackwardPaths().operation(info, region=0.5)
    good = torch.tensor([[0.1, 0.1, 0.1]])
    alone.check({"x0": good})
    with pytest.raises(InputError, match=r"input 'x0': has 1 values other than 0\.1, such as 0\.11"):
        alone.check({"x0": torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.1, 0.11]])})
    assert "at the trained state, 0.1 in every entry, and at no other" in alone.summary
    with pytest.raises(InputError, match=r"shape \(1, 2\), expected \(batch, state = 3\)"):
        alone.check({"x0": good[:, :2]})
    box.check({"x0": torch.tensor([[0.6, -0.4, 0.0]])})
    with pytest.raises(InputError, match=r"1 values outside \[-0.4, 0.6\], such as 0.7"):
        box.check({"x0": torch.tensor([[0.7, 0.0, 0.0]])})
    assert torch.equal(state_of(info), torch.full((1, 3), 0.1, dtype=torch.float64))


def test_measuring_without_a_reference_gives_no_error(tmp_path: Path) -> None:
    problem, task = Linear(), BackwardPaths(intervals=2, test_paths=1000)
    evaluation = task.measure(
        run_of(problem, tmp_path), lambda x0: x0.sum(-1), lambda states: torch.zeros(2, len(states), 3)
    )
    assert set(evaluation.metrics) == {"value", "mismatch", "unexplained"}
    assert evaluation.metrics["value"] == 1.5
    assert (tmp_path / "figures" / "terminal.png").is_file()


def test_an_exact_answer_has_no_error_and_no_control_leaves_all_unexplained(tmp_path: Path) -> None:
    """For g = sum x without a driver, Y_0 = sum x0 and Z = 1 meet g to rounding."""
    problem, task = Linear(rate=0.0), BackwardPaths(intervals=5, test_paths=2000)
    run = run_of(problem, tmp_path)
    exact = task.measure(run, lambda x0: x0.sum(-1), lambda states: torch.ones(5, len(states), 3)).metrics
    assert exact["mismatch"] < 1e-5
    idle = task.measure(run, lambda x0: x0.sum(-1), lambda states: torch.zeros(5, len(states), 3)).metrics
    assert abs(idle["unexplained"] - 1) < 0.01
    assert abs(idle["mismatch"] - math.sqrt(3)) < 0.1


def test_a_region_is_measured_against_the_reference_and_the_best_constant(tmp_path: Path) -> None:
    problem, task = HJBLQ(dims=4), BackwardPaths(intervals=2, test_paths=600)

    def exact(x0: Tensor) -> Tensor:
        found = problem.reference(x0)
        assert found is not None
        return found.to(x0)

    evaluation = task.measure(
        run_of(problem, tmp_path),
        lambda x0: 1.02 * exact(x0),
        lambda states: torch.zeros(2, len(states), 4),
        region=1.0,
    )
    assert abs(evaluation.metrics["relative_error"] - 0.02) < 1e-6
    assert abs(evaluation.metrics["worst_relative_error"] - 0.02) < 1e-6
    assert 0.03 < evaluation.metrics["constant_relative_error"] < 0.3
    assert len(evaluation.curves["value_over_reference"]) == 64
