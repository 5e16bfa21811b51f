"""Graphs as lists of edges, random ones among them, and the diffusion of heat on them.

Edges are (edges, 2), whole numbers of nodes; `both_ways` lists each edge once in either direction, sorted
by the first node, which is how graphs are stored. Nothing is read back to the host while heat flows.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlde.errors import InputError

Numbers = NDArray[np.int64]
Array = NDArray[np.float64]

ROUNDS = 1000  # of draws, until all edges differ


def ring(num_nodes: int) -> Numbers:
    """Edges of a cycle."""
    nodes = np.arange(num_nodes)
    return np.stack([nodes, (nodes + 1) % num_nodes], 1)


def grid(rows: int, columns: int) -> Numbers:
    """Edges between neighbours of a rectangle of nodes, which are numbered row by row."""
    nodes = np.arange(rows * columns).reshape(rows, columns)
    across = np.stack([nodes[:, :-1].ravel(), nodes[:, 1:].ravel()], 1)
    down = np.stack([nodes[:-1].ravel(), nodes[1:].ravel()], 1)
    return np.concatenate([across, down])


def star(num_nodes: int) -> Numbers:
    """Edges from node 0 to all others."""
    others = np.arange(1, num_nodes)
    return np.stack([np.zeros_like(others), others], 1)


def both_ways(edges: Numbers, *values: Array) -> tuple[Numbers, list[Array]]:
    """Every edge in both directions, sorted by first and then second node, with the edges' values."""
    doubled = np.concatenate([edges, edges[:, ::-1]])
    order = np.lexsort((doubled[:, 1], doubled[:, 0]))
    return doubled[order], [np.concatenate([each, each])[order] for each in values]


def block_edges(
    generator: np.random.Generator,
    labels: Numbers,
    weights: Array,
    num_edges: int,
    homophily: float,
    *,
    isolated: bool,
) -> Numbers:
    """`num_edges` different edges of a degree-corrected stochastic block model, each once.

    The number of edges within classes is binomial with probability `homophily`. An edge's first end is node
    i in proportion to weights[i], the second likewise among the nodes of the same class, or of the
    others; loops and edges that are there already are drawn anew. Without `isolated` nodes, every node
    is once a first end. Source: Karrer & Newman, Stochastic blockmodels and community structure in networks,
    Phys. Rev. E 83 (2011), with the number of edges fixed. Raises InputError where so many are not found.
    """
    order = np.argsort(labels, kind="stable")
    reach = np.concatenate([[0.0], np.cumsum(weights[order])])  # by place in order
    ends = np.searchsorted(labels[order], np.arange(labels.max() + 2))
    low, high = reach[ends[:-1]][labels], reach[ends[1:]][labels]  # of each node's class
    total = reach[-1]

    within = np.arange(num_edges) < generator.binomial(num_edges, homophily)
    generator.shuffle(within)
    first = np.full(num_edges, -1)
    if not isolated:
        first[: len(labels)] = generator.permutation(len(labels))
    edges = np.empty((num_edges, 2), np.int64)
    taken = np.empty(0, np.int64)
    pending = np.arange(num_edges)
    for _ in range(ROUNDS):
        if not len(pending):
            return edges
        chance = generator.random((2, len(pending)))
        free = order[_place(reach, chance[0] * total)]
        start = np.where(first[pending] < 0, free, first[pending])
        own = high[start] - low[start]
        same = low[start] + chance[1] * own
        other = chance[1] * (total - own)
        other += np.where(other >= low[start], own, 0.0)
        stop = order[_place(reach, np.where(within[pending], same, other))]
        # rounding may leave the class by one node
        fits = (labels[start] == labels[stop]) == within[pending]
        loop = start == stop
        key = np.minimum(start, stop) * len(labels) + np.maximum(start, stop)
        earliest = np.zeros(len(pending), bool)
        candidates = np.flatnonzero(fits & ~loop & ~np.isin(key, taken))
        earliest[candidates[np.unique(key[candidates], return_index=True)[1]]] = True
        edges[pending[earliest]] = np.stack([start, stop], 1)[earliest]
        taken = np.concatenate([taken, key[earliest]])
        # an edge that is there already has given its first end what it was forced for
        first[pending[fits & ~loop & ~earliest]] = -1
        pending = pending[~earliest]
    raise InputError(
        f"{len(pending)} of {num_edges} edges are not found in {ROUNDS} rounds: the graph is too dense for "
        "its degrees and homophily; use fewer edges, or more nodes"
    )


def _place(reach: Array, at: Array) -> Numbers:
    return np.clip(np.searchsorted(reach, at, side="right") - 1, 0, len(reach) - 2)


class Diffusion:
    """The normalised Laplacian L of a batch of weighted graphs of equally many nodes and edges.

    random-walk: L = 1 - D^-1 W, which keeps constants; symmetric: L = 1 - D^-1/2 W D^-1/2; D holds the
    degrees, the row sums of W. Eigenvalues lie in [0, 2]. Nodes without edges have L = 0.
    edges (batch, edges, 2) in both directions, weights (batch, edges); dtype is that of `weights`.
    """

    def __init__(self, edges: Tensor, weights: Tensor, num_nodes: int, *, symmetric: bool) -> None:
        batch = len(edges)
        offset = torch.arange(batch, device=edges.device)[:, None, None] * num_nodes
        flat = (edges.long() + offset).reshape(-1, 2)
        # sums of sorted segments have one order of their terms whatever the batch, also on a GPU, where
        # atomic additions do not
        order = torch.argsort(flat[:, 0], stable=True)
        start, self._stop = flat[order].T.contiguous()
        weights = weights.reshape(-1)[order]
        self._bounds = torch.searchsorted(start, torch.arange(batch * num_nodes + 1, device=edges.device))
        self._shape = (batch, num_nodes)
        degrees = self._summed(weights[:, None])[:, 0]
        safe = torch.where(degrees > 0, degrees, 1)
        scale = (safe[start] * safe[self._stop]).sqrt() if symmetric else safe[start]
        self._share = (weights / scale)[:, None]
        self._linked = (degrees > 0).to(weights.dtype)[:, None]
        # what a node's heat weighs in the sum that the flow keeps, (batch, nodes)
        self.capacity = (degrees.sqrt() if symmetric else degrees).view(batch, num_nodes)

    def __call__(self, u: Tensor) -> Tensor:
        """L u, (batch, nodes * channels) like u: channels of a node lie side by side."""
        flat = u.reshape(self._shape[0] * self._shape[1], -1)
        moved: Tensor = self._linked * flat - self._summed(flat[self._stop] * self._share)
        return moved.view_as(u)

    def _summed(self, values: Tensor) -> Tensor:
        summed: Tensor = torch.segment_reduce(
            values, "sum", offsets=self._bounds, axis=0, initial=0, unsafe=True
        )
        return summed


def fluxes(edges: Tensor, weights: Tensor, u: Tensor, *, symmetric: bool) -> Tensor:
    """-L u as what nodes gain along their edges, u (batch, times, nodes, channels).

    Another way than `Diffusion`, to measure it by; on a GPU its sums have no fixed order.
    """
    first, second = (end.long() for end in edges.unbind(-1))
    degrees = weights.new_zeros(len(u), u.shape[2]).scatter_add_(1, first, weights)
    capacity = torch.where(degrees > 0, degrees, 1)[:, None, :, None]
    if symmetric:
        capacity = capacity.sqrt()
        u = u / capacity

    def at(nodes: Tensor) -> Tensor:
        return nodes[:, None, :, None].expand(-1, u.shape[1], -1, u.shape[3])

    along = weights[:, None, :, None] * (u.gather(2, at(second)) - u.gather(2, at(first)))
    return torch.zeros_like(u).scatter_add_(2, at(first), along) / capacity


def dense_weights(edges: Tensor, weights: Tensor, num_nodes: int) -> Tensor:
    """W (batch, nodes, nodes): edges (batch, edges, 2), weights (batch, edges)."""
    batch = len(edges)
    place = edges[..., 0].long() * num_nodes + edges[..., 1].long()
    matrix = weights.new_zeros(batch, num_nodes * num_nodes).scatter_add_(1, place, weights)
    return matrix.view(batch, num_nodes, num_nodes)


def heat_flow(weights: Tensor, u: Tensor, elapsed: Tensor, *, symmetric: bool) -> Tensor:
    """exp(-elapsed L) u by eigenvectors, (batch, times, nodes, channels).

    weights W (batch, nodes, nodes), u (batch, nodes, channels), elapsed (batch, times).
    """
    degrees = weights.sum(-1)
    root = torch.where(degrees > 0, degrees, 1).sqrt()
    laplacian = torch.diag_embed((degrees > 0).to(weights)) - weights / (root[:, :, None] * root[:, None])
    values, vectors = torch.linalg.eigh((laplacian + laplacian.mT) / 2)
    # random-walk L = D^-1/2 (symmetric L) D^1/2
    scaled = u if symmetric else root[..., None] * u
    modes = vectors.mT @ scaled
    decay = torch.exp(-elapsed[:, :, None] * values.clamp(min=0)[:, None])
    flow = torch.einsum("bij,btjc->btic", vectors, decay[..., None] * modes[:, None])
    return flow if symmetric else flow / root[:, None, :, None]
