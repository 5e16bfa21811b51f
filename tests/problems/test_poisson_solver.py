"""Poisson as a source of data: order, exact solutions, samples on their own, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dlde import catalog
from dlde.datasets.recipe import Recipe
from dlde.errors import GridError, InputError, SpecError
from dlde.problem import Exact, Residual, Solvable, Solver
from dlde.problems.poisson import GaussianSource, Peak, Poisson, Sine

torch.set_num_threads(1)
TIMES = (0.0,)
RANDOM = Poisson(solution=GaussianSource())
PROBLEMS = {
    "gaussian": RANDOM,
    "gaussian, rectangle": Poisson(domain=((0.0, 2.0), (0.0, 1.0)), solution=GaussianSource(num_modes=8)),
    "peak": Poisson(solution=Peak(sharpness=8.0, center=(0.3, -0.2))),
    "flat peak": Poisson(solution=Peak(sharpness=1.0)),
    "cut sine": Poisson(domain=((0.1, 1.0), (0.0, 0.7)), solution=Sine()),
}
each = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def instances(problem, axes, count=3, seed=1):
    generator = np.random.default_rng(seed)
    return {"f": torch.from_numpy(np.stack([problem.draw(generator, axes)["f"] for _ in range(count)]))}


def relative_l2(u, reference):
    return (u - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)


@each
def test_order_two_in_the_grid(problem):
    """Along the refinement that the problem states, to its exact solution."""
    axes = problem.axes((49, 49))
    given = instances(problem, axes)
    exact = problem.exact(given, axes, TIMES)["u"]
    solver = Solver(num_points=49)
    errors, defects = [], []
    for _ in range(4):
        errors.append(relative_l2(problem.solve(given, axes, TIMES, solver)["u"], exact).max())
        defects.append(problem.defect(given, axes, TIMES, solver)["poisson"].max())
        solver = problem.refined(solver, axes, 2)
    assert solver.num_points == 769
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert 1.85 < orders.min() <= orders.max() < 2.15
    assert 1.8 < np.log2(defects[-2] / defects[-1]) < 2.1
    assert errors[-1] < 5e-5


@pytest.mark.parametrize("name", ["gaussian, rectangle", "cut sine"])
def test_a_rectangle_with_unequal_cells(name):
    problem = PROBLEMS[name]
    axes = problem.axes((65, 50))
    given = instances(problem, axes)
    solution = problem.solve(given, axes, TIMES, Solver())
    assert solution["u"].shape == (3, 65, 50)
    assert torch.equal(solution["f"], given["f"])
    assert relative_l2(solution["u"], problem.exact(given, axes, TIMES)["u"]).max() < 2e-3
    assert problem.refined(Solver(), axes, 2) is None


def test_a_sine_is_damped_as_the_five_point_formula_says():
    """sin(pi x) sin(pi y) is its eigenfunction: the error is known in closed form."""
    problem = Poisson(domain=((0.0, 1.0), (0.0, 1.0)), solution=Sine())
    axes = problem.axes((11, 11))
    given = instances(problem, axes, 1)
    u = problem.solve(given, axes, TIMES, Solver())["u"]
    ratio = np.pi**2 / (2 * 10 * np.sin(np.pi / 20)) ** 2
    torch.testing.assert_close(u, ratio * problem.exact(given, axes, TIMES)["u"], rtol=0, atol=1e-14)


def test_positive_sources_have_positive_potentials():
    """The discrete maximum principle, for any source that a user gives."""
    problem = Poisson(solution=GaussianSource(num_modes=4))
    axes = problem.axes((33, 33))
    f = torch.zeros(2, 33, 33, dtype=torch.float64)
    f[0, 3, 7] = f[1, 1:-1, 1:-1] = 1
    u = problem.solve({"f": f}, axes, TIMES, Solver())["u"]
    assert u[:, 1:-1, 1:-1].min() > 0
    assert not u[:, [0, -1]].any()
    assert u[0].argmax() == 3 * 33 + 7


def test_a_finer_grid_shows_the_same_instance():
    coarse, fine = RANDOM.axes((49, 49)), RANDOM.axes((97, 97))
    few, many = instances(RANDOM, coarse)["f"], instances(RANDOM, fine)["f"]
    torch.testing.assert_close(few, many[:, ::2, ::2], rtol=0, atol=1e-13)
    assert few.std() == pytest.approx(0.8, rel=0.3)
    solver = Solver(num_points=97)
    u = RANDOM.solve({"f": few}, coarse, TIMES, solver)["u"]
    v = RANDOM.solve({"f": many}, fine, TIMES, solver)["u"]
    torch.testing.assert_close(u, v[:, ::2, ::2], rtol=0, atol=1e-13)


@pytest.mark.parametrize("solver", [Solver(), Solver(num_points=70)])
@each
def test_a_sample_does_not_depend_on_its_batch(problem, solver):
    axes = problem.axes((40, 40))
    given = instances(problem, axes, 5)["f"]
    together = problem.solve({"f": given}, axes, TIMES, solver)["u"]
    given = given.clone()
    given[0] = torch.nan
    assert torch.equal(problem.solve({"f": given[3:4]}, axes, TIMES, solver)["u"][0], together[3])
    poisoned = problem.solve({"f": given}, axes, TIMES, solver)["u"]
    assert torch.equal(poisoned[1:], together[1:])
    assert not poisoned[0, 1:-1, 1:-1].isfinite().any()


@each
def test_single_precision_agrees(problem):
    axes = problem.axes((40, 40))
    given = instances(problem, axes)
    double = problem.solve(given, axes, TIMES, Solver())["u"]
    single = problem.solve(given, axes, TIMES, Solver(precision="float32"))["u"]
    assert single.dtype == torch.float64
    assert relative_l2(single, double).max() < 1e-5


def test_the_exact_solution_is_for_the_chosen_source_alone():
    problem = PROBLEMS["peak"]
    axes = problem.axes((40, 40))
    given = instances(problem, axes)
    with pytest.raises(InputError, match="f is not the source of the chosen solution"):
        problem.exact({"f": 2 * given["f"]}, axes, TIMES)


def test_a_random_source_offers_no_residual():
    with pytest.raises(SpecError, match=r"a random source, known on a grid alone"):
        RANDOM.check_conditions()
    with pytest.raises(SpecError, match=r"use solution: {kind: peak}"):
        RANDOM.reference(torch.zeros(1, 2))


def test_meaningless_grids_are_refused():
    with pytest.raises(GridError, match="two spatial axes, x and y"):
        RANDOM.axes((64,))
    with pytest.raises(GridError, match=r"num_points=\(40, 33\): .* 32 modes needs at least 34 nodes"):
        RANDOM.axes((40, 33))
    axes = RANDOM.axes((40, 40))
    with pytest.raises(GridError, match=r"stationary, but times=\(1.0,\); use times: \[0.0\]"):
        RANDOM.check_solver(axes, (1.0,), Solver())
    with pytest.raises(GridError, match=r"solver.num_points=20: .* at least 34 nodes"):
        RANDOM.check_solver(axes, TIMES, Solver(num_points=20))
    with pytest.raises(GridError, match=r"shape \(2, 40, 39\), expected \(batch, 40, 40\)"):
        RANDOM.solve({"f": torch.zeros(2, 40, 39)}, axes, TIMES, Solver())
    with pytest.raises(InputError, match="f must vanish on the walls"):
        RANDOM.solve({"f": torch.ones(2, 40, 40)}, axes, TIMES, Solver())


def test_is_written_and_read_through_the_catalog():
    plain = catalog.write("problem", RANDOM)
    assert plain.pop("name") == "poisson"
    assert Poisson.parse(plain, source="test") == RANDOM
    assert isinstance(RANDOM, Solvable)
    assert isinstance(RANDOM, Exact)
    assert isinstance(RANDOM, Residual)


def test_the_recipe_holds_the_accuracy_that_it_states():
    recipe = Recipe.load("poisson-2d-grf")
    given = instances(recipe.problem, recipe.axes)
    u = recipe.problem.solve(given, recipe.axes, recipe.times, recipe.solver)["u"]
    assert relative_l2(u, recipe.problem.exact(given, recipe.axes, recipe.times)["u"]).max() < 1e-4
