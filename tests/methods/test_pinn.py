"""The physics-informed network: what it learns, its budget, exact resume, its refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlde.errors import GridError, SpecError
from dlde.method import DataInfo, Descent
from dlde.methods.pinn import PINN, Pool, _Points
from dlde.problem import Problem
from dlde.problems.burgers import Burgers, Sine
from dlde.problems.convection_layer import ConvectionLayer
from dlde.problems.poisson import Poisson
from dlde.tasks.collocation import Collocation
from dlde.training.run import EngineRun, Execution

torch.set_num_threads(1)
EASY = ConvectionLayer(diffusivity=1.0)
SMALL = PINN(
    width=8, steepness=1.0, descent=Descent(steps=60, batch=16, rate=2e-2), task=Collocation(every=20)
)


def run_of(folder: Path, problem: Any = EASY, **options: Any) -> EngineRun:
    return EngineRun(folder, DataInfo(problem=problem), {}, seed=100, **options)


def changed(method: Any, **fields: Any) -> Any:
    return type(method).model_validate({**method.model_dump(), **fields})


@pytest.mark.parametrize("sampler", ["uniform", "grid", "noisy-grid", "lattice", "lhs", "pool"])
def test_every_sampler_solves_an_easy_problem_within_its_budget(sampler: str, tmp_path: Path) -> None:
    """Smooth: to a few per cent in 250 steps, from an error of order one."""
    method = changed(
        SMALL, sampler=sampler, pool={"size": 64, "every": 50}, descent={**SMALL.descent.dump(), "steps": 250}
    )
    model = method.train(run_of(tmp_path))
    spent = int(model.evaluations)
    assert 250 * 16 - 80 < spent <= 250 * 16
    x = torch.linspace(0, 1, 50)[:, None]
    error = (model(x)[:, 0].detach() - EASY.reference(x)["u"]).norm() / EASY.reference(x)["u"].norm()
    assert error < 0.05


def test_candidates_of_a_pool_are_paid_from_the_budget() -> None:
    method = changed(SMALL, sampler="pool", pool={"size": 32, "every": 10})
    assert method.num_steps * 16 + -(-method.num_steps // 10) * 32 <= 60 * 16
    assert (method.num_steps + 1) * 16 + -(-(method.num_steps + 1) // 10) * 32 > 60 * 16
    assert SMALL.num_steps == 60


def test_a_pool_draws_where_the_residual_is_large(tmp_path: Path) -> None:
    """Weights are |R|^power over its mean, plus the floor."""
    method = changed(SMALL, sampler="pool", pool={"power": 2.0, "floor": 0.5})
    run = run_of(tmp_path)
    trial = method.build(run.info)
    points = _Points(method, trial)
    points.candidates = x = torch.rand(20, 1, dtype=torch.float64)
    weights = points._weights(run)
    squares = trial.residual(x)["convection"].detach().double() ** 2
    torch.testing.assert_close(weights, squares / squares.mean() + 0.5)
    assert int(trial.evaluations) == 20


@pytest.mark.parametrize("sampler", ["noisy-grid", "pool"])
def test_a_killed_training_goes_on_to_the_same_bits(sampler: str, tmp_path: Path) -> None:
    method = changed(SMALL, sampler=sampler, pool={"size": 32, "every": 7})
    whole = method.train(run_of(tmp_path / "whole")).state_dict()

    class KilledError(Exception):
        pass

    def kill(progress: Any) -> None:
        if progress.step >= 25:
            raise KilledError

    options = {"execution": Execution(checkpoint_steps=11)}
    with pytest.raises(KilledError):
        method.train(run_of(tmp_path / "killed", progress=kill, **options))
    resumed = method.train(run_of(tmp_path / "killed", **options)).state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)


def test_burgers_is_trained_on_too(tmp_path: Path) -> None:
    """Its loss falls; the shock itself needs many more steps."""
    problem = Burgers(
        viscosity=0.1, domain=(-1.0, 1.0), boundary="dirichlet", initial_condition=Sine(amplitude=1.0)
    )
    run = run_of(tmp_path, problem)
    points = torch.rand(200, 2, dtype=torch.float64)
    before = _loss(SMALL.build(run.info), points)
    model = SMALL.train(run)
    assert _loss(model, points) < 0.5 * before


def _loss(model: Any, points: Tensor) -> float:
    return float(model.residual(points)["burgers"].detach().square().mean())


@pytest.mark.parametrize(
    ("fields", "problem", "error", "message"),
    [
        (
            {"sampler": "grid", "descent": {"steps": 5, "batch": 20}},
            Poisson(),
            GridError,
            "20 points are no grid",
        ),
        ({"descent": {"steps": 5, "batch": 1}}, EASY, SpecError, "expected at least 2 points"),
        (
            {"sampler": "pool", "descent": {"steps": 5}},
            EASY,
            SpecError,
            "pool.size=512 exceeds the whole budget",
        ),
        ({}, Burgers(), SpecError, "no trial function"),
    ],
)
def test_meaningless_pairs_are_refused_before_training(
    fields: dict[str, Any], problem: Problem, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        changed(SMALL, **fields).check(DataInfo(problem=problem))


def test_workers_that_cannot_share_are_refused() -> None:
    with pytest.raises(SpecError, match=r"pool.size=33 cannot be shared equally by 2 workers"):
        changed(SMALL, sampler="pool", pool=Pool(size=33).dump()).check_workers(2)
    with pytest.raises(SpecError, match=r"descent.batch=16 cannot be shared equally by 3"):
        SMALL.check_workers(3)
    SMALL.check_workers(2)


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(SpecError, match="sampler: input should be 'uniform', 'grid'"):
        PINN.parse({"sampler": "normal"}, source="test")


def test_lbfgs_goes_on_where_adam_ends(tmp_path: Path) -> None:
    """On the same points at every step, it lowers the residual on all of the box by a lot."""
    then = {"steps": 15, "optimizer": "lbfgs", "batch": 128, "options": {"max_iter": 10}}
    plain, chained = (
        PINN.parse(
            {
                "width": 16, "descent": {"steps": 300, "batch": 64, "rate": 1e-2, **more},
                "task": {"every": 50},
            },
            source="test",
        )
        for more in ({}, {"then": then})
    )  # fmt: skip
    errors = []
    for name, method in (("plain", plain), ("chained", chained)):
        run = run_of(tmp_path / name)
        errors.append(method.evaluate(method.train(run), run).metrics["residual_rms"])
    assert errors[1] < 0.2 * errors[0]
    rows = [
        json.loads(line)
        for line in (tmp_path / "chained" / "curves" / "fit-2.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 15


@pytest.mark.skipif(
    not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler"
)
def test_a_compiled_training_is_the_same_training(tmp_path: Path) -> None:
    method = changed(SMALL)
    plain = method.train(run_of(tmp_path / "plain"))
    run = run_of(tmp_path / "compiled", execution=Execution(compile=True))
    compiled = method.train(run)
    for first, second in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-3)
    assert int(plain.evaluations) == int(compiled.evaluations)
