"""A graph: nodes where the smoothest vectors on it put them, coloured by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from dlde.datasets.pictures import look
from dlde.datasets.pictures.look import FAINT, INK, MUTED, Sheet
from dlde.datasets.pictures.shown import MOST_FIELDS, Shown, Values, label
from dlde.datasets.pictures.space import spread, time_text

SIZE = 7.0  # of the drawing (inches)
DENSE = 400  # nodes up to which all eigenvectors are found at once
CLASSES = 20
FRAMES, FRAME = 3, 4.0  # of what changes over time: how many, and their size (inches)


def graph(shown: Shown) -> Figure:
    """The largest connected component of the first chosen sample, drawn by `layout`.

    Where a variable changes over time at the nodes, it colours them, at some of the stored times.
    """
    drawn = _Drawn(shown)
    moving = [name for name in shown.values if "time" in shown.variable(name).dims]
    return _frames(shown, drawn, moving) if moving else _standing(shown, drawn)


class _Drawn:
    """The graph of the first chosen sample, laid out."""

    def __init__(self, shown: Shown) -> None:
        edges = shown.values["edges"][0].astype(np.int64).reshape(-1, 2)
        nodes = _num_nodes(shown, edges)
        adjacency = sparse.csr_matrix((np.ones(len(edges)), edges.T), shape=(nodes, nodes))
        adjacency = ((adjacency + adjacency.T) > 0).astype(np.float64)
        adjacency.setdiag(0)
        adjacency.eliminate_zeros()
        count, membership = csgraph.connected_components(adjacency, directed=False)
        self.kept = np.flatnonzero(membership == np.bincount(membership).argmax())
        kept = adjacency[self.kept][:, self.kept]
        self.places = layout(kept)
        rows, columns = sparse.triu(kept).nonzero()
        self._lines = np.stack([self.places[rows], self.places[columns]], axis=1)
        degree = np.asarray(kept.sum(0)).ravel()
        self._weight = 0.6 + 0.4 * degree / degree.mean().clip(1)
        whole = f"{nodes} nodes, {adjacency.nnz // 2} edges"
        rest = f"; drawn is the largest of {count} components, {len(self.kept)} nodes" if count > 1 else ""
        self.note = whole + rest

    def edges(self, axes: Any, alpha: float = 0.8) -> None:
        """Lines, the fainter the more there are."""
        axes.set_axis_off()
        axes.set_aspect("equal")
        alpha *= float(np.clip(2500 / max(len(self._lines), 1), 0.25, 1))
        axes.add_collection(
            LineCollection(list(self._lines), colors=FAINT, linewidths=0.5, alpha=alpha, zorder=1)
        )

    def nodes(self, axes: Any, size: float, chosen: Any = slice(None), **how: Any) -> Any:
        """Dots, larger where many edges meet, of `size`: inches of a panel that they do not crowd."""
        area = np.clip(size**2 * 72**2 / (60 * len(self.kept)), 3, 90) * self._weight
        area = np.minimum(area, 140)[chosen]
        how = {"linewidths": 0.2, "edgecolors": "white", "zorder": 2, **how}
        return axes.scatter(*self.places[chosen].T, s=area, **how)


def _standing(shown: Shown, drawn: _Drawn) -> Figure:
    name, classes = _classes(shown)
    sheet = Sheet(shown, 1, 1, (SIZE, SIZE), right=1.6, bottom=0.45, top=0.1)
    axes = sheet.axes(0, 0)
    drawn.edges(axes)
    if classes is None:
        drawn.nodes(axes, SIZE, color=look.LINES[0])
    else:
        different = np.unique(classes)
        for number, one in enumerate(different):
            colour = _colour(number, len(different))
            drawn.nodes(axes, SIZE, classes[drawn.kept] == one, color=colour, label=f"{name} {one:g}")
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
        for handle in legend.legend_handles:
            handle.set_sizes([30])
    axes.autoscale_view()
    sheet.note(drawn.note)
    return sheet.figure


def _frames(shown: Shown, drawn: _Drawn, names: Sequence[str]) -> Figure:
    """A row for each component that changes, a frame for each of some stored times."""
    count = {name: _at_nodes(shown, name).shape[-1] for name in names}
    found = [(name, entry) for name in names for entry in range(min(count[name], MOST_FIELDS))]
    times = spread(shown.times, FRAMES)
    sheet = Sheet(shown, len(found), len(times), (FRAME, FRAME), gaps=(0.1, 0.2), top=0.3, bottom=0.4)
    units = shown.dataset.recipe.time_units
    for row, (name, entry) in enumerate(found):
        variable, values = shown.variable(name), _at_nodes(shown, name)[:, drawn.kept, entry]
        scaled, image = look.scale(values[times]), None
        short = name if count[name] == 1 else f"{name} {entry}"
        for column, time in enumerate(times):
            axes = sheet.axes(row, column)
            drawn.edges(axes, alpha=0.4)
            # larger than they need be, and outlined: their colours are what is shown
            image = drawn.nodes(axes, 2 * FRAME, c=values[time], edgecolors=MUTED, linewidths=0.3, **scaled)
            axes.autoscale_view()
            if row == 0:
                look.name(axes, 0.5, time_text(shown.times[time], units), inches=0.1, ha="center", color=INK)
        meaning = f"{variable.long_name} {short}" if variable.long_name not in ("", name) else short
        sheet.bar(image, label(meaning, variable.units), label(short, variable.units), row, row)
    sheet.note(f"{shown.name(0)}: {drawn.note}")
    return sheet.figure


def _at_nodes(shown: Shown, name: str) -> Values:
    """(time, node, component) of the first chosen sample."""
    values = shown.values[name][0]
    return np.asarray(values.reshape(*values.shape[:2], -1))


def layout(adjacency: Any) -> Values:
    """Places (nodes, 2) in the unit square of a connected graph.

    A start from the smoothest eigenvectors of the normalised Laplacian, which keeps neighbours together but
    piles up leaves, then spread by springs along the edges and repulsion between all nodes (Fruchterman and
    Reingold, 1991) where there are few enough nodes to do so.
    """
    places = _spectral(adjacency)
    return _spread(adjacency, places) if len(places) <= 4000 else places


def _spectral(adjacency: Any) -> Values:
    nodes = adjacency.shape[0]
    if nodes <= 3:
        return np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]])[:nodes]
    # Symmetric graphs have multiple eigenvalues, of which one start vector finds one eigenvector alone:
    # edges of slightly different weights separate them.
    upper = sparse.triu(adjacency, k=1).tocsr()
    upper.data *= 1 + 0.05 * np.random.default_rng(0).random(len(upper.data))
    laplacian, degree = csgraph.laplacian(upper + upper.T, normed=True, return_diag=True)
    if nodes <= DENSE:
        _, vectors = np.linalg.eigh(laplacian.toarray())
        vectors = vectors[:, 1:3]
    else:
        vectors = _smoothest(laplacian)
    vectors = vectors / degree[:, None].clip(1e-9)
    vectors *= np.sign(vectors[np.abs(vectors).argmax(0), [0, 1]])  # eigenvectors have no sign
    low, high = vectors.min(0), vectors.max(0)
    values = (vectors - low) / (high - low).clip(1e-12)
    if values.std(0).min() < 0.15:  # nearly all nodes in one place: their order uses the square evenly
        values = vectors.argsort(0).argsort(0) / (nodes - 1)
    return np.asarray(values, np.float64)


def _smoothest(laplacian: Any) -> Values:
    """The second and third eigenvectors from below (nodes, 2), without a factorisation.

    Where they take too long to converge, smoothed random vectors serve.
    """
    nodes, generator = laplacian.shape[0], np.random.default_rng(0)
    averaging = (sparse.identity(nodes) - laplacian / 2).tocsr()  # the smallest become the largest, 1
    start = generator.standard_normal((nodes, 3))
    try:
        values, vectors = eigsh(averaging, k=6, which="LA", v0=start[:, 0], tol=1e-7, ncv=40, maxiter=500)
        return np.asarray(vectors[:, np.argsort(-values)[1:3]])
    except ArpackNoConvergence:
        for _ in range(200):
            start, _ = np.linalg.qr(averaging @ start)
        return start[:, 1:]


def _spread(adjacency: Any, places: Values, steps: int = 60) -> Values:
    nodes = len(places)
    rows, columns = adjacency.nonzero()
    places = places.astype(np.float32) + 1e-3 * np.random.default_rng(0).standard_normal((nodes, 2)).astype(
        np.float32
    )
    length = np.float32(1 / np.sqrt(nodes))
    for step in range(steps):
        force = np.zeros_like(places)
        for first in range(0, nodes, 512):
            block = places[first : first + 512]
            across = block[:, None, 0] - places[None, :, 0]
            up = block[:, None, 1] - places[None, :, 1]
            push = length**2 / np.maximum(across**2 + up**2, 1e-6)
            force[first : first + 512, 0] = (push * across).sum(1)
            force[first : first + 512, 1] = (push * up).sum(1)
        along = places[rows] - places[columns]
        pull = along * np.sqrt((along**2).sum(1, keepdims=True)) / length
        np.subtract.at(force, rows, pull)
        force -= (places - 0.5) * 8 * length * np.sqrt(nodes) / 10  # nothing drifts away
        size = np.sqrt((force**2).sum(1, keepdims=True)).clip(1e-9)
        places = places + force / size * np.minimum(size, 0.1 * (1 - step / steps))
    return np.asarray(places, np.float64)


def _num_nodes(shown: Shown, edges: Values) -> int:
    sizes = [
        variable.sizes["node"]
        for variable in shown.dataset.info.variables.values()
        if "node" in variable.sizes
    ]
    return max([*sizes, int(edges.max(initial=-1)) + 1])


def _classes(shown: Shown) -> tuple[str, Values | None]:
    """The first variable of whole numbers over the nodes with few different values; masks come last."""
    names = [name for name in shown.values if shown.variable(name).dims == ("node",)]
    for name in sorted(names, key=lambda name: name.endswith("_mask")):
        values = shown.values[name][0]
        if np.array_equal(values, np.round(values)) and len(np.unique(values)) <= CLASSES:
            return name.removesuffix("s"), values
    return "", None


def _colour(number: int, count: int) -> Any:
    import matplotlib as mpl

    return look.LINES[number] if count <= len(look.LINES) else mpl.colormaps["tab20"](number % 20)
