"""Equations driven by noise: closed forms, moments, measured orders, and what is refused."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from dlde.datasets.recipe import Recipe
from dlde.errors import GridError, InputError, SpecError
from dlde.problem import Solver
from dlde.problems.double_well import DoubleWell
from dlde.problems.driving_path import DrivingPath
from dlde.problems.geometric_brownian import GeometricBrownian
from dlde.problems.multiplicative_noise import MultiplicativeNoise
from dlde.problems.ornstein_uhlenbeck import OrnsteinUhlenbeck
from dlde.problems.sde_system import SDESystem

ALL: list[SDESystem] = [
    DoubleWell(),
    GeometricBrownian(),
    MultiplicativeNoise(drivers=3),
    OrnsteinUhlenbeck(dims=2, coupling=0.5, common_noise=0.1),
    OrnsteinUhlenbeck(hurst=0.3),
]


class Logistic(SDESystem):
    """Stochastic growth: dX = rate X (1 - X) dt + noise X (1 - X) dW."""

    scheme: ClassVar = "milstein"
    order: ClassVar[float] = 1
    rate: float = 1.0
    noise: float = 0.8
    start: float = 0.1

    def drift_at(self, t: float, x: Tensor) -> Tensor:
        return self.rate * x * (1 - x)

    def diffusion_at(self, t: float, x: Tensor) -> Tensor:
        return (self.noise * x * (1 - x))[..., None]


def instances(problem: SDESystem, count: int = 1, seed: int = 0) -> dict[str, Tensor]:
    drawn = [problem.draw(np.random.default_rng([seed, i]), {}) for i in range(count)]
    return {"noise": torch.from_numpy(np.stack([d["noise"] for d in drawn]))}


def solved(
    problem: SDESystem, noise: dict[str, Tensor], dt: float, times: Any = (0.0, 1.0)
) -> dict[str, Tensor]:
    return problem.solve(noise, {}, times, Solver(dt=dt))


def orders(problem: SDESystem, noise: dict[str, Tensor], reference: Tensor, dts: list[float]) -> float:
    errors = [(solved(problem, noise, dt)["state"][:, -1] - reference).abs().mean() for dt in dts]
    return float(np.polyfit(np.log(dts), np.log(errors), 1)[0])


@pytest.mark.parametrize("problem", ALL, ids=lambda p: type(p).__name__)
def test_what_is_stored(problem: SDESystem) -> None:
    times = (0.0, 0.3, 1.0)
    noise = instances(problem, 3)
    found = solved(problem, noise, 1e-2, times)
    for name, variable in problem.variables.items():
        assert found[name].shape == (3, 3, *variable.sizes.values())
        assert found[name].dtype == torch.float64
    assert not found["control"][:, 0].any()
    torch.testing.assert_close(found["state"][:, 0], torch.full_like(found["state"][:, 0], problem.start))


@pytest.mark.parametrize("problem", ALL, ids=lambda p: type(p).__name__)
def test_one_instance_does_not_depend_on_its_neighbours_times_or_steps(problem: SDESystem) -> None:
    noise = instances(problem, 2)
    together = solved(problem, noise, 1e-2)
    alone = solved(problem, {"noise": noise["noise"][1:]}, 1e-2, (0.0, 0.5, 1.0))
    for name in ("state", "control"):
        torch.testing.assert_close(alone[name][0, ::2], together[name][1], rtol=0, atol=1e-12)
    coarse = solved(problem, noise, 0.1)
    torch.testing.assert_close(coarse["control"], together["control"], rtol=0, atol=1e-12)


def test_geometric_brownian_motion_converges_to_its_closed_form() -> None:
    problem = GeometricBrownian(path=DrivingPath(steps=256))
    noise = instances(problem, 500)
    times = (0.0, 0.25, 1.0)
    exact = problem.exact(noise, {}, times)
    w = exact["control"][..., 0]
    by_hand = torch.exp((0.1 - 0.125) * torch.tensor(times, dtype=torch.float64) + 0.5 * w)
    torch.testing.assert_close(exact["state"][..., 0], by_hand)
    order = orders(problem, noise, exact["state"][:, -1], [1 / 16, 1 / 32, 1 / 64, 1 / 128])
    assert problem.order - 0.1 < order < problem.order + 0.1


def test_the_double_well_converges_with_order_one() -> None:
    problem = DoubleWell(path=DrivingPath(steps=1024))
    noise = instances(problem, 200)
    reference = solved(problem, noise, 1 / 1024)["state"][:, -1]
    assert 0.9 < orders(problem, noise, reference, [1 / 16, 1 / 32, 1 / 64]) < 1.2


def test_without_noise_the_double_well_is_its_closed_form() -> None:
    """dX = 2 X (1 - X^2) dt from x: X_t = x / sqrt(x^2 + (1 - x^2) e^-4t); Euler errs by O(dt)."""
    problem = DoubleWell(start=0.4, path=DrivingPath(steps=4000))
    x = solved(problem, {"noise": torch.zeros(1, 4000, 1, dtype=torch.float64)}, 1e-3)["state"][0, -1, 0]
    assert float(x) == pytest.approx(0.4 / math.sqrt(0.16 + 0.84 * math.exp(-4)), abs=5e-4)


@pytest.mark.parametrize(("drivers", "order"), [(1, 1.0), (4, 0.5)])
def test_many_noises_converge_with_order_one_half_and_one_alone_with_one(drivers: int, order: float) -> None:
    problem = MultiplicativeNoise(drivers=drivers, path=DrivingPath(steps=512))
    noise = instances(problem, 150)
    reference = solved(problem, noise, 1 / 512)["state"][:, -1]
    assert order - 0.12 < orders(problem, noise, reference, [1 / 8, 1 / 16, 1 / 32]) < order + 0.25


@pytest.mark.parametrize(
    ("problem", "order"),
    [
        (OrnsteinUhlenbeck(dims=2, coupling=0.5, common_noise=0.1, path=DrivingPath(steps=512)), 1.0),
        (OrnsteinUhlenbeck(hurst=0.3, path=DrivingPath(steps=512)), 0.8),
        (OrnsteinUhlenbeck(hurst=0.7, path=DrivingPath(steps=512)), 1.0),
        (Logistic(path=DrivingPath(steps=512)), 1.0),
    ],
    ids=["coupled", "rough", "smooth", "of a user's own"],
)
def test_strong_orders(problem: SDESystem, order: float) -> None:
    noise = instances(problem, 200)
    reference = solved(problem, noise, 1 / 512)["state"][:, -1]
    assert order - 0.15 < orders(problem, noise, reference, [1 / 16, 1 / 32, 1 / 64]) < order + 0.25


def test_without_milstein_s_correction_the_order_is_one_half() -> None:
    class Plain(Logistic):
        """Plain: the same by Euler-Maruyama."""

        scheme: ClassVar = "euler-maruyama"

    problem = Plain(path=DrivingPath(steps=2048))
    noise = instances(problem, 150)
    reference = solved(Logistic(path=problem.path), noise, 1 / 512)["state"][:, -1]
    assert 0.35 < orders(problem, noise, reference, [1 / 8, 1 / 16, 1 / 32]) < 0.65


@pytest.mark.parametrize("problem", [GeometricBrownian(), MultiplicativeNoise(drivers=3)], ids=str)
def test_derivatives_of_the_diffusion_are_those_of_autograd(problem: SDESystem) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, problem.num_components, dtype=torch.float64, generator=generator)
    v = torch.randn(4, problem.num_components, problem.num_drivers, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(
        problem.diffusion_along(0.0, x, v), SDESystem.diffusion_along(problem, 0.0, x, v)
    )


@pytest.mark.parametrize("problem", [*ALL, Logistic()], ids=lambda p: type(p).__name__)
def test_the_defect_falls_with_the_step(problem: SDESystem) -> None:
    """The solution put into the integral equation by the trapezoidal rule."""
    noise = instances(problem, 3)
    defects = [problem.defect(noise, {}, (0.5, 1.0), Solver(dt=dt))["state"] for dt in (2e-2, 5e-3)]
    assert defects[1].shape == (3,)
    assert float(defects[1].max()) < 2e-2
    assert float(defects[1].norm()) < 0.5 * float(defects[0].norm())


def test_the_defect_shows_a_wrong_solution() -> None:
    class Lifted(OrnsteinUhlenbeck):
        """Lifted: a process that runs away from the equation."""

        def solve(self, instances: Any, axes: Any, times: Any, solver: Any) -> dict[str, Tensor]:
            found = super().solve(instances, axes, times, solver)
            return {**found, "state": found["state"] + torch.tensor(times)[:, None]}

    problem = Lifted()
    assert float(problem.defect(instances(problem), {}, (1.0,), Solver(dt=1e-2))["state"].min()) > 0.1


@pytest.mark.parametrize(
    ("dt", "factor", "refined"),
    [
        (1e-3, 2, None),  # finer than the path
        (2e-3, 2, 1e-3),
        (1e-3, 1 / 2, 2e-3),
        (1e-3, 1 / 3, None),  # 1000 steps are no multiple of 3
        (1e-3, 1 / 16, None),
        (5e-3, 2, None),  # two and a half steps
        (1e-2, 5, 2e-3),
        (3e-3, 2, 1e-3),  # steps of two, the most below three that divide the path
        (4e-3, math.sqrt(2), None),
        (1.0, 1 / 2, None),  # longer than the path
    ],
)
def test_refinement_keeps_to_the_path(dt: float, factor: float, refined: float | None) -> None:
    found = DoubleWell().refined(Solver(dt=dt, precision="float32"), {}, factor)
    if refined is None:
        assert found is None
    else:
        assert found is not None
        assert found.dt == pytest.approx(refined, rel=1e-12)
        assert found.precision == "float32"
        DoubleWell().check_solver({}, (0.0, 1.0), found)


def test_a_finer_solver_is_one_of_half_the_step() -> None:
    finer = DoubleWell().finer(Solver(dt=4e-3), {})
    assert finer is not None
    assert finer.dt == pytest.approx(2e-3)
    assert finer.num_points is None
    assert DoubleWell().finer(Solver(dt=1e-3), {}) is None


def test_noise_of_another_form_is_refused() -> None:
    with pytest.raises(InputError, match="DoubleWell consists of noise, but given are start"):
        DoubleWell().solve({"start": torch.zeros(1)}, {}, (1.0,), Solver())
    with pytest.raises(GridError, match=r"noise has shape \(1, 10, 1\), expected \(batch, 1000, 1\)"):
        DoubleWell().solve({"noise": torch.zeros(1, 10, 1)}, {}, (1.0,), Solver())
    with pytest.raises(GridError, match="expected"):
        GeometricBrownian().exact({"noise": torch.zeros(1, 10, 1)}, {}, (1.0,))


def test_the_fields_of_fewer_drivers_are_the_first_of_more_and_do_not_commute() -> None:
    (few_a, few_b), (a, b) = MultiplicativeNoise(drivers=4).fields, MultiplicativeNoise(drivers=9).fields
    assert torch.equal(few_a, a[:4])
    assert torch.equal(few_b, b[:, :4])

    def field(j: int, x: Tensor) -> Tensor:
        return torch.tanh(a[j] @ x + b[:, j])

    x = torch.zeros(2, dtype=torch.float64)
    first, second = (torch.autograd.functional.jacobian(lambda y, j=j: field(j, y), x) for j in (0, 1))
    assert (second @ field(0, x) - first @ field(1, x)).abs().max() > 0.1
    assert not torch.equal(MultiplicativeNoise(fields_seed=1).fields[0], few_a)


def test_an_ornstein_uhlenbeck_process_has_its_mean_and_variance() -> None:
    """Of the scheme itself: mean and variance of X_n obey its recursion, within 4 standard errors."""
    problem, count, n = OrnsteinUhlenbeck(start=-1.0, path=DrivingPath(steps=100)), 4000, 100
    x = solved(problem, instances(problem, count), 0.01)["state"][:, -1, 0]
    shrink = 1 - 2.0 / n
    mean = 0.5 - 1.5 * shrink**n
    variance = 0.36 / n * (1 - shrink ** (2 * n)) / (1 - shrink**2)
    assert abs(float(x.mean()) - mean) < 4 * math.sqrt(variance / count)
    assert abs(float(x.var()) / variance - 1) < 4 * math.sqrt(2 / count)
    assert mean == pytest.approx(0.5 - 1.5 * math.exp(-2), abs=5e-3)  # and the process's own, nearly
    assert variance == pytest.approx(0.09 * (1 - math.exp(-4)), abs=2e-3)


def test_coupled_components_decay_by_the_matrix_exponential() -> None:
    problem = OrnsteinUhlenbeck(dims=4, coupling=0.5, start=1.5, path=DrivingPath(steps=2000))
    still = {"noise": torch.zeros(1, 2000, 4, dtype=torch.float64)}
    found = solved(problem, still, 1 / 2000)["state"][0, -1]
    expected = 0.5 + torch.linalg.matrix_exp(-problem.drift_matrix) @ torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    symmetric = problem.drift_matrix + problem.drift_matrix.T
    torch.testing.assert_close(symmetric, 4 * torch.eye(4, dtype=torch.float64))
    mixed = OrnsteinUhlenbeck(dims=2, noise=0.5, common_noise=0.1).noise_matrix
    torch.testing.assert_close(mixed, torch.tensor([[0.6, 0.1], [0.1, 0.6]], dtype=torch.float64))


def test_rough_noise_moves_the_process_by_its_own_path() -> None:
    """dX = rate (mean - X) dt + noise dB on the coarse path, step by step."""
    problem = OrnsteinUhlenbeck(hurst=0.3, path=DrivingPath(steps=200))
    noise = instances(problem, 2)
    times = tuple(np.linspace(0, 1, 201).tolist())
    found = solved(problem, noise, 1 / 200, times)
    x, b = found["state"][..., 0], found["control"][..., 0]
    stepped = x[:, :-1] + 2.0 * (0.5 - x[:, :-1]) / 200 + 0.6 * b.diff()
    torch.testing.assert_close(x[:, 1:], stepped)
    assert 0.7 < float(b.diff().square().sum(1).mean()) / 200**0.4 < 1.3  # sum of dB^2 is n^(1 - 2 H)


def parse(**fields: Any) -> Recipe:
    raw = {
        "name": "paths",
        "problem": {"name": "double-well"},
        "num_points": [],
        "times": {"stop": 1.0, "count": 11},
        "samples": {"train": 2},
    }
    return Recipe.parse({**raw, **fields}, source="test")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_points": [16]}, r"num_points=\[16\]: there is no spatial axis; use num_points: \[\]"),
        ({"solver": {"num_points": 16}}, "solver.num_points=16: there is no spatial axis; leave it out"),
        (
            {"solver": {"dt": 1e-4}},
            r"solver.dt=0.0001 is finer than the driving path, whose steps are 0.001 long; .*steps >= 10000",
        ),
        ({"times": [0.0, 2.0]}, "times up to 2, but the driving path ends at 1; .*horizon >= 2"),
        ({"times": [0.0, 0.33333]}, "times=0.33333 is no multiple of the driving path's step 0.001"),
        (
            {"problem": {"name": "ornstein-uhlenbeck", "coupling": 0.5}},
            "coupling=0.5: one component has no neighbours; use dims >= 2",
        ),
        (
            {"problem": {"name": "ornstein-uhlenbeck", "rate": 30.0}, "solver": {"dt": 0.1}},
            "solver.dt=0.1 is not stable: the linearised drift decays at up to 30 .* solver.dt <= 0.067",
        ),
        (
            {"problem": {"name": "double-well", "start": 5.0}, "solver": {"dt": 0.1}},
            "solver.dt=0.1 is not stable: the linearised drift decays at up to 148 .* solver.dt <= 0.0135",
        ),
        ({"problem": {"name": "ornstein-uhlenbeck", "hurst": 1.0}}, "hurst: input should be less than 1"),
        (
            {"problem": {"name": "multiplicative-noise", "drivers": 0}},
            "drivers: input should be greater than 0",
        ),
        ({"problem": {"name": "geometric-brownian", "path": {"steps": 0}}}, "steps: input should be greater"),
    ],
    ids=str,
)
def test_mistakes_are_refused_before_anything_is_drawn(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(**fields)


def test_a_path_on_its_own_refuses_what_a_recipe_would() -> None:
    with pytest.raises(GridError, match="no multiple"):
        DrivingPath(steps=10).check((0.0, 0.25), Solver(dt=0.1))
    DrivingPath(steps=10, horizon=2.5).check((0.0, 0.25, 2.5), Solver(dt=0.25))


@pytest.mark.parametrize("problem", [*ALL, Logistic()], ids=lambda p: type(p).__name__)
def test_nothing_is_read_back_from_the_device_while_stepping(problem: SDESystem) -> None:
    """On the meta device, which has no values to read."""
    noise = {"noise": instances(problem, 2)["noise"].to("meta")}
    found = problem.solve(noise, {}, (0.0, 1.0), Solver(dt=5e-2, precision="float32"))
    assert found["state"].device.type == "meta"
    assert found["state"].shape == (2, 2, problem.num_components)
