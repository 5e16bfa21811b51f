"""Heat on graphs: against the matrix exponential and closed forms, order, what is kept, refusals."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.linalg import expm
from scipy.sparse import csgraph

from dlde import catalog
from dlde.datasets.certificate import certify
from dlde.datasets.generate import generate
from dlde.datasets.recipe import Recipe
from dlde.errors import GridError, InputError, SpecError
from dlde.numerics.graphs import Diffusion, fluxes
from dlde.problem import Exact, Interval, Solvable, Solver
from dlde.problems import graph_heat
from dlde.problems.block_model import Blocks
from dlde.problems.graph_heat import GraphHeat, Grid, Noise, Ring, Spots, Star, Weights

torch.set_num_threads(1)
BLOCKS = Blocks(num_nodes=50, num_edges=90, class_shares=(1.0, 2.0), isolated=True)
OWN = {
    "weights": Weights(each=Interval(low=0.2, high=3.0)),
    "channels": 2,
    "diffusivity": Interval(low=0.5, high=2.0),
}
PROBLEMS = {
    f"{graph.kind}-{laplacian}": GraphHeat(graph=graph, laplacian=laplacian, **OWN)
    for graph in (BLOCKS, Ring(num_nodes=13), Grid(rows=4, columns=6), Star(num_nodes=9))
    for laplacian in ("random-walk", "symmetric")
}
TIMES = (0.0, 0.3, 1.0, 4.0)


def batch(problem, count=3, seed=0):
    generator = np.random.default_rng(seed)
    drawn = [problem.draw(generator, {}) for _ in range(count)]
    return {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def dense(problem, instances, sample):
    """W of one sample as a matrix."""
    matrix = np.zeros((problem.graph.num_nodes,) * 2)
    first, second = instances["edges"][sample].long().T.numpy()
    np.add.at(matrix, (first, second), instances["weight"][sample].numpy())
    return matrix


@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_is_the_matrix_exponential(name):
    problem = PROBLEMS[name]
    given = batch(problem)
    exact = problem.exact(given, {}, TIMES)["u"]
    solved = problem.solve(given, {}, TIMES, Solver(dt=0.02))["u"]
    for sample in range(3):
        weights = dense(problem, given, sample)
        degree = weights.sum(1)
        if problem.laplacian == "symmetric":
            laplacian = csgraph.laplacian(weights, normed=True)
        else:
            laplacian = np.diag((degree > 0) * 1.0) - weights / np.where(degree > 0, degree, 1)[:, None]
        for number, time in enumerate(TIMES):
            kappa = given["diffusivity"][sample].item()
            expected = expm(-kappa * time * laplacian) @ given["u"][sample].numpy()
            assert_allclose(exact[sample, number], expected, atol=2e-13)
    assert distance(solved, exact) < 2e-7


@pytest.mark.parametrize("name", PROBLEMS)
def test_both_forms_of_the_laplacian_agree(name):
    problem = PROBLEMS[name]
    given = batch(problem)
    symmetric = problem.laplacian == "symmetric"
    operator = Diffusion(given["edges"], given["weight"], problem.graph.num_nodes, symmetric=symmetric)
    moved = operator(given["u"].flatten(1)).view_as(given["u"])
    gained = fluxes(given["edges"], given["weight"], given["u"][:, None], symmetric=symmetric)[:, 0]
    assert_allclose(moved, -gained, atol=1e-14)


def test_waves_on_a_ring_decay_as_they_must():
    """cos(2 pi k i / n) decays at the rate 1 - cos(2 pi k / n)."""
    problem = GraphHeat(graph=Ring(num_nodes=16), diffusivity=0.7)
    given = batch(problem, 1)
    for k in (0, 1, 5, 8):
        wave = torch.cos(2 * np.pi * k * torch.arange(16).double() / 16)
        u = problem.solve({**given, "u": wave[None, :, None]}, {}, (2.0,), Solver(dt=0.01))["u"]
        rate = 0.7 * (1 - np.cos(2 * np.pi * k / 16))
        assert_allclose(u[0, 0, :, 0], wave * np.exp(-2 * rate), atol=1e-9)


def test_a_grid_of_one_row_is_a_path():
    """cos(pi k i / (n - 1)) decays at the rate 1 - cos(pi k / (n - 1))."""
    problem = GraphHeat(graph=Grid(rows=1, columns=9))
    wave = torch.cos(3 * np.pi * torch.arange(9).double() / 8)
    u = problem.exact({**batch(problem, 1), "u": wave[None, :, None]}, {}, (2.0,))["u"]
    assert_allclose(u[0, 0, :, 0], wave * np.exp(-2 * (1 - np.cos(3 * np.pi / 8))), atol=1e-13)


@pytest.mark.parametrize("name", PROBLEMS)
def test_observed_order(name):
    problem = PROBLEMS[name]
    given = batch(problem)
    exact = problem.exact(given, {}, (2.0,))["u"]
    errors = [
        distance(problem.solve(given, {}, (2.0,), Solver(dt=dt))["u"], exact) for dt in (0.1, 0.05, 0.025)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert 3.8 < orders.min() <= orders.max() < 4.4


@pytest.mark.parametrize("name", PROBLEMS)
def test_heat_is_conserved_and_the_defect_is_small(name):
    problem = PROBLEMS[name]
    given = batch(problem)
    solution = problem.solve(given, {}, TIMES, Solver(dt=0.05))
    heat = problem.conserved(solution, {})["total heat"]
    assert heat.shape == (3, 4)
    assert_allclose(heat, heat[:, :1].expand(-1, 4), rtol=0, atol=1e-12 * heat.abs().max())
    defect = problem.defect(given, {}, TIMES, Solver(dt=0.05))["heat"]
    assert defect.shape == (3,)
    assert defect.max() < 1e-7


def test_the_defect_shows_another_equation(monkeypatch):
    """Solved with a Laplacian one percent too large."""
    problem = PROBLEMS["grid-random-walk"]
    given = batch(problem)

    class TooLarge(Diffusion):
        def __call__(self, u):
            return 1.01 * super().__call__(u)

    monkeypatch.setattr(graph_heat, "Diffusion", TooLarge)
    defect = problem.defect(given, {}, TIMES, Solver(dt=0.05))["heat"]
    assert_allclose(defect, 0.01 / 1.01, rtol=1e-3)


def test_the_random_walk_keeps_constants_and_the_maximum_principle():
    problem = PROBLEMS["blocks-random-walk"]
    given = batch(problem, 8)
    u = problem.solve(given, {}, (0.0, 0.5, 2.0, 8.0), Solver(dt=0.1))["u"]
    assert (u.amax(2) <= given["u"].amax(1)[:, None] + 1e-12).all()
    assert (u.amin(2) >= given["u"].amin(1)[:, None] - 1e-12).all()
    constant = problem.solve({**given, "u": torch.ones_like(given["u"])}, {}, (8.0,), Solver(dt=0.1))["u"]
    assert_allclose(constant, torch.ones_like(constant), atol=1e-13)


def test_nodes_without_edges_keep_their_heat():
    problem = PROBLEMS["blocks-symmetric"]
    given = batch(problem, 1)
    lonely = sorted(set(range(50)) - set(given["edges"].long().unique().tolist()))
    assert lonely
    u = problem.solve(given, {}, (3.0,), Solver(dt=0.1))["u"]
    assert torch.equal(u[0, 0, lonely], given["u"][0, lonely])


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_sample_does_not_depend_on_its_batch(name):
    """To the bit, also beside one that is not finite."""
    problem = PROBLEMS[name]
    given = batch(problem)
    together = problem.solve(given, {}, (1.0,), Solver(dt=0.1))["u"]
    alone = problem.solve({k: v[2:] for k, v in given.items()}, {}, (1.0,), Solver(dt=0.1))["u"]
    assert torch.equal(alone[0], together[2])
    given["u"][0] = torch.inf
    poisoned = problem.solve(given, {}, (1.0,), Solver(dt=0.1))["u"]
    assert torch.equal(poisoned[1:], together[1:])


def test_single_precision_agrees():
    problem = PROBLEMS["blocks-random-walk"]
    given = batch(problem)
    single = problem.solve(given, {}, TIMES, Solver(dt=0.1, precision="float32"))["u"]
    assert single.dtype == torch.float64
    assert distance(single, problem.solve(given, {}, TIMES, Solver(dt=0.1))["u"]) < 1e-6


def test_gradients_reach_start_and_diffusivity():
    problem = PROBLEMS["ring-random-walk"]
    given = batch(problem)
    given["u"].requires_grad_()
    kappa = given["diffusivity"].requires_grad_()
    loss = problem.solve(given, {}, (0.5,), Solver(dt=0.1))["u"].square().sum()
    slope = torch.autograd.grad(loss, kappa)[0]
    small = 1e-5

    def at(shift):
        moved = {**given, "diffusivity": kappa.detach() + shift}
        return problem.solve(moved, {}, (0.5,), Solver(dt=0.1))["u"].square().sum((1, 2, 3))

    assert_allclose(slope, (at(small) - at(-small)).detach() / (2 * small), rtol=1e-6)


def test_the_largest_stable_step_is_named_and_is_stable():
    problem = GraphHeat(graph=Ring(num_nodes=16), diffusivity=Interval(low=0.5, high=4.0))
    with pytest.raises(GridError, match=r"solver.dt=0.5 is not stable: .* use solver.dt <= 0.348"):
        problem.check_solver({}, (0.0, 100.0), Solver(dt=0.5))
    problem.check_solver({}, (0.0, 100.0), Solver(dt=0.348))
    problem.check_solver({}, (0.1, 0.3), Solver(dt=0.5))  # the times shorten it
    given = batch(problem, 1)
    given["diffusivity"][:] = 4.0
    zigzag = torch.tensor([1.0, -1.0]).double().repeat(8)[None, :, None]
    u = problem.solve({**given, "u": zigzag}, {}, (34.8,), Solver(dt=0.348))["u"]
    assert u.abs().max() < 1  # the fastest mode of all
    given["diffusivity"][:] = 6.0
    with pytest.raises(GridError, match="diffusivities up to 6"):
        problem.solve(given, {}, (34.8,), Solver(dt=0.348))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("u", lambda u: u[..., :1], r"u has shape \(3, 13, 1\), expected \(batch, 13, 2\)"),
        ("edges", lambda e: e + 1, "whole numbers from 0 to 12"),
        ("weight", lambda w: -w, "weight must be positive"),
        (
            "weight",
            lambda w: w + torch.arange(26),
            "edges of sample 0 do not stand in both directions, with the same",
        ),
        ("diffusivity", lambda k: k - 3, "diffusivity must be positive"),
        ("viscosity", lambda _: torch.ones(3), "instances hold .*'viscosity'.*, expected"),
    ],
)
def test_instances_that_are_none_are_refused(name, change, message):
    problem = PROBLEMS["ring-random-walk"]
    given = batch(problem)
    with pytest.raises(InputError, match=message):
        problem.solve({**given, name: change(given.get(name))}, {}, (1.0,), Solver(dt=0.1))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"graph": {"kind": "tree"}}, "'blocks', 'ring', 'grid', 'star'"),
        ({"graph": {"kind": "ring", "num_nodes": 2}}, "num_nodes: .*greater than or equal to 3"),
        ({"weights": {"each": {"low": 0.0, "high": 1.0}}}, "each.low=0: expected more than 0"),
        ({"initial_condition": {"kind": "spots", "count": 500}}, "the graph has 400 nodes"),
        ({"diffusivity": 0}, "diffusivity: .*greater than 0"),
    ],
)
def test_wrong_fields_are_refused(raw, message):
    with pytest.raises(SpecError, match=message):
        GraphHeat.parse(raw, source="test")


def test_grids_and_many_eigenvectors_are_refused():
    problem = GraphHeat(graph=Ring(num_nodes=2001))
    with pytest.raises(GridError, match=r"graph-heat has no spatial axis, but num_points=\[8\]"):
        problem.axes([8])
    with pytest.raises(InputError, match="at most 2000 nodes, but the graph has 2001"):
        problem.exact(batch(problem, 1), {}, (1.0,))


def test_what_an_instance_is_stored_as():
    assert set(GraphHeat().variables) == {"u", "edges"}
    problem = PROBLEMS["ring-symmetric"]
    given = batch(problem, 20)
    assert set(given) == set(problem.variables) == {"u", "edges", "weight", "diffusivity"}
    for name, low, high in (("weight", 0.2, 3.0), ("diffusivity", 0.5, 2.0)):
        assert low <= given[name].min() < (low + high) / 2 < given[name].max() <= high
    # every instance has its own
    assert not torch.equal(given["weight"][0], given["weight"][1])


def test_initial_conditions():
    problem = GraphHeat(graph=Ring(num_nodes=32), initial_condition=Spots(count=3), channels=5)
    u = batch(problem, 4)["u"]
    assert u.shape == (4, 32, 5)
    assert (u.sum(1) == 3).all()
    assert u.unique().tolist() == [0, 1]
    noise = batch(problem.model_copy(update={"initial_condition": Noise()}), 50)["u"]
    assert abs(noise.mean()) < 0.06  # 8000 values: five deviations
    assert noise.std() == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("problem", [GraphHeat(), *PROBLEMS.values()])
def test_is_written_and_read_through_the_catalog(problem):
    plain = catalog.write("problem", problem)
    assert plain["name"] == "graph-heat"
    assert GraphHeat.parse({k: v for k, v in plain.items() if k != "name"}, source="test") == problem
    assert isinstance(problem, Solvable)
    assert isinstance(problem, Exact)
    assert GraphHeat.summary().startswith("Heat on graphs: du/dt = -diffusivity L u")


def test_a_dataset_is_certified_made_and_made_again_from_its_instances(tmp_path):
    recipe = Recipe.parse(
        {
            "name": "warm", "problem": catalog.write("problem", PROBLEMS["blocks-random-walk"]),
            "num_points": [], "times": [0.0, 0.5, 1.0], "samples": {"train": 3}, "solver": {"dt": 0.05},
            "storage": {"part": 2, "dtype": "float64"},
        },
        source="test",
    )  # fmt: skip
    found = certify(recipe, samples=3)
    assert found.passed, found
    assert {finding.name for finding in found.findings} == {
        "error", "order", "exact", "drift of total heat", "defect of heat"
    }  # fmt: skip
    dataset = generate(recipe, tmp_path).dataset
    stored = {name: dataset.read("train", name) for name in dataset.info.variables}
    assert stored["u"].shape == (3, 3, 50, 2)
    np.savez(tmp_path / "given.npz", **{**stored, "u": stored["u"][:, 0]})
    raw = {**recipe.dump(), "name": "given", "instances": {"train": str(tmp_path / "given.npz")}}
    again = generate(Recipe.parse(raw, source="test").fingerprinted(), tmp_path).dataset
    for name, values in stored.items():
        assert (again.read("train", name) == values).all()


@pytest.mark.parametrize("preset", [None, "ring", "grid"])
def test_the_recipe_reads(preset):
    recipe = Recipe.load("graph-heat", preset=preset)
    assert recipe.shape("u") == (21, {None: 400, "ring": 64, "grid": 400}[preset], 1)
