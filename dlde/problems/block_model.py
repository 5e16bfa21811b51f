"""Citation graphs that are drawn from a stochastic block model; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from dlde.errors import GridError, InputError
from dlde.numerics.graphs import Numbers, block_edges, both_ways
from dlde.problem import Array, Axis, Problem, Solvable, Solver, Variable
from dlde.problems.trajectory import refuse_points
from dlde.spec import Spec

Fraction = Annotated[float, Field(ge=0, le=1)]


class Blocks(Spec):
    """A degree-corrected stochastic block model with a given number of edges.

    A node's tendency to have edges has the density c x^-degree_exponent from 1 to sqrt(num_nodes), or is the
    same for all where degree_exponent is null. Classes have sizes in proportion to `class_shares`.
    Source: Karrer & Newman, Phys. Rev. E 83 (2011), arXiv 1008.3926.
    """

    kind: Literal["blocks"] = "blocks"
    num_nodes: PositiveInt = 2000
    num_edges: PositiveInt = 4000  # each counted once; the mean degree is 2 num_edges / num_nodes
    class_shares: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (
        0.8, 0.87, 0.93, 1.0, 1.07, 1.13, 1.2
    )  # fmt: skip
    homophily: Fraction = 0.81  # probability that an edge joins nodes of one class
    degree_exponent: Annotated[float, Field(gt=2)] | None = 2.9
    isolated: bool = False  # whether nodes may have no edge

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        sizes = self.class_sizes
        if sizes.min() < 2:
            raise ValueError(
                f"num_nodes={self.num_nodes}: a class of {len(sizes)} has {sizes.min()} nodes, expected 2 or "
                "more; use more nodes, or more equal class_shares"
            )
        if not self.isolated and self.num_edges < self.num_nodes:
            raise ValueError(
                f"num_edges={self.num_edges}: an edge for every node needs at least {self.num_nodes}; use "
                "more, or isolated: true"
            )
        within = int((sizes * (sizes - 1) // 2).sum())
        pairs = {"within": within, "between": self.num_nodes * (self.num_nodes - 1) // 2 - within}
        for where, chance in (("within", self.homophily), ("between", 1 - self.homophily)):
            if chance * self.num_edges > pairs[where] / 2:
                raise ValueError(
                    f"num_edges={self.num_edges} and homophily={self.homophily:g} ask for "
                    f"{chance * self.num_edges:.0f} edges {where} classes, which have {pairs[where]} pairs; "
                    "at most half of them can be drawn: use fewer edges, or more nodes"
                )
        return self

    @property
    def class_sizes(self) -> Numbers:
        """Nodes of every class, rounded such that all nodes are in one."""
        ends = np.cumsum(self.class_shares) / np.sum(self.class_shares) * self.num_nodes
        sizes: Numbers = np.diff(np.round(ends).astype(np.int64), prepend=0)
        return sizes

    def draw_edges(self, generator: np.random.Generator) -> Numbers:
        """Each edge once, (edge, end)."""
        return self.draw(generator)[1]

    def draw(self, generator: np.random.Generator) -> tuple[Numbers, Numbers]:
        """Labels (node,) and edges (edge, end), each once."""
        labels = generator.permutation(np.repeat(np.arange(len(self.class_shares)), self.class_sizes))
        weights = self.draw_weights(generator)
        edges = block_edges(
            generator, labels, weights, self.num_edges, self.homophily, isolated=self.isolated
        )
        return labels, edges

    def draw_weights(self, generator: np.random.Generator) -> Array:
        """How every node tends to have edges, 1 or more; consumes one uniform number for each."""
        chance = generator.random(self.num_nodes)
        if self.degree_exponent is None:
            return np.ones(self.num_nodes)
        power = 1 - self.degree_exponent
        least = self.num_nodes ** (power / 2)  # share beyond the largest
        return np.asarray((1 - chance * (1 - least)) ** (1 / power))


class Words(Spec):
    """Which words a node has: every class prefers some, drawn for each graph, at a higher rate."""

    num_words: PositiveInt = 500
    num_preferred: PositiveInt = 60  # of each class
    rate: Fraction = 0.07  # probability of a preferred word
    background: Fraction = 0.012  # probability of another one

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.num_preferred > self.num_words:
            raise ValueError(
                f"num_preferred={self.num_preferred}: there are {self.num_words} words; use at most so many"
            )
        return self

    def draw(self, generator: np.random.Generator, labels: Numbers) -> Array:
        """Zeros and ones (node, word)."""
        rates = np.full((labels.max() + 1, self.num_words), self.background)
        for row in rates:
            row[generator.permutation(self.num_words)[: self.num_preferred]] = self.rate
        return (generator.random((len(labels), self.num_words)) < rates[labels]).astype(np.float64)


class BlockModel(Problem, Solvable):
    """Block model: random graphs of nodes in classes, linked mostly within them, with words by class.

    One graph is a sample, stored as imported graphs are: `edges` in both directions, sorted; `labels`,
    `features` (0 or 1 per word) and the masks of a split of the nodes, with equally many of each class to
    train on. Its numbers are those of citation graphs such as Cora (Sen et al., Collective classification
    in network data, AI Magazine 29 (2008)), the split is that of Yang et al. (2016), arXiv 1603.08861.
    There is nothing to solve: an instance is a graph, and `solve` checks it. Times are [0.0].
    """

    version: ClassVar[str] = "1"
    order: ClassVar[float] = 0  # nothing is approximated

    graph: Blocks = Blocks()
    words: Words = Words()
    train_per_class: PositiveInt = 20
    num_validation: PositiveInt = 500
    num_test: PositiveInt = 1000

    @model_validator(mode="after")
    def _enough_nodes(self) -> Self:
        smallest = int(self.graph.class_sizes.min())
        if self.train_per_class > smallest:
            raise ValueError(
                f"train_per_class={self.train_per_class}: the smallest class has {smallest} nodes; use at "
                "most so many"
            )
        left = self.graph.num_nodes - self.train_per_class * len(self.graph.class_shares)
        if self.num_validation + self.num_test > left:
            raise ValueError(
                f"num_validation={self.num_validation} and num_test={self.num_test} are more than the "
                f"{left} nodes that training leaves; use fewer"
            )
        return self

    @property
    def variables(self) -> dict[str, Variable]:
        node = {"node": self.graph.num_nodes}
        masks = {
            f"{split}_mask": Variable(dims=("node",), sizes=node, long_name=f"nodes of the split {split}")
            for split in ("train", "val", "test")
        }
        return {
            "edges": Variable(
                dims=("edge", "end"),
                sizes={"edge": 2 * self.graph.num_edges, "end": 2},
                long_name="edges, as pairs of nodes",
            ),
            "labels": Variable(dims=("node",), sizes=node, long_name="class"),
            "features": Variable(
                dims=("node", "word"),
                sizes={**node, "word": self.words.num_words},
                long_name="whether the node has the word",
            ),
            **masks,
        }

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        """None: nodes are no grid. Raises GridError where one is asked for."""
        return no_grid("block-model", num_points)

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        """Raises GridError for times other than [0.0], and for points of an axis."""
        refuse_points(solver)
        if tuple(times) != (0.0,):
            raise GridError(f"block-model is stationary, but times={tuple(times)}; use times: [0.0]")

    def refined(self, solver: Solver, axes: Mapping[str, Axis], factor: float) -> Solver | None:
        """None: nothing is approximated."""
        return None

    def finer(self, solver: Solver, axes: Mapping[str, Axis]) -> Solver | None:
        return None

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """A graph: all that is stored of it."""
        labels, edges = self.graph.draw(generator)
        features = self.words.draw(generator, labels)
        order = generator.permutation(len(labels))
        train = np.concatenate(
            [order[labels[order] == label][: self.train_per_class] for label in range(labels.max() + 1)]
        )
        rest = order[~np.isin(order, train)]
        splits = {
            "train": train,
            "val": rest[: self.num_validation],
            "test": rest[self.num_validation :][: self.num_test],
        }
        masks = {}
        for split, nodes in splits.items():
            masks[f"{split}_mask"] = np.zeros(len(labels))
            masks[f"{split}_mask"][nodes] = 1
        return {
            "edges": both_ways(edges)[0].astype(np.float64),
            "labels": labels.astype(np.float64),
            "features": features,
            **masks,
        }

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """The graphs as they are given. Raises InputError for one that is none, or of other sizes."""
        shapes = {
            name: tuple(variable.sizes[dim] for dim in variable.dims)
            for name, variable in self.variables.items()
        }
        check_shapes(instances, shapes)
        check_edges(instances["edges"], instances["edges"].new_ones(()), self.graph.num_nodes)
        labels, classes = instances["labels"], len(self.graph.class_shares)
        if bool(((labels < 0) | (labels >= classes) | (labels != labels.round())).any()):
            raise InputError(f"labels must be whole numbers from 0 to {classes - 1}, one for each class")
        for name in ("train_mask", "val_mask", "test_mask"):
            if bool(((instances[name] != 0) & (instances[name] != 1)).any()):
                raise InputError(f"{name} must hold zeros and ones alone")
        return {name: instances[name] for name in shapes}


def no_grid(problem: str, num_points: Sequence[int]) -> dict[str, Axis]:
    """The axes of a graph. Raises GridError where a grid is asked for."""
    if num_points:
        raise GridError(
            f"{problem} has no spatial axis, but num_points={list(num_points)}; use num_points: [], and set "
            "the nodes by problem.graph"
        )
    return {}


def check_shapes(instances: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raises InputError for instances that lack an entry, or whose arrays have other shapes."""
    if missing := [name for name in shapes if name not in instances]:
        raise InputError(f"instances lack {', '.join(missing)}; expected {', '.join(shapes)}")
    count = len(instances[next(iter(shapes))])
    for name, shape in shapes.items():
        if tuple(instances[name].shape) != (count, *shape):
            raise InputError(
                f"{name} has shape {tuple(instances[name].shape)}, expected "
                f"({', '.join(['batch', *map(str, shape)])}), with {count} samples"
            )


def check_edges(edges: Tensor, weights: Tensor, num_nodes: int) -> None:
    """Refuse edges (batch, edges, 2) that name no node, or do not stand in both directions alike.

    weights (batch, edges), or () where all are the same. Raises InputError.
    """
    if bool(((edges < 0) | (edges >= num_nodes) | (edges != edges.round())).any()):
        raise InputError(f"edges must name nodes by whole numbers from 0 to {num_nodes - 1}")
    there, back = _sorted(edges, weights, num_nodes), _sorted(edges.flip(-1), weights, num_nodes)
    differs = torch.stack([(a != b).any(-1) for a, b in zip(there, back, strict=True)]).any(0)
    if bool(differs.any()):
        raise InputError(
            f"edges of sample {int(differs.to(torch.uint8).argmax())} do not stand in both directions, with "
            "the same weights; give each as (i, j) and as (j, i)"
        )


def _sorted(edges: Tensor, weights: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    key = edges[..., 0].long() * num_nodes + edges[..., 1].long()
    weights = weights.expand(key.shape)
    by_weight = torch.argsort(weights, dim=-1, stable=True)
    order = by_weight.gather(-1, torch.argsort(key.gather(-1, by_weight), dim=-1, stable=True))
    return key.gather(-1, order), weights.gather(-1, order)
