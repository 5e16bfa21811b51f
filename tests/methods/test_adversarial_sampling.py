"""Adversarial sampling: the sampler's density, the game, its budget, exact resume, its refusals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlde.claims import Table
from dlde.errors import SpecError
from dlde.method import DataInfo, Descent
from dlde.methods.adversarial_sampling import (
    AdversarialSampling,
    Sampler,
    claim,
)
from dlde.numerics import sampling
from dlde.numerics.jets import Jet
from dlde.problem import Problem, Residual, Variable
from dlde.problems.convection_layer import ConvectionLayer
from dlde.problems.poisson import Poisson
from dlde.tasks.collocation import Collocation
from dlde.training.run import EngineRun, Execution

torch.set_num_threads(1)
EASY = ConvectionLayer(diffusivity=1.0)
SMALL = AdversarialSampling(
    width=8, steepness=1.0, sampler_width=8, sampler_batch=16, pretrain=20, sampler_every=2,
    descent=Descent(steps=120, batch=16, rate=2e-2), task=Collocation(every=20),
)  # fmt: skip


class Flat(Problem, Residual):
    """u = 0 everywhere, with a residual of its own choice: (1 + 4 s^2)^(power / 2), s the first entry.

    The squared residual's density is known, whatever the solver does.
    """

    dims: int = 1
    power: float = 2.0

    @property
    def box(self) -> dict[str, tuple[float, float]]:
        return dict.fromkeys("abcdef"[: self.dims], (0.0, 2.0))

    @property
    def unknowns(self) -> dict[str, Variable]:
        return {"u": Variable(dims=(), long_name="nothing")}

    @property
    def derivatives(self) -> tuple[str, ...]:
        return ("a",)

    def residual(self, x: Mapping[str, Tensor], u: Mapping[str, Jet]) -> dict[str, Tensor]:
        return {"flat": (1 + 4 * x["a"] ** 2) ** (self.power / 2) + 0 * u["u"]["a"]}

    def constrain(self, x: Mapping[str, Jet], network: Mapping[str, Jet]) -> dict[str, Jet]:
        return {"u": 0 * network["u"]}

    def reference(self, points: Tensor) -> dict[str, Tensor]:
        return {"u": torch.ones(len(points), dtype=torch.float64)}


def run_of(folder: Path, problem: Any = EASY, **options: Any) -> EngineRun:
    info = DataInfo.model_construct(problem=problem, data={})
    return EngineRun(folder, info, {}, seed=100, **options)


def changed(**fields: Any) -> AdversarialSampling:
    return AdversarialSampling.model_validate({**SMALL.model_dump(), **fields})


def sampler(dims: int, *, shaken: bool = True) -> Sampler:
    torch.manual_seed(100)
    made = Sampler(-torch.ones(dims).double(), 3 * torch.ones(dims).double(), bins=6, width=8)
    if shaken:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.7 * torch.randn_like(parameter))
    return made


def test_a_sampler_begins_as_the_identity() -> None:
    z = torch.rand(50, 2, dtype=torch.float64)
    points, log_det = sampler(2, shaken=False).with_density(z)
    torch.testing.assert_close(points, 4 * z - 1, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_det, torch.zeros(50).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_density_at_a_placed_point_is_that_of_the_map(dims: int) -> None:
    made = sampler(dims)
    points, log_det = made.with_density(torch.rand(60, dims, dtype=torch.float64))
    torch.testing.assert_close(made.density(points), (-log_det).exp(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 2])
def test_a_served_density_integrates_to_one(dims: int) -> None:
    """E[1 / density] over the sampler's own points is the volume of what it covers, here the box."""
    game = SMALL.build(DataInfo(problem=EASY if dims == 1 else Poisson()))
    with torch.no_grad():
        for parameter in game.sampler.map.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        answer = SMALL.sample(game, n=20_000, seed=3)
    volume = float((game.sampler.high - game.sampler.low).prod())
    assert float((1 / answer["density"]).mean()) == pytest.approx(volume, rel=0.05)
    assert bool(((answer["points"] >= game.sampler.low) & (answer["points"] <= game.sampler.high)).all())


def test_a_seed_gives_the_same_points_and_another_gives_others() -> None:
    game = SMALL.build(DataInfo(problem=EASY))
    with torch.no_grad():
        first, again, other = (SMALL.sample(game, n=9, seed=s)["points"] for s in (1, 1, 2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert first.shape == (9, 1)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("lam", [1.0, 3.0])
def test_against_a_frozen_residual_the_sampler_finds_the_gibbs_density(lam: float, tmp_path: Path) -> None:
    """In cells of equal size: total variation of at most 0.15, from more than 0.2 at the start."""
    problem = Flat(power=3.0 * lam)
    method = changed(floor=0.0, settle=250, sampler_width=16, sampler_rate=1e-2, sampler_batch=64, lam=lam,
                     pretrain=4, descent={"steps": 4, "batch": 64})  # fmt: skip
    run = run_of(tmp_path, problem)
    untrained = method.densities(method.build(run.info))
    assert _distance(*untrained) > 0.2
    game = method.train(run)
    target, found = method.densities(game)
    cells = torch.linspace(0, 2, 3201)[:-1].double() + 1 / 3200
    exact = ((1 + 4 * cells**2) ** 3).view(50, 64).mean(1)
    torch.testing.assert_close(target, exact / exact.mean() / 2, rtol=1e-3, atol=1e-3)
    assert _distance(target, found) <= 0.15


def test_without_entropy_the_sampler_collapses(tmp_path: Path) -> None:
    """All points to where the residual is largest; with it they spread."""
    game = changed(entropy=False, settle=300, sampler_rate=5e-2, pretrain=4,
                   descent={"steps": 4, "batch": 64}).train(run_of(tmp_path, Flat(power=4.0)))  # fmt: skip
    with torch.no_grad():
        points = game.sampler(torch.linspace(0.05, 0.95, 19).double()[:, None])
    assert float(points.min()) > 1.7


def _distance(target: Tensor, found: Tensor) -> float:
    return 0.5 * float((target - found).abs().mean()) * 2


def test_in_many_dimensions_the_density_stays_exact(tmp_path: Path) -> None:
    problem = Flat(dims=4)
    method = changed(settle=100, sampler_rate=2e-2, sampler_batch=64)
    method.check(DataInfo.model_construct(problem=problem, data={}))
    game = method.train(run_of(tmp_path, problem))
    with torch.no_grad():
        answer = method.sample(game, n=4000)
    assert float(answer["points"][:, 0].mean()) > 1.1  # towards the large residual; uniform: 1.0
    assert float((1 / answer["density"]).mean()) == pytest.approx(16, rel=0.1)


def test_a_share_of_the_batch_is_placed_by_the_sampler(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    made = sampler(1)
    points, weights = changed(rho=0.25)._points(20, run, made)
    assert points.shape == (16, 1)
    torch.testing.assert_close(weights, 1 / (0.75 + 0.25 * made.density(points).detach()))
    assert changed(rho=0.25, weighted=False)._points(20, run, made)[1].tolist() == [1] * 16
    even = points[:12].flatten().sort().values
    torch.testing.assert_close(even.diff(), torch.full((11,), 4 / 12).double())
    before = changed(rho=0.25)._points(19, run, made)[0].flatten().sort().values
    torch.testing.assert_close(before.diff(), torch.full((15,), 4 / 16).double())


def test_weighted_points_estimate_the_mean_over_the_box(tmp_path: Path) -> None:
    """Of x^2 over (-1, 3), exactly 7/3; without weights it is another mean."""
    run, made = run_of(tmp_path), sampler(1)
    means = []
    for weighted in (True, False):
        method = changed(rho=0.5, weighted=weighted, descent={"steps": 120, "batch": 4096})
        points, weights = method._points(20, run, made)
        means.append(float((weights * points[:, 0] ** 2).mean()))
        assert float(weights.max()) <= 2
    assert means[0] == pytest.approx(7 / 3, rel=1e-2)
    assert abs(means[1] - 7 / 3) > 0.05


def test_the_samplers_evaluations_are_paid_from_the_budget(tmp_path: Path) -> None:
    game = SMALL.train(run_of(tmp_path))
    spent = int(game.trial.evaluations)
    assert 120 * 16 - 32 < spent <= 120 * 16
    assert SMALL.num_steps < 120


def test_it_solves_an_easy_problem_and_is_evaluated(tmp_path: Path) -> None:
    method = changed(descent={**SMALL.descent.dump(), "steps": 300})
    run = run_of(tmp_path)
    game = method.train(run)
    run.close()
    evaluation = method.evaluate(game, run_of(tmp_path))
    assert evaluation.metrics["relative_l2"] < 0.05
    assert 0 <= evaluation.metrics["density_distance"] <= 1
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"solution.png", "density.png"}


def test_a_killed_game_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    method = changed(settle=10)
    whole = method.train(run_of(tmp_path / "whole")).state_dict()

    class KilledError(Exception):
        pass

    def kill(progress: Any) -> None:
        if progress.step >= 45:
            raise KilledError

    options = {"execution": Execution(checkpoint_steps=13)}
    with pytest.raises(KilledError):
        method.train(run_of(tmp_path / "killed", progress=kill, **options))
    resumed = method.train(run_of(tmp_path / "killed", **options)).state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)


def test_two_workers_do_what_one_does(tmp_path: Path) -> None:
    """Each step's gradients, averaged over the shares, are those of the whole batch."""
    run = run_of(tmp_path)
    game = SMALL.build(run.info)
    z = sampling.uniform(
        16, torch.zeros(1).double(), torch.ones(1).double(), torch.Generator().manual_seed(0)
    )

    def gradient(share: slice) -> Tensor:
        points, log_det = game.sampler.with_density(z)
        attack = torch.log(SMALL._squares(game.trial, points[share]) + 1e-3)
        loss = -attack.mean() - SMALL.lam * log_det.mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(game.sampler.parameters()))])

    halves = (gradient(slice(0, 8)) + gradient(slice(8, 16))) / 2
    torch.testing.assert_close(halves, gradient(slice(None)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("fields", "problem", "message"),
    [
        ({"sampler_batch": 1}, EASY, "expected at least 2 points in each"),
        ({"rho": 1.0}, EASY, "rho=1 leaves no even points"),
        (
            {"descent": {"steps": 1, "batch": 4}, "pretrain": 0},
            EASY,
            "sampler_batch=16 exceeds the whole budget",
        ),
    ],
)
def test_meaningless_settings_are_refused_before_training(
    fields: dict[str, Any], problem: Any, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        changed(**fields).check(DataInfo.model_construct(problem=problem, data={}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lam": 0.0}, "lam: input should be greater than 0"),
        ({"rho": 1.5}, "rho: input should be less than or equal to 1"),
        ({"rho": -0.1}, "rho: input should be greater than or equal to 0"),
    ],
)
def test_numbers_out_of_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        AdversarialSampling.parse(fields, source="test")


def test_workers_that_cannot_share_are_refused() -> None:
    with pytest.raises(SpecError, match="sampler_batch=16 cannot be shared equally by 3 workers"):
        changed(descent={"steps": 120, "batch": 18}).check_workers(3)


def table(**errors: float) -> Table:
    rows = []
    for problem in ("layer", "peak", "smooth"):
        for variant in ("adversarial", "uniform", "noisy-grid"):
            value = errors.get(f"{variant}_{problem}".replace("-", "_"), 1.0)
            for metric, number in (("relative_l2", value), ("evaluations", errors.get(variant, 100.0))):
                rows.append(
                    {"variant": variant, "problem": problem, "seed": 0, "metric": metric, "value": number}
                )
    rows.append(
        {"variant": "density", "seed": 0, "metric": "density_distance", "value": errors.get("density", 0.1)}
    )
    return Table(tuple(rows))


def test_the_claim_reads_the_table() -> None:
    good = {"adversarial_layer": 0.5, "adversarial_peak": 0.4, "adversarial_smooth": 1.2}
    assert all(check.holds for check in claim(table(**good)))
    for fault in (
        {"adversarial_layer": 0.6},
        {"density": 0.2},
        {"adversarial": 101.0},
        {"noisy_grid_peak": 0.7},
    ):
        assert not all(check.holds for check in claim(table(**{**good, **fault})))
