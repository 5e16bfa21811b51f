"""What a foreign file holds, in the terms of a dataset, before anything is decided or written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dlde.errors import GridError, InputError
from dlde.problems.recorded import Condition, Format

Values = NDArray[Any]
Boundary = Literal["periodic", "wall", "open"]
KINDS = "biuf"  # of numpy dtypes that are numbers
TOLERANCE = 1e-3  # of the spacing, by which a uniform axis may be off: single precision does that


@dataclass(frozen=True)
class Field:
    """An array of a file: `values` (numpy or h5py) and the names of its dimensions.

    One of them is `sample`, at any place; without it the array is the same for all samples. `dims` is
    None where the file does not say.
    """

    values: Any
    dims: tuple[str, ...] | None
    units: str | None = None
    long_name: str | None = None
    dtype: str | None = None  # that it shall be exported as; None: that of `values`

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array in the file."""
        return tuple(self.values.shape)

    @property
    def sizes(self) -> dict[str, int]:
        """Dimension -> size."""
        return dict(zip(self.dims or (), self.shape, strict=False))

    def read(self, samples: Values, dims: tuple[str, ...]) -> Values:
        """Samples by number (increasing or not): (sample, *dims)."""
        assert self.dims is not None
        if "sample" not in self.dims:
            one = np.asarray(self.values[()]).transpose([self.dims.index(dim) for dim in dims])
            return np.broadcast_to(one, (len(samples), *one.shape))
        low, high = (int(samples.min()), int(samples.max()) + 1) if len(samples) else (0, 0)
        place = self.dims.index("sample")
        index = (slice(None),) * place
        if high - low > 4 * len(samples):  # scattered: h5py takes lists that increase
            unique, inverse = np.unique(samples, return_inverse=True)
            block = np.asarray(self.values[(*index, unique)])
        else:
            block, inverse = np.asarray(self.values[(*index, slice(low, high))]), samples - low
        block = block.transpose([self.dims.index(dim) for dim in ("sample", *dims)])
        return block if np.array_equal(inverse, np.arange(len(block))) else block[inverse]


@dataclass(frozen=True)
class Content:
    """A file: its fields, the coordinates of its axes, and what it says about the ends of the axes."""

    format: Format
    path: Path
    fields: dict[str, Field]
    coordinates: dict[str, Values] = field(default_factory=dict)
    boundaries: dict[str, Boundary] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)  # of the coordinates
    stops: dict[str, float] = field(default_factory=dict)  # of axes whose points leave out their end
    parameters: dict[str, float] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()

    def check(self) -> Content:
        """Refuse what is no array of numbers. Raises InputError."""
        for name, one in self.fields.items():
            check_numbers(self.path, name, one.values.dtype)
        return self


Read = Callable[[Path, ExitStack], Content]  # files that stay open are closed with the stack


def check_numbers(path: Path, name: str, dtype: Any) -> None:
    """Refuse objects, text, complex and extended numbers. Raises InputError that names the cure."""
    dtype = np.dtype(dtype)
    if dtype.kind == "O":
        raise InputError(
            f"{path.name}: {name!r} holds Python objects (pickles), which may run code when they are read; "
            "save each array by itself, such as numpy.savez(FILE, u=u, x=x)"
        )
    if dtype.kind == "c":
        raise InputError(
            f"{path.name}: {name!r} is complex; save real and imaginary part as two arrays of real numbers"
        )
    if dtype.kind not in KINDS or dtype.itemsize > 8:
        raise InputError(
            f"{path.name}: {name!r} has dtype {dtype}; fields are numbers of at most 64 bits, so leave it "
            "out (name those to import by --map NEW=OLD)"
        )


def join(contents: list[Content]) -> Content:
    """Several files as one: the same fields follow one another, other fields stand side by side.

    Raises InputError where some fields are common and others are not.
    """
    first, *others = contents
    for other in others:
        common = set(first.fields) & set(other.fields)
        if common and set(first.fields) != set(other.fields):
            lacking = sorted(set(first.fields) ^ set(other.fields))
            raise InputError(
                f"{first.path.name} and {other.path.name} do not hold the same fields: only one of them has "
                f"{', '.join(map(repr, lacking))}; import files with equal fields, or with different ones"
            )
        if common:
            _check_alike(first, other)
            fields = {
                name: replace(one, values=_Joined([one, other.fields[name]]))
                for name, one in first.fields.items()
            }
        else:
            fields = {**first.fields, **other.fields}
        first = replace(
            first,
            fields=fields,
            coordinates={**other.coordinates, **first.coordinates},
            boundaries={**other.boundaries, **first.boundaries},
            units={**other.units, **first.units},
            stops={**other.stops, **first.stops},
        )
    return first


def _check_alike(first: Content, other: Content) -> None:
    """Raises InputError naming what differs between two files of the same fields."""
    for name, one in first.fields.items():
        its = other.fields[name]
        place = one.dims.index("sample") if one.dims and "sample" in one.dims else 0
        shapes = [shape[:place] + shape[place + 1 :] for shape in (one.shape, its.shape)]
        if one.dims != its.dims or shapes[0] != shapes[1] or one.values.dtype != its.values.dtype:
            raise InputError(
                f"{name!r} is {one.values.dtype} of shape {one.shape} in {first.path.name}, but "
                f"{its.values.dtype} of shape {its.shape} in {other.path.name}; files that are imported "
                "together must agree but for the number of samples"
            )
        if one.dims and "sample" not in one.dims and not np.array_equal(one.values[()], its.values[()]):
            raise InputError(
                f"{name!r} is one array for all samples, but differs between {first.path.name} and "
                f"{other.path.name}; import them as two datasets"
            )
    for name, points in first.coordinates.items():
        if name in other.coordinates and not np.array_equal(points, other.coordinates[name]):
            raise GridError(
                f"coordinate {name!r} differs between {first.path.name} and {other.path.name}; "
                "one dataset has one grid"
            )
    if (first.boundaries, first.parameters, first.conditions) != (
        other.boundaries,
        other.parameters,
        other.conditions,
    ):
        raise InputError(
            f"{first.path.name} and {other.path.name} state different boundary conditions or parameters; "
            "import them as two datasets"
        )


class _Joined:
    """Arrays one after the other along their samples, read where it is asked for."""

    def __init__(self, fields: list[Field]) -> None:
        self.dims = fields[0].dims
        self.place = self.dims.index("sample") if self.dims and "sample" in self.dims else 0
        self.arrays = [array for one in fields for array in getattr(one.values, "arrays", [one.values])]
        self.shared = self.dims is not None and "sample" not in self.dims
        self.dtype = self.arrays[0].dtype
        shape = list(self.arrays[0].shape)
        if not self.shared:
            shape[self.place] = sum(array.shape[self.place] for array in self.arrays)
        self.shape = tuple(shape)

    def __getitem__(self, index: Any) -> Values:
        if self.shared or index == ():
            return np.asarray(self.arrays[0][index])
        *before, wanted = index
        numbers = np.arange(self.shape[self.place])[wanted] if isinstance(wanted, slice) else wanted
        pieces, start = [], 0
        for array in self.arrays:
            stop = start + array.shape[self.place]
            here = numbers[(numbers >= start) & (numbers < stop)] - start
            if len(here):
                whole = here[-1] - here[0] + 1 == len(here)
                rows = slice(int(here[0]), int(here[-1]) + 1) if whole else here
                pieces.append(np.asarray(array[(*before, rows)]))
            start = stop
        return np.concatenate(pieces, axis=self.place)


def line(points: Any, length: int | None = None) -> Values | None:
    """Coordinates (length,) from an array that holds them: one row, one column, or a mesh of them.

    None where it does not; any length will do where none is given.
    """
    points = np.asarray(points)
    if points.dtype.kind not in "iuf" or not points.size:
        return None
    squeezed = points.reshape([n for n in points.shape if n != 1] or [1])
    if squeezed.ndim == 1:
        return squeezed if length in (None, len(squeezed)) else None
    for dim in range(squeezed.ndim):
        along = np.moveaxis(squeezed, dim, 0).reshape(squeezed.shape[dim], -1)
        if length in (None, len(along)) and (along == along[:, :1]).all() and (along[:-1] != along[1:]).any():
            return np.asarray(along[:, 0])
    return None


def ends(points: Values, boundary: Boundary, *, of: str, stop: float | None = None) -> tuple[float, float]:
    """Start and stop of the uniform axis that these points are; a periodic one's stop is left out.

    `stop` is what the file says it is: believed where it gives the very points.
    Raises GridError where they do not increase or are not equally spaced.
    """
    exact = points.astype(np.float64)
    if len(exact) < 2:
        raise GridError(f"{of} has {len(exact)} point; an axis has at least two")
    if not np.isfinite(exact).all():
        raise GridError(f"{of} has coordinates that are not finite: {_first(~np.isfinite(exact))}")
    steps = np.diff(exact)
    if (steps <= 0).any():
        place = int(np.argmax(steps <= 0))
        raise GridError(
            f"{of} must increase, but has {exact[place]:g} before {exact[place + 1]:g}; reverse it, "
            "and the fields along it, before you import"
        )
    spacing = (exact[-1] - exact[0]) / (len(exact) - 1)
    off = np.abs(exact - np.linspace(exact[0], exact[-1], len(exact))) / spacing
    if off.max() > TOLERANCE:
        raise GridError(
            f"{of} is not equally spaced: steps from {steps.min():g} to {steps.max():g}; interpolate the "
            "fields to a uniform grid before you import, or name the grid's ends, such as "
            "--coordinate x=0:1"
        )
    if boundary != "periodic":
        return float(exact[0]), float(exact[-1])
    if stop is not None and np.array_equal(np.linspace(exact[0], stop, len(exact), endpoint=False), exact):
        return float(exact[0]), stop
    rounding = np.finfo(points.dtype).eps * np.abs(exact).max() if points.dtype.kind == "f" else 0.0
    return float(exact[0]), _round(exact[0], exact[-1] + spacing, exact, rounding)


def _round(start: float, stop: float, points: Values, rounding: float) -> float:
    """The shortest decimal number near `stop` that gives the same grid: 1 rather than 0.9999999999."""
    spacing = points[1] - points[0]
    given = np.linspace(start, stop, len(points), endpoint=False)
    tolerance = max(1e-9 * spacing, rounding, 1.01 * float(np.abs(given - points).max()))
    for digits in range(1, 17):
        short = float(f"{stop:.{digits}g}")
        found = np.linspace(start, short, len(points), endpoint=False)
        if np.abs(found - points).max() <= tolerance:
            return short
    return float(stop)


def _first(flags: Values, most: int = 5) -> str:
    numbers = np.flatnonzero(flags)
    return ", ".join(map(str, numbers[:most])) + (", …" if len(numbers) > most else "")
