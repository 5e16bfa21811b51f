"""The Well's HDF5: Ohana et al., The Well (2024), arXiv 2412.00568; github.com/PolymathicAI/the_well,
docs/data_format.md.

Fields lie in the groups t0_fields (scalars), t1_fields (vectors, one more dimension of the number of
axes) and t2_fields (tensors, two more), numbers without a place in `scalars`; attributes say which of
them vary between samples, in time and along which axes. Vectors get the dimension `component`, tensors
`row` and `column`.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from dlde.datasets.bridges import hdf5
from dlde.datasets.bridges.content import Boundary, Content, Field, Values
from dlde.datasets.dataset import Dataset
from dlde.errors import GridError, InputError
from dlde.problem import Axis, Variable
from dlde.problems.recorded import Condition

TENSORS: dict[str, tuple[str, ...]] = {
    "t0_fields": (), "t1_fields": ("component",), "t2_fields": ("row", "column")
}  # fmt: skip


def holds(file: h5py.File) -> bool:
    """Whether a file is one of The Well's."""
    return "dimensions" in file and any(group in file for group in TENSORS)


def read(path: Path, files: ExitStack) -> Content:
    """A file as it is; raises InputError where an attribute is missing or says what is not so."""
    file = hdf5.opened(path, files)
    if not holds(file):
        raise InputError(
            f"{path.name} is no file of The Well (groups dimensions and t0_fields, t1_fields or t2_fields); "
            f"it holds {hdf5.contents(file)}"
        )
    grid_type = hdf5.text(file.attrs.get("grid_type", "cartesian"))
    if grid_type != "cartesian":
        raise GridError(f"{path.name} has a {grid_type} grid; dlde holds cartesian ones")
    dimensions = file["dimensions"]
    axes = hdf5.names(_attribute(path, dimensions, "spatial_dims"))
    coordinates = {name: _coordinate(path, dimensions, name) for name in ("time", *axes)}
    fields: dict[str, Field] = {}
    for group, tail in TENSORS.items():
        for name in hdf5.names(file[group].attrs.get("field_names", [])) if group in file else ():
            fields[name] = _field(path, file[group], name, axes, tail)
    if "scalars" in file:
        for name in hdf5.names(file["scalars"].attrs.get("field_names", [])):
            fields[name] = _field(path, file["scalars"], name, [], ())
    sizes = {name: len(points) for name, points in coordinates.items()}
    sizes["sample"] = int(file.attrs.get("n_trajectories", 0)) or sizes.get("sample", 0)
    sizes |= dict.fromkeys(("component", "row", "column"), len(axes))
    for name, field in fields.items():
        expected = tuple(sizes[dim] for dim in field.dims or ())
        if field.shape != expected:
            raise InputError(
                f"{path.name}: {name!r} has shape {field.shape}, but its attributes say "
                f"({', '.join(field.dims or ())}) = {expected}"
            )
    conditions = _conditions(path, file, axes)
    return Content(
        format="the-well",
        path=path,
        fields=fields,
        coordinates=coordinates,
        boundaries={axis: _boundary(conditions, axis) for axis in axes},
        units=hdf5.units({name: dimensions[name] for name in coordinates}),
        stops=hdf5.stops({name: dimensions[name] for name in axes}),
        parameters={
            name: float(file.attrs[name])
            for name in hdf5.names(file.attrs.get("simulation_parameters", []))
            if name in file.attrs and np.asarray(file.attrs[name]).dtype.kind in "biuf"
        },
        conditions=conditions,
    )


def _attribute(path: Path, item: Any, name: str) -> Any:
    if name not in item.attrs:
        raise InputError(f"{path.name}: {item.name} lacks the attribute {name!r} of The Well's format")
    return item.attrs[name]


def _coordinate(path: Path, dimensions: Any, name: str) -> Values:
    if name not in dimensions:
        raise InputError(f"{path.name}: group dimensions lacks {name!r}; it has {', '.join(dimensions)}")
    values = np.asarray(dimensions[name][()])
    if dimensions[name].attrs.get("sample_varying", False) or values.ndim != 1:
        raise GridError(
            f"{path.name}: coordinate {name!r} differs between samples or times (shape {values.shape}); "
            "one dataset has one grid and the same times"
        )
    return values


def _field(path: Path, group: Any, name: str, axes: list[str], tail: tuple[str, ...]) -> Field:
    if name not in group:
        raise InputError(f"{path.name}: {group.name} names {name!r} in field_names, but does not hold it")
    array = group[name]
    along = _attribute(path, array, "dim_varying") if axes else []
    dims = (
        *(["sample"] if _attribute(path, array, "sample_varying") else []),
        *(["time"] if _attribute(path, array, "time_varying") else []),
        *[axis for axis, varies in zip(axes, np.atleast_1d(along), strict=True) if varies],
        *tail,
    )
    about = {"units": hdf5.noted(array, "units"), "long_name": hdf5.noted(array, "long_name")}
    if array.ndim == 1 and not dims and array.shape == (1,):  # a constant of one entry
        return Field(array[0:1].reshape(()), dims, **about)
    return Field(array, dims, **about)


def _conditions(path: Path, file: h5py.File, axes: list[str]) -> tuple[Condition, ...]:
    found = []
    for name, group in file["boundary_conditions"].items() if "boundary_conditions" in file else ():
        dims = hdf5.names(_attribute(path, group, "associated_dims"))
        mask = np.asarray(group["mask"][()]) if "mask" in group else np.ones(0, bool)
        varying = group.attrs.get("sample_varying", False) or group.attrs.get("time_varying", False)
        if len(dims) != 1 or mask.ndim != 1 or varying or dims[0] not in axes:
            raise InputError(
                f"{path.name}: boundary condition {name!r} lies on {', '.join(dims) or 'no axis'}"
                f"{', and varies' if varying else ''}; dlde holds conditions at fixed points of one axis. "
                "Take it out of a copy of the file, and keep its mask as a field where it matters"
            )
        values = np.ravel(group["values"][()]) if "values" in group else np.zeros(0)
        found.append(
            Condition.parse(
                {
                    "name": name,
                    "kind": hdf5.text(_attribute(path, group, "bc_type")).lower(),
                    "axis": dims[0],
                    "points": np.flatnonzero(mask).tolist(),
                    "fields": hdf5.names(group.attrs.get("associated_fields", [])),
                    "values": [float(value) for value in values],
                },
                source=f"{path.name}: boundary condition {name!r}",
            )
        )
    return tuple(found)


def _boundary(conditions: tuple[Condition, ...], axis: str) -> Boundary:
    """What an axis is as a whole: a wall only where all of its conditions say so."""
    kinds = {one.kind for one in conditions if one.axis == axis}
    return cast(Boundary, kinds.pop()) if len(kinds) == 1 and kinds <= {"periodic", "wall"} else "open"


def write(dataset: Dataset, split: str, path: Path) -> None:
    """A split in The Well's layout, block by block. Raises GridError for what it has no place for."""
    info, problem = dataset.info, dataset.recipe.problem
    shared = getattr(problem, "shared", ())
    dtypes = getattr(problem, "dtypes", {})
    groups = {name: _group(name, variable, info.axes) for name, variable in info.variables.items()}
    axes, count = list(info.axes), info.samples[split]
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {
                "dataset_name": info.recipe,
                "grid_type": "cartesian",
                "n_spatial_dims": len(axes),
                "n_trajectories": count,
                "simulation_parameters": _names(getattr(problem, "parameters", {})),
                **getattr(problem, "parameters", {}),
                "dlde_digest": info.digest,
            }
        )
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = _names(axes)
        times = _plain(dimensions, "time", np.asarray(info.times))
        times.attrs.update({"time_varying": True, "units": dataset.recipe.time_units})
        for name, axis in info.axes.items():
            points = _plain(dimensions, name, axis.points)
            points.attrs["time_varying"] = False
            hdf5.note(points, axis)
        for group in (*TENSORS, "scalars"):
            file.create_group(group).attrs["field_names"] = _names(
                [name for name, its in groups.items() if its == group]
            )
        arrays = {}
        for name, variable in info.variables.items():
            shape = dataset.recipe.shape(name)
            dtype = np.dtype(dtypes.get(name, dataset.recipe.storage.dtype))
            whole = shape if name in shared else (count, *shape)
            array = file[groups[name]].create_dataset(name, whole, dtype)
            hdf5.note(array, variable)
            array.attrs["sample_varying"] = name not in shared
            array.attrs["time_varying"] = "time" in variable.dims
            if groups[name] != "scalars":
                array.attrs["dim_varying"] = np.array([axis in variable.dims for axis in axes])
            if groups[name] == "t2_fields":
                array.attrs.update({"symmetric": False, "antisymmetric": False})
            arrays[name] = array
        for number in range(dataset.num_blocks(split)):
            start, block = dataset.block(split, number, *arrays)
            for name, values in block.items():
                if name not in shared:
                    arrays[name][start : start + len(values)] = values.astype(arrays[name].dtype)
                elif start == 0:
                    arrays[name][...] = values[0].astype(arrays[name].dtype)
        _write_conditions(file.create_group("boundary_conditions"), info.axes, problem)


def _group(name: str, variable: Variable, axes: dict[str, Axis]) -> str:
    """Where a variable belongs. Raises GridError."""
    for group, tail in TENSORS.items():
        order = ("time", *axes, *tail)
        sizes = dict.fromkeys(tail, len(axes))
        if variable.sizes == sizes and variable.dims == tuple(dim for dim in order if dim in variable.dims):
            return "scalars" if not tail and not set(axes) & set(variable.dims) else group
    raise GridError(
        f"The Well has no place for {name!r} over ({', '.join(variable.dims)}): its fields are scalars, "
        f"vectors (component, of size {len(axes)}) or tensors (row, column); export to npz or netcdf"
    )


def _plain(group: Any, name: str, values: Values) -> Any:
    array = group.create_dataset(name, data=values)
    array.attrs["sample_varying"] = False
    return array


def _names(names: Any) -> Any:
    return np.array(list(names), dtype=h5py.string_dtype())


def _write_conditions(group: Any, axes: dict[str, Axis], problem: Any) -> None:
    """Those that were imported; else what each axis is, at its two ends."""
    conditions = getattr(problem, "conditions", ()) or tuple(
        Condition(
            name=f"{name}_{axis.boundary}", kind=axis.boundary, axis=name, points=(0, axis.num_points - 1)
        )
        for name, axis in axes.items()
    )
    for one in conditions:
        entry = group.create_group(one.name)
        entry.attrs.update(
            {
                "bc_type": one.kind.upper(),
                "associated_dims": _names([one.axis]),
                "associated_fields": _names(one.fields),
                "sample_varying": False,
                "time_varying": False,
            }
        )
        mask = np.zeros(axes[one.axis].num_points, bool)
        mask[list(one.points)] = True
        entry.create_dataset("mask", data=mask)
        if one.values:
            entry.create_dataset("values", data=np.asarray(one.values))
