"""Plain arrays: NumPy's .npz, never with pickles, and NetCDF.

A .npz that dlde wrote holds beside its arrays one text, `dlde`, that says of each what it is; of any
other the command line must say it. NetCDF says it itself, by CF's attributes.
"""

from __future__ import annotations

import json
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from dlde.datasets.bridges import hdf5
from dlde.datasets.bridges.content import Boundary, Content, Field, Values
from dlde.datasets.dataset import Dataset
from dlde.errors import InputError
from dlde.problems.recorded import Condition
from dlde.spec import Spec

ABOUT = "dlde"  # the array of a .npz that describes the others


def read_npz(path: Path, files: ExitStack) -> Content:
    """Every array is a field, until the command line makes some of them coordinates."""
    arrays: dict[str, Values] = {}
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path.name} is a single array; save it by name: numpy.savez(FILE, u=u)")
        files.enter_context(archive)
        for name in archive.files:
            try:
                arrays[name] = archive[name]
            except ValueError as error:
                if "pickle" not in str(error) and "Object" not in str(error):
                    raise
                arrays[name] = np.empty(0, object)  # refused where it is wanted
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path.name} is no .npz file that can be read: {error}") from None
    text = arrays.get(ABOUT)
    about = About()
    if text is not None and text.dtype.kind == "U" and not text.ndim:
        about = _about(path, str(arrays.pop(ABOUT)))
    missing = [name for name in (*about.fields, *about.coordinates) if name not in arrays]
    if missing:
        raise InputError(f"{path.name} lacks the arrays {', '.join(missing)} that it says it holds")
    coordinates = {name: arrays.pop(name) for name in about.coordinates}
    return Content(
        format="npz",
        path=path,
        fields={name: _field(values, about.fields.get(name)) for name, values in arrays.items()},
        coordinates=coordinates,
        boundaries=about.boundaries,
        units=about.units,
        stops=about.stops,
        parameters=about.parameters,
        conditions=about.conditions,
    )


def _field(values: Values, its: Described | None) -> Field:
    return Field(values, its.dims, its.units, its.long_name or None) if its else Field(values, None)


class Described(Spec):
    """What an array of a file is."""

    dims: tuple[str, ...]
    units: str = "dimensionless"
    long_name: str = ""


class About(Spec):
    """What the arrays of a file are, as dlde writes it beside them."""

    fields: dict[str, Described] = {}  # in order
    coordinates: tuple[str, ...] = ()  # of the time and the axes, in order
    boundaries: dict[str, Boundary] = {}
    stops: dict[str, float] = {}
    units: dict[str, str] = {}  # of the coordinates
    parameters: dict[str, float] = {}
    conditions: tuple[Condition, ...] = ()


def _about(path: Path, text: str) -> About:
    """Raises SpecError for a text that dlde would not write."""
    try:
        raw = json.loads(text)
    except ValueError:
        raw = text
    return About.parse(raw, source=f"{path.name}: its description {ABOUT!r}")


def values(dataset: Dataset, split: str) -> dict[str, Values]:
    """The fields of a split, in the dtypes that they were imported in."""
    problem = dataset.recipe.problem
    dtypes, shared = getattr(problem, "dtypes", {}), getattr(problem, "shared", ())
    found = {}
    for name in dataset.info.variables:
        stored = dataset.read(split, name)
        found[name] = (stored[0] if name in shared else stored).astype(dtypes.get(name, stored.dtype))
    return found


def write_npz(dataset: Dataset, split: str, path: Path) -> None:
    """Arrays by name with a description; the same values give the same bytes."""
    about = describe(dataset)
    arrays = {
        **values(dataset, split),
        **coordinates(dataset),
        ABOUT: np.array(json.dumps(about.dump())),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: numpy.savez would write the hour
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def describe(dataset: Dataset) -> About:
    """What the arrays of a dataset are."""
    recipe, info = dataset.recipe, dataset.info
    shared = getattr(recipe.problem, "shared", ())
    return About(
        fields={
            name: Described(
                dims=(*(() if name in shared else ("sample",)), *variable.dims),
                units=variable.units,
                long_name=variable.long_name,
            )
            for name, variable in info.variables.items()
        },
        coordinates=tuple(coordinates(dataset)),
        boundaries={name: axis.boundary for name, axis in info.axes.items()},
        stops={name: axis.stop for name, axis in info.axes.items()},
        units={"time": recipe.time_units, **{name: axis.units for name, axis in info.axes.items()}},
        parameters=dict(getattr(recipe.problem, "parameters", {})),
        conditions=getattr(recipe.problem, "conditions", ()),
    )


def coordinates(dataset: Dataset) -> dict[str, Values]:
    """Of all axes, and of the time where a variable has it."""
    info = dataset.info
    timed = any("time" in variable.dims for variable in info.variables.values())
    return {
        **({"time": np.asarray(info.times)} if timed else {}),
        **{name: axis.points for name, axis in info.axes.items()},
    }


def read_netcdf(path: Path, files: ExitStack) -> Content:
    """NetCDF 3 or 4: dimensions with a coordinate are axes, values are as stored (nothing decoded)."""
    import xarray as xr

    try:
        with path.open("rb") as file:
            classic = file.read(3) == b"CDF"
        if not classic:
            with ExitStack() as looking:
                hdf5.opened(path, looking)
        found = files.enter_context(
            xr.open_dataset(
                path, engine="scipy" if classic else "h5netcdf", decode_times=False, mask_and_scale=False,
                cache=False, chunks=None,
            )
        )  # fmt: skip
        arrays = {str(name): array for name, array in {**found.variables}.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path.name} is no NetCDF file that can be read: {error}") from None
    for name, array in arrays.items():
        packed = {"scale_factor", "add_offset"} & set(array.attrs)
        if packed:
            raise InputError(
                f"{path.name}: {name!r} is packed ({', '.join(sorted(packed))}); unpack it first, such as "
                "xarray.open_dataset(FILE).to_netcdf(OTHER) without encoding"
            )
    about = _about(path, str(found.attrs[ABOUT])) if ABOUT in found.attrs else About()
    dims = {str(dim) for dim in found.sizes}
    ordered = [*about.coordinates, *(str(dim) for one in arrays.values() for dim in one.dims)]
    axes = [name for name in dict.fromkeys(ordered) if name in arrays and name in dims and name != "sample"]
    order = [name for name in about.fields if name in arrays]
    return Content(
        format="netcdf",
        path=path,
        fields={
            name: Field(
                np.asarray(array.values),
                tuple(map(str, array.dims)),
                units=_text(array.attrs.get("units")),
                long_name=_text(array.attrs.get("long_name")),
            )
            for name, array in {**{name: arrays[name] for name in order}, **arrays}.items()
            if name not in dims
        },
        coordinates={name: np.asarray(arrays[name].values) for name in axes},
        boundaries=about.boundaries,
        stops=about.stops,
        units={name: units for name in axes if (units := _text(arrays[name].attrs.get("units"))) is not None},
        parameters=about.parameters,
        conditions=about.conditions,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def write_netcdf(dataset: Dataset, split: str, path: Path) -> None:
    """NetCDF 4 with CF's names and units; what CF has no place for is JSON in the attribute `dlde`.

    It has no half precision: such fields become single.
    """
    import xarray as xr

    about, info = describe(dataset), dataset.info
    written = xr.Dataset(
        {
            name: (
                about.fields[name].dims,
                array.astype(np.float32) if array.dtype == np.float16 else array,
                {"units": info.variables[name].units, "long_name": info.variables[name].long_name},
            )
            for name, array in values(dataset, split).items()
        },
        coords={
            name: (name, points, {"units": about.units[name]})
            for name, points in coordinates(dataset).items()
        },
        attrs={
            "Conventions": "CF-1.11",
            "title": info.recipe,
            "digest": info.digest,
            "split": split,
            ABOUT: json.dumps(about.dump()),
        },
    )
    encoding = {name: {"_FillValue": None} for name in written.variables}
    written.to_netcdf(path, engine="h5netcdf", encoding=encoding)
