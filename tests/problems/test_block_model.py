"""Block-model graphs: what is asked for is there, in distribution; the recipe; refusals."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from dlde import catalog
from dlde.datasets.generate import generate
from dlde.datasets.plot import plot
from dlde.datasets.recipe import Recipe
from dlde.errors import GridError, InputError, SpecError
from dlde.numerics.graphs import block_edges, both_ways, grid, ring
from dlde.problem import Solver
from dlde.problems.block_model import BlockModel, Blocks, Words

SMALL = BlockModel(
    graph=Blocks(num_nodes=60, num_edges=120, class_shares=(1.0, 2.0, 3.0)),
    words=Words(num_words=30, num_preferred=6, rate=0.4, background=0.1),
    train_per_class=2,
    num_validation=10,
    num_test=20,
)


def batch(problem, count=3, seed=0):
    generator = np.random.default_rng(seed)
    drawn = [problem.draw(generator, {}) for _ in range(count)]
    return {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}


def solve(problem, instances):
    return problem.solve(instances, {}, (0.0,), Solver())


def test_edges_of_plain_graphs():
    assert_array_equal(ring(3), [[0, 1], [1, 2], [2, 0]])
    edges, (weights,) = both_ways(ring(3), np.array([1.0, 2.0, 3.0]))
    assert_array_equal(edges, [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]])
    assert_array_equal(weights, [1, 3, 1, 2, 3, 2])
    edges, _ = both_ways(grid(3, 4))
    assert_array_equal(np.bincount(edges[:, 0]), [2, 3, 3, 2, 3, 4, 4, 3, 2, 3, 3, 2])
    assert set(np.abs(edges[:, 0] - edges[:, 1])) == {1, 4}


@pytest.mark.parametrize("isolated", [False, True])
def test_edges_differ_and_are_as_many_as_asked(isolated):
    lonely = 0
    for seed in range(20):
        blocks = Blocks(num_nodes=60, num_edges=120, isolated=isolated)
        edges = blocks.draw_edges(np.random.default_rng(seed))
        assert edges.shape == (120, 2)
        assert (edges[:, 0] != edges[:, 1]).all()
        assert len(np.unique(np.sort(edges, 1), axis=0)) == 120
        lonely += 60 - len(np.unique(edges))
    assert (lonely > 0) == isolated


@pytest.mark.parametrize("homophily", [0.0, 0.5, 0.81, 1.0])
def test_homophily_is_as_asked(homophily):
    """Over 20 graphs of 800 edges; binomial, so that its deviation is 0.004 at most. Limits are five."""
    found = []
    for seed in range(20):
        blocks = Blocks(num_nodes=400, num_edges=800, homophily=homophily)
        labels, edges = blocks.draw(np.random.default_rng(seed))
        found.append((labels[edges[:, 0]] == labels[edges[:, 1]]).mean())
    assert abs(np.mean(found) - homophily) <= 5 * np.sqrt(homophily * (1 - homophily) / 16_000)
    spread = np.sqrt(homophily * (1 - homophily) / 800)
    assert 0.5 * spread <= np.std(found) <= 1.7 * spread


def test_degrees_are_in_proportion_to_the_weights():
    """With equal classes, many nodes and light ones, where rejection of double edges is rare."""
    weights = np.tile([1.0, 2.0, 4.0], 200)
    labels = np.repeat([0, 1], 300)
    degrees = np.zeros(600)
    for seed in range(40):
        generator = np.random.default_rng(seed)
        edges = block_edges(generator, labels, weights, 900, 0.8, isolated=True)
        degrees += np.bincount(edges.ravel(), minlength=600) / 40
    means = [degrees[weights == weight].mean() for weight in (1, 2, 4)]
    # each mean is over 8000 nodes of a Poisson-like number: deviations below 1 %
    assert_allclose(means, np.array([1, 2, 4]) * 3 / 7 * 3, rtol=0.04)


def test_weights_have_the_density_that_is_asked_for():
    """Of x^-2.5 from 1 to 100: its distribution function, over 10^4 values (deviation 0.005)."""
    weights = Blocks(num_nodes=10_000, num_edges=10_000, degree_exponent=2.5).draw_weights(
        np.random.default_rng(0)
    )
    assert weights.min() >= 1
    assert weights.max() <= 100
    for x in (1.2, 2.0, 5.0, 20.0):
        expected = (1 - x**-1.5) / (1 - 100**-1.5)
        assert (weights <= x).mean() == pytest.approx(expected, abs=0.02)
    assert (Blocks(degree_exponent=None).draw_weights(np.random.default_rng(0)) == 1).all()


def test_degrees_have_a_heavy_tail():
    """Cora's largest degree is 168, its median 3."""
    heavy, even = (
        np.bincount(Blocks(degree_exponent=e).draw_edges(np.random.default_rng(0)).ravel())
        for e in (2.9, None)
    )
    assert heavy.mean() == even.mean() == 4
    assert heavy.max() > 2 * even.max()


def test_classes_words_and_masks():
    graphs = batch(SMALL, 40)
    labels, features = graphs["labels"], graphs["features"]
    assert {tuple(row.int().bincount().tolist()) for row in labels} == {(10, 20, 30)}
    assert features.unique().tolist() == [0, 1]
    # 24 words at a rate of 0.1 and 6 at 0.4: 4.8 a node, with a deviation of 0.04 over 2400 nodes
    assert features.sum(-1).mean().item() == pytest.approx(4.8, abs=0.2)
    # within a class the mean of a word's use is one of the two rates
    use = torch.stack(
        [(features * (labels == c)[..., None]).sum(1) / (labels == c).sum(1)[:, None] for c in [2]]
    )
    preferred = (use > 0.25).sum(-1).double().mean().item()
    assert preferred == pytest.approx(6, abs=0.5)
    masks = torch.stack([graphs[f"{split}_mask"] for split in ("train", "val", "test")])
    assert (masks.sum(0) <= 1).all()
    assert_array_equal(masks.sum(-1), np.array([[6] * 40, [10] * 40, [20] * 40]))
    for c in range(3):
        assert ((masks[0] * (labels == c)).sum(-1) == 2).all()


def test_a_given_graph_is_kept_as_it_is():
    graphs = batch(SMALL)
    solved = solve(SMALL, graphs)
    assert set(solved) == set(SMALL.variables)
    for name in solved:
        assert torch.equal(solved[name], graphs[name])
    assert SMALL.finer(Solver(), {}) is SMALL.refined(Solver(), {}, 2) is None


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("edges", lambda e: e[:, :-1], r"edges has shape \(3, 239, 2\), expected \(batch, 240, 2\)"),
        ("edges", lambda e: e + 60, "whole numbers from 0 to 59"),
        ("edges", lambda e: torch.where(e == 7, 8, e).sort(2).values, "do not stand in both directions"),
        ("labels", lambda c: c + 1, "labels must be whole numbers from 0 to 2"),
        ("test_mask", lambda m: m * 2, "test_mask must hold zeros and ones"),
        ("features", lambda x: x[:2], r"features has shape \(2, 60, 30\), .* with 3 samples"),
    ],
)
def test_graphs_that_are_none_are_refused(name, change, message):
    graphs = batch(SMALL)
    with pytest.raises(InputError, match=message):
        solve(SMALL, {**graphs, name: change(graphs[name])})


def test_a_missing_entry_is_named():
    graphs = batch(SMALL)
    del graphs["labels"]
    with pytest.raises(InputError, match="instances lack labels"):
        solve(SMALL, graphs)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"graph": {"num_edges": 1000}}, "an edge for every node needs at least 2000"),
        ({"graph": {"num_nodes": 10, "num_edges": 20}}, "expected 2 or more"),
        ({"graph": {"num_nodes": 40, "num_edges": 400}}, "edges within classes, which have .* pairs"),
        ({"graph": {"class_shares": [1.0], "homophily": 0.5}}, "edges between classes, which have 0 pairs"),
        ({"graph": {"degree_exponent": 2}}, "degree_exponent: .*greater than 2"),
        ({"graph": {"homophilly": 0.5}}, "unknown key; did you mean 'homophily'"),
        ({"words": {"num_preferred": 600}}, "there are 500 words"),
        ({"train_per_class": 300}, "the smallest class has 229 nodes"),
        ({"num_test": 1500}, "more than the 1860 nodes"),
    ],
)
def test_wrong_fields_are_refused(raw, message):
    with pytest.raises(SpecError, match=message):
        BlockModel.parse(raw, source="test")


def test_a_graph_that_cannot_be_drawn_is_told():
    """Two heavy nodes in one class, and nobody else that is ever chosen."""
    weights = np.array([1.0, 1.0, 0.0, 0.0])
    with pytest.raises(InputError, match="1 of 2 edges are not found in 1000 rounds"):
        block_edges(np.random.default_rng(0), np.zeros(4, int), weights, 2, 1.0, isolated=True)


def test_grids_and_times_are_refused():
    with pytest.raises(GridError, match=r"no spatial axis, but num_points=\[8\]; use num_points: \[\]"):
        SMALL.axes([8])
    with pytest.raises(GridError, match=r"stationary, but times=\(0.0, 1.0\)"):
        SMALL.check_solver({}, (0.0, 1.0), Solver())
    with pytest.raises(GridError, match="num_points=8: there is no spatial axis"):
        SMALL.check_solver({}, (0.0,), Solver(num_points=8))


def test_is_written_and_read_through_the_catalog():
    plain = catalog.write("problem", SMALL)
    assert plain["name"] == "block-model"
    assert BlockModel.parse({k: v for k, v in plain.items() if k != "name"}, source="test") == SMALL
    assert BlockModel.summary().startswith("Block model: random graphs")


def test_a_dataset_of_graphs_is_made_read_and_drawn(tmp_path):
    recipe = Recipe.parse(
        {
            "name": "graphs", "problem": catalog.write("problem", SMALL), "num_points": [], "times": [0.0],
            "samples": {"train": 3}, "storage": {"part": 2},
        },
        source="test",
    )  # fmt: skip
    dataset = generate(recipe, tmp_path).dataset
    assert dataset.read("train", "edges").shape == (3, 240, 2)
    assert "60 nodes, 120 edges" in " ".join(text.get_text() for text in plot(dataset).texts)
    # the stored graphs, given as instances, are the same again
    np.savez(tmp_path / "g.npz", **{name: dataset.read("train", name) for name in dataset.info.variables})
    given = recipe.model_copy(update={"name": "given"}).dump() | {
        "instances": {"train": str(tmp_path / "g.npz")}
    }
    again = generate(Recipe.parse(given, source="test").fingerprinted(), tmp_path).dataset
    for name in dataset.info.variables:
        assert_array_equal(again.read("train", name), dataset.read("train", name))


@pytest.mark.parametrize("preset", [None, "cora"])
def test_the_recipe_reads(preset):
    recipe = Recipe.load("block-model", preset=preset)
    if preset == "cora":
        assert recipe.shape("edges") == (10_556, 2)
        assert recipe.shape("features") == (2708, 1433)
        assert_array_equal(recipe.problem.graph.class_sizes, [351, 217, 418, 818, 426, 298, 180])
