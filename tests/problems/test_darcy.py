"""Darcy: both solvers, its media, order, maximum principle, samples on their own, and refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dlde import catalog
from dlde.datasets.recipe import Recipe
from dlde.errors import GridError, InputError, SpecError
from dlde.problem import Solvable, Solver
from dlde.problems.darcy import Affine, Darcy, Discs, LogNormal, RandomField, TwoPhase

torch.set_num_threads(1)
TIMES = (0.0,)
PROBLEMS = {
    "two-phase": Darcy(),
    "log-normal": Darcy(coefficient=LogNormal()),
    "affine": Darcy(coefficient=Affine()),
    "discs": Darcy(coefficient=Discs()),
}
each = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def instances(problem, axes, count=3, seed=1):
    generator = np.random.default_rng(seed)
    return {"a": torch.from_numpy(np.stack([problem.draw(generator, axes)["a"] for _ in range(count)]))}


def relative_l2(u, reference):
    return (u - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)


@pytest.mark.parametrize("solver", [Solver(), Solver(num_points=50)])
@each
def test_multigrid_and_direct_agree(problem, solver):
    axes = problem.axes((43, 43))
    given = instances(problem, axes)
    direct = problem.model_copy(update={"method": "direct"})
    u = problem.solve(given, axes, TIMES, solver)
    v = direct.solve(given, axes, TIMES, solver)
    assert u["u"].shape == (3, 43, 43)
    assert torch.equal(u["a"], given["a"])
    assert relative_l2(u["u"], v["u"]).max() < 1e-10


@pytest.mark.parametrize(
    ("problem", "low"),
    [(PROBLEMS["affine"], 1.9), (PROBLEMS["log-normal"], 1.5), (PROBLEMS["two-phase"], 1.2)],
)
def test_observed_order(problem, low):
    """Two for smooth media; the corners of two phases take some of it."""
    axes = problem.axes((17, 17))
    given = instances(problem, axes, 2)
    solver, solutions = problem.refined(Solver(), axes, 2), []
    for _ in range(4):
        solutions.append(problem.solve(given, axes, TIMES, solver)["u"])
        solver = problem.refined(solver, axes, 2)
    steps = [(a - b).flatten(1).norm(dim=1) for a, b in itertools.pairwise(solutions)]
    orders = torch.stack([torch.log2(a / b) for a, b in itertools.pairwise(steps)])
    assert low < orders.min() <= orders.max() < 2.6


@each
def test_defect_by_finite_elements(problem):
    axes = problem.axes((22, 22))
    given = instances(problem, axes)
    coarse, fine = (problem.defect(given, axes, TIMES, Solver(num_points=n))["darcy"] for n in (22, 43))
    assert coarse.shape == (3,)
    assert coarse.max() < 5e-3
    assert 3.5 < (coarse / fine).min() <= (coarse / fine).max() < 4.5
    wrong = problem.model_copy(update={"source": 1.01})
    wrong_u = {**given, "a": given["a"] * 1.01}
    torch.testing.assert_close(
        wrong.solve(wrong_u, axes, TIMES, Solver())["u"], problem.solve(given, axes, TIMES, Solver())["u"]
    )


def test_a_uniform_medium_is_poisson():
    """The series of sines for -Lap u = 1: u(1/2, 1/2) = 0.0736713..., divided by a."""
    problem = Darcy()
    axes = problem.axes((65, 65))
    a = torch.full((1, 65, 65), 4.0, dtype=torch.float64)
    u = problem.solve({"a": a}, axes, TIMES, Solver())["u"]
    k = torch.arange(1, 400, 2, dtype=torch.float64)
    sign = torch.sin(torch.pi * k / 2)
    center = (16 / torch.pi**4 * sign[:, None] * sign / (k[:, None] * k * (k[:, None] ** 2 + k**2))).sum()
    assert float(u[0, 32, 32]) * 4 == pytest.approx(float(center), rel=3e-4)


@each
def test_maximum_principle(problem):
    """A positive source has a positive pressure; a medium that conducts better has less of it, in energy."""
    axes = problem.axes((30, 30))
    given = instances(problem, axes)
    u = problem.solve(given, axes, TIMES, Solver())["u"]
    assert u[:, 1:-1, 1:-1].min() > 0
    assert not torch.cat([u[:, [0, -1]].flatten(), u[:, :, [0, -1]].flatten()]).any()
    better = given["a"].clone()
    better[:, 10:15, 3:20] *= 5
    assert (problem.solve({"a": better}, axes, TIMES, Solver())["u"].sum((1, 2)) < u.sum((1, 2))).all()
    for value, sign in ((given["a"].max(), 1), (given["a"].min(), -1)):
        uniform = problem.solve({"a": torch.full_like(better, float(value))}, axes, TIMES, Solver())["u"]
        assert (sign * (u - uniform).sum((1, 2)) >= 0).all()


@each
def test_turning_the_medium_turns_the_pressure(problem):
    axes = problem.axes((30, 41))
    given = instances(problem, axes)["a"]
    u = problem.solve({"a": given}, axes, TIMES, Solver())["u"]
    turned = problem.solve({"a": given.mT.contiguous()}, problem.axes((41, 30)), TIMES, Solver())["u"]
    torch.testing.assert_close(turned.mT, u, rtol=0, atol=1e-10 * float(u.max()))


def test_media():
    """Values, and that a finer grid shows the same instance."""
    for problem in PROBLEMS.values():
        coarse, fine = problem.axes((43, 43)), problem.axes((85, 85))
        few, many = instances(problem, coarse)["a"], instances(problem, fine)["a"]
        if problem is not PROBLEMS["discs"]:  # which are means over the parts of a grid
            torch.testing.assert_close(few, many[:, ::2, ::2], rtol=1e-12, atol=0)
        assert few.min() > 0
    two = instances(PROBLEMS["two-phase"], problem.axes((43, 43)), 30)["a"]
    assert sorted(two.unique().tolist()) == [3, 12]
    assert 0.4 < (two == 12).double().mean() < 0.6
    affine = instances(PROBLEMS["affine"], problem.axes((43, 43)), 30)["a"]
    assert affine.min() > 0.1
    assert affine.mean() == pytest.approx(1, abs=0.05)


def test_discs():
    """Their area, their places, their range, and that they stay where they are on another grid."""
    problem = PROBLEMS["discs"]
    grids = [problem.axes((n, n)) for n in (43, 127)]
    few, many = (instances(problem, axes, 10)["a"] for axes in grids)
    for a, n in ((few, 43), (many, 127)):
        weights = torch.ones(n, dtype=torch.float64)
        weights[[0, -1]] = 0.5
        mean = torch.einsum("bij,i,j->b", a, weights, weights) / (n - 1) ** 2
        middles = a[:, (n - 1) // 6 :: (n - 1) // 3, (n - 1) // 6 :: (n - 1) // 3]
        torch.testing.assert_close(
            mean, 1 + torch.pi * 0.13**2 * (middles - 1).sum((1, 2)), rtol=0.02, atol=0.01
        )
        assert torch.equal(a[:, 0], torch.ones_like(a[:, 0]))
    torch.testing.assert_close(few[:, 7::14, 7::14], many[:, 21::42, 21::42])
    assert few.min() > 0.1
    assert few.max() < 10


@pytest.mark.parametrize("method", ["multigrid", "direct"])
def test_a_sample_does_not_depend_on_its_batch(method):
    problem = Darcy(method=method)
    axes = problem.axes((30, 30))
    given = instances(problem, axes, 5)["a"]
    for solver in (Solver(), Solver(num_points=40)):
        together = problem.solve({"a": given}, axes, TIMES, solver)["u"]
        assert torch.equal(problem.solve({"a": given[3:4]}, axes, TIMES, solver)["u"][0], together[3])
        spoiled = given.clone()
        spoiled[0, 4, 4] = torch.nan
        poisoned = problem.solve({"a": spoiled}, axes, TIMES, solver)["u"]
        assert torch.equal(poisoned[1:], together[1:])
        assert poisoned[0].isnan().any()


@each
def test_single_precision_agrees(problem):
    axes = problem.axes((43, 43))
    given = instances(problem, axes)
    single = problem.solve(given, axes, TIMES, Solver(precision="float32"))["u"]
    assert single.dtype == torch.float64
    assert relative_l2(single, problem.solve(given, axes, TIMES, Solver())["u"]).max() < 1e-4


def test_meaningless_input_is_refused():
    problem = Darcy()
    with pytest.raises(GridError, match="two spatial axes, x and y"):
        problem.axes((64,))
    with pytest.raises(GridError, match="at least 3 nodes"):
        problem.axes((2, 9))
    axes = problem.axes((20, 20))
    with pytest.raises(GridError, match=r"stationary, but times=\(0.0, 1.0\); use times: \[0.0\]"):
        problem.check_solver(axes, (0.0, 1.0), Solver())
    with pytest.raises(GridError, match=r"solver.num_points=2: expected at least 3"):
        problem.check_solver(axes, TIMES, Solver(num_points=2))
    with pytest.raises(GridError, match=r"shape \(1, 20, 19\), expected \(batch, 20, 20\)"):
        problem.solve({"a": torch.ones(1, 20, 19)}, axes, TIMES, Solver())
    a = torch.ones(3, 20, 20, dtype=torch.float64)
    a[1, 2, 2] = -0.5
    with pytest.raises(InputError, match=r"must be positive, but a of sample 1 goes down to -0.5"):
        problem.solve({"a": a}, axes, TIMES, Solver())
    assert problem.refined(Solver(num_points=20), axes, 0.5) is None
    assert problem.refined(Solver(), axes, 64) is None
    assert problem.refined(Solver(num_points=39), axes, 0.5).num_points == 20
    assert problem.refined(Solver(), problem.axes((20, 30)), 2) is None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"coefficient": {"kind": "two-phase", "low": 5, "high": 4}}, "low=5, high=4: expected low < high"),
        ({"coefficient": {"kind": "affine", "amplitude": 1.5}}, "use amplitude < mean"),
        ({"coefficient": {"kind": "cookie"}}, "'two-phase', 'log-normal', 'affine', 'discs'"),
        ({"coefficient": {"kind": "discs", "radius": 0.2}}, "overlap; use radius <= 0.166667"),
        ({"coefficient": {"kind": "discs", "outside": 0.5}}, "use more than -outside, -0.5"),
        ({"method": "multigird"}, "'multigrid' or 'direct'"),
        ({"source": 0}, "greater than 0"),
    ],
)
def test_wrong_fields_are_refused(raw, message):
    with pytest.raises(SpecError, match=message):
        Darcy.parse(raw, source="test")


@each
def test_is_written_and_read_through_the_catalog(problem):
    plain = catalog.write("problem", problem)
    assert plain.pop("name") == "darcy"
    assert Darcy.parse(plain, source="test") == problem
    assert isinstance(problem, Solvable)
    assert Darcy.summary().startswith("Darcy: -div(a grad u) = source")
    assert RandomField() == TwoPhase().field


def test_recipes_are_read():
    assert Recipe.load("darcy-2d").shape("a") == (85, 85)
    for preset in ("paper", "log-normal", "affine", "discs"):
        Recipe.load("darcy-2d", preset=preset)
