"""Graphs in a .npz: `edge_index` (2, edges) beside arrays over nodes, sparse ones as SciPy's CSR parts.

`NAME_data`, `NAME_indices`, `NAME_indptr` and `NAME_shape` are one array. A graph is one sample: fields over
`node`, the edges over (`edge`, `end`); `train_ids`, `val_ids`, … become masks over the nodes.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import sparse

from dlde.datasets.bridges import plain
from dlde.datasets.bridges.content import Content, Field, Values
from dlde.errors import InputError

PARTS = ("data", "indices", "indptr", "shape")
EDGES = "edge_index"


def holds(names: list[str]) -> bool:
    """Whether a .npz with these arrays is a graph."""
    return EDGES in names


def read(path: Path, files: ExitStack) -> Content:
    """One graph. Raises InputError where edges or parts do not fit the nodes."""
    raw = plain.read_npz(path, files)
    raw.check()
    arrays = {name: np.asarray(field.values) for name, field in raw.fields.items()}
    if EDGES not in arrays:
        raise InputError(f"{path.name} is no graph: it lacks {EDGES!r}; it holds {', '.join(arrays)}")
    edges = arrays.pop(EDGES)
    for prefix in [name.removesuffix("_indptr") for name in arrays if name.endswith("_indptr")]:
        arrays[prefix] = _dense(path, prefix, arrays)
    ids = {name: arrays.pop(name) for name in list(arrays) if name.endswith("_ids")}
    lengths = {name: len(values) for name, values in arrays.items() if values.ndim}
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype.kind not in "iu" or not lengths:
        raise InputError(
            f"{path.name}: {EDGES} has shape {edges.shape} and dtype {edges.dtype}; expected whole numbers "
            "(2, edges), beside arrays over the nodes"
        )
    nodes = max(lengths.values())
    for name, length in lengths.items():
        if length != nodes:
            raise InputError(f"{path.name}: {name!r} has {length} rows, but the graph has {nodes} nodes")
    for name, numbers in {EDGES: edges, **ids}.items():
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < nodes:
            wrong = numbers.min() if numbers.min() < 0 else numbers.max()
            raise InputError(f"{path.name}: {name} names node {wrong}, but nodes count from 0 to {nodes - 1}")
    fields = {name: _of_nodes(name, values) for name, values in arrays.items()}
    fields["edges"] = Field(edges.T[None], ("sample", "edge", "end"), long_name="edges, as pairs of nodes")
    for name, numbers in ids.items():
        mask = np.zeros((1, nodes), bool)
        mask[0, numbers] = True
        split = name.removesuffix("_ids")
        fields[f"{split}_mask"] = Field(mask, ("sample", "node"), long_name=f"nodes of the split {split}")
    return replace(raw, format="graph", fields=fields, coordinates={})


def _dense(path: Path, prefix: str, arrays: dict[str, Values]) -> Values:
    missing = [f"{prefix}_{part}" for part in PARTS if f"{prefix}_{part}" not in arrays]
    if missing:
        raise InputError(f"{path.name}: the sparse array {prefix!r} lacks {', '.join(missing)}")
    data, indices, indptr, shape = (arrays.pop(f"{prefix}_{part}") for part in PARTS)
    try:
        matrix = sparse.csr_matrix((data, indices, indptr), shape=tuple(shape.tolist()))
        matrix.check_format(full_check=True)
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"{path.name}: the sparse array {prefix!r} is not sound: {error}") from None
    return np.asarray(matrix.toarray())


def _of_nodes(name: str, values: Values) -> Field:
    tail = tuple(f"{name}_{number}" for number in range(1, values.ndim))
    return Field(values[None], ("sample", "node", *tail))
