"""PDEBench's HDF5: Takamoto et al., PDEBench (2022), arXiv 2210.07182; github.com/pdebench/PDEBench.

Two layouts. Arrays of all samples: `tensor` (sample, time, *space), or one array per field (`density`,
`Vx`, …), with `x-coordinate`, …, `t-coordinate`; `nu` (sample, *space) is an input field, beside which
`tensor` has one time. Or a group per sample: `0000/data` (time, *space, channel) and `0000/grid/x`, …, `t`.
The published one-dimensional files list one time more than they hold states: it is left out. Nothing
in either says what the ends of an axis are: they are taken to be open.
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

SPACE = ("x", "y", "z")
CHANNEL = "channel"
BOUNDARIES = ("periodic", "wall", "open")


def holds(file: h5py.File) -> bool:
    """Whether a file is one of PDEBench's."""
    return "x-coordinate" in file or any(_is_sample(file[name]) for name in list(file)[:1])


def read(path: Path, files: ExitStack) -> Content:
    """A file of either layout."""
    file = hdf5.opened(path, files)
    if not holds(file):
        raise InputError(
            f"{path.name} is no file of PDEBench (x-coordinate beside its fields, or groups with data and "
            f"grid); it holds {hdf5.contents(file)}"
        )
    return _arrays(path, file) if "x-coordinate" in file else _groups(path, file)


def _is_sample(item: Any) -> bool:
    return isinstance(item, h5py.Group) and "data" in item and isinstance(item.get("grid"), h5py.Group)


def _arrays(path: Path, file: h5py.File) -> Content:
    names = [name for name in hdf5.datasets(file) if not name.endswith("-coordinate")]
    coordinates = {
        name: np.asarray(file[f"{name}-coordinate"]) for name in SPACE if f"{name}-coordinate" in file
    }
    space, fields = tuple(coordinates), {}
    for name in names:
        dims = {
            1: ("sample",),
            len(space) + 1: ("sample", *space),
            len(space) + 2: ("sample", "time", *space),
        }.get(file[name].ndim)
        if dims is None:
            raise InputError(
                f"{path.name}: {name!r} has shape {file[name].shape}, but the file has the axes "
                f"{', '.join(space)}: expected (sample, time, {', '.join(space)}), or that without time"
            )
        about = {key: hdf5.noted(file[name], key) for key in ("units", "long_name")}
        fields[name] = Field(file[name], dims, **about)
    times = {field.sizes["time"] for field in fields.values() if "time" in field.sizes}
    if "t-coordinate" in file and times:
        listed = np.asarray(file["t-coordinate"])
        coordinates["time"] = listed[:-1] if len(listed) - 1 in times else listed
    elif times == {1}:
        coordinates["time"] = np.zeros(1)
    places = {name: f"{'t' if name == 'time' else name}-coordinate" for name in coordinates}
    noted = {name: file[place] for name, place in places.items() if place in file}
    return _content(path, fields, coordinates, noted)


def _content(
    path: Path, fields: dict[str, Field], coordinates: dict[str, Values], noted: dict[str, Any]
) -> Content:
    boundaries = {name: hdf5.noted(array, "boundary") for name, array in noted.items()}
    return Content(
        format="pdebench",
        path=path,
        fields=fields,
        coordinates=coordinates,
        boundaries={name: cast(Boundary, kind) for name, kind in boundaries.items() if kind in BOUNDARIES},
        units=hdf5.units(noted),
        stops=hdf5.stops(noted),
    )


def _groups(path: Path, file: h5py.File) -> Content:
    samples = sorted(file)
    strange = [name for name in samples if not _is_sample(file[name])]
    if strange:
        raise InputError(
            f"{path.name}: {', '.join(strange[:5])} hold no sample (data, grid) as the others do"
        )
    first = file[samples[0]]
    axes = tuple(name for name in SPACE if name in first["grid"])
    coordinates = {"time" if name == "t" else name: np.asarray(first["grid"][name]) for name in ("t", *axes)}
    for name in samples:
        one = file[name]
        for axis, points in first["grid"].items():
            if axis not in one["grid"] or not np.array_equal(one["grid"][axis][()], points[()]):
                raise GridError(f"{path.name}: grid/{axis} of sample {name} is not that of {samples[0]}")
        if one["data"].shape != first["data"].shape or one["data"].dtype != first["data"].dtype:
            raise InputError(
                f"{path.name}: sample {name} has shape {one['data'].shape}, but {samples[0]} "
                f"{first['data'].shape}; all samples of a dataset have one shape"
            )
    dims = ("sample", "time", *axes, CHANNEL)
    if first["data"].ndim != len(dims) - 1:
        raise InputError(
            f"{path.name}: data of sample {samples[0]} have shape {first['data'].shape}; expected "
            f"(time, {', '.join(axes)}, channel)"
        )
    stacked = _Stacked([file[name]["data"] for name in samples])
    about = {key: hdf5.noted(first["data"], key) for key in ("units", "long_name")}
    noted = {name: first["grid"]["t" if name == "time" else name] for name in coordinates}
    return _content(path, {"data": Field(stacked, dims, **about)}, coordinates, noted)


class _Stacked:
    """Arrays of one shape as one, along a new first dimension, read where it is asked for."""

    def __init__(self, arrays: list[Any]) -> None:
        self.arrays_of_samples = arrays
        self.shape = (len(arrays), *arrays[0].shape)
        self.dtype = arrays[0].dtype

    def __getitem__(self, index: Any) -> Values:
        wanted = np.arange(len(self.arrays_of_samples))[index[0] if index else slice(None)]
        return np.stack([self.arrays_of_samples[number][()] for number in wanted])


def write(dataset: Dataset, split: str, path: Path) -> None:
    """A split: groups of samples for a field with channels, arrays for all else.

    Raises GridError for what neither layout has a place for.
    """
    info, recipe = dataset.info, dataset.recipe
    axes = tuple(info.axes)
    channels = [name for name, variable in info.variables.items() if CHANNEL in variable.dims]
    if not axes or axes != SPACE[: len(axes)]:
        raise GridError(
            f"PDEBench's axes are x, y and z, but {info.recipe!r} has {', '.join(axes) or 'none'}; export to "
            "npz or netcdf"
        )
    fitting = {(), axes, ("time", *axes)}
    for name, variable in info.variables.items():
        dims = variable.dims
        if len(channels) == len(info.variables) == 1 and dims == ("time", *axes, CHANNEL):
            continue
        if dims not in fitting:
            raise GridError(
                f"PDEBench has no place for {name!r} over ({', '.join(dims)}); it has fields over "
                f"({', '.join(('time', *axes))}), and one with channels by itself. Export to npz or netcdf"
            )
    dtypes = {
        name: np.dtype(getattr(recipe.problem, "dtypes", {}).get(name, recipe.storage.dtype))
        for name in info.variables
    }
    count = info.samples[split]
    with h5py.File(path, "w") as file:
        if not channels:
            for name, axis in info.axes.items():
                file[f"{name}-coordinate"] = axis.points
                hdf5.note(file[f"{name}-coordinate"], axis)
            if any("time" in variable.dims for variable in info.variables.values()):
                file["t-coordinate"] = np.asarray(info.times)
                file["t-coordinate"].attrs["units"] = recipe.time_units
            for name, variable in info.variables.items():
                hdf5.note(file.create_dataset(name, (count, *recipe.shape(name)), dtypes[name]), variable)
        for number in range(dataset.num_blocks(split)):
            start, block = dataset.block(split, number, *info.variables)
            for name, values in block.items():
                if not channels:
                    file[name][start : start + len(values)] = values.astype(dtypes[name])
                    continue
                for sample, one in enumerate(values, start):
                    group = file.create_group(f"{sample:04d}")
                    group["data"] = one.astype(dtypes[name])
                    hdf5.note(group["data"], info.variables[name])
                    group["grid/t"] = np.asarray(info.times)
                    group["grid/t"].attrs["units"] = recipe.time_units
                    for coordinate, its in info.axes.items():
                        group[f"grid/{coordinate}"] = its.points
                        hdf5.note(group[f"grid/{coordinate}"], its)
