"""What the arrays of a file mean: which are fields, what their dimensions are, where the axes lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dlde.datasets.bridges.content import Content, Field, Values, line
from dlde.datasets.bridges.options import Options
from dlde.errors import GridError, InputError, SpecError, UnknownNameError, nearest

SPACE = ("x", "y", "z")  # dimensions of these names must have coordinates, as `time` must
Points = Values | tuple[float, float]  # of an axis: given one by one, or by its two ends


def resolve(content: Content, options: Options) -> tuple[Content, dict[str, tuple[Points, str]]]:
    """The fields as they shall be called, with dimensions; and axis -> its points and its ends."""
    arrays = {**{name: one.values for name, one in content.fields.items()}, **content.coordinates}
    guesses = {
        axis: found
        for axis in ("time", *SPACE)
        if (found := _points_named(axis, arrays, None)) is not None
    }  # fmt: skip
    used = {text.split(":")[0] for text in options.coordinates.values()}
    used |= {_array_of(axis, arrays) for axis in guesses}
    used |= {
        axis for dims in options.dims.values() for axis in dims if line(arrays.get(axis, 0), None) is not None
    }
    fields = {}
    for new, old in (options.rename or {name: name for name in content.fields if name not in used}).items():
        if old not in content.fields:
            raise UnknownNameError(
                f"{content.path.name} has no field {old!r}; {nearest(old, content.fields)}", name=old
            )
        fields[new] = content.fields[old]
    for option, names in (("--dims", options.dims), ("--units", options.units)):
        for name in names:
            if name not in fields and (option == "--dims" or name not in _dims_of(fields, options)):
                raise UnknownNameError(f"{option} {name}: no such field; {nearest(name, fields)}", name=name)
    replace(content, fields=fields).check()
    fields = {
        name: replace(one, dims=_dims(content.path, name, one, options, guesses))
        for name, one in fields.items()
    }
    axes: dict[str, tuple[Points, str]] = {}
    for name, one in fields.items():
        for dim, length in one.sizes.items():
            if dim == "sample" or dim in axes:
                continue
            where = _axis(content, dim, length, name, arrays, options)
            if where is not None:
                axes[dim] = where
    for axis in options.coordinates:
        if axis not in axes:
            raise UnknownNameError(
                f"--coordinate {axis}: no field has such a dimension; {nearest(axis, axes)}", name=axis
            )
    check_sizes(content.path, fields)
    return replace(content, fields=fields), {
        axis: axes[axis] for axis in dict.fromkeys([*content.coordinates, *axes]) if axis in axes
    }


def _dims_of(fields: Mapping[str, Field], options: Options) -> set[str]:
    named = {dim for dims in options.dims.values() for dim in dims}
    return named | {dim for one in fields.values() for dim in one.dims or ()} | {*options.coordinates, "time"}


def _array_of(axis: str, arrays: Mapping[str, Any]) -> str:
    return "t" if axis == "time" and "time" not in arrays else axis


def _points_named(axis: str, arrays: Mapping[str, Any], length: int | None) -> Values | None:
    name = _array_of(axis, arrays)
    return None if name not in arrays else line(arrays[name][()], length)


def _dims(
    path: Path, name: str, field: Field, options: Options, guesses: Mapping[str, Values]
) -> tuple[str, ...]:
    """The dimensions of a field as given, as the file says, or as its shape leaves no choice."""
    given = options.dims.get(name) or field.dims
    if given is None and len(field.shape) == 1:
        given = ("sample",)
    if given is None:
        for axes in (tuple(guesses), tuple(axis for axis in guesses if axis != "time")):
            lengths = tuple(len(guesses[axis]) for axis in axes)
            if axes and field.shape[1:] == lengths and len(set(lengths)) == len(lengths):
                given = ("sample", *axes)
                break
    if given is None:
        example = ",".join(("sample", "time", "x", "y", "z")[: max(len(field.shape), 1)])
        raise InputError(
            f"{path.name} does not say what the dimensions of {name!r}, of shape {field.shape}, are; say it "
            f"by --dims {name}=…, such as --dims {name}={example} (or choose fields by --map NEW=OLD)"
        )
    if len(given) != len(field.shape) or len(set(given)) != len(given):
        raise InputError(
            f"{path.name}: {name!r} has shape {field.shape}, but dimensions ({', '.join(given)}); give one "
            "name for each, all different"
        )
    return given


def _axis(
    content: Content, dim: str, length: int, field: str, arrays: Mapping[str, Any], options: Options
) -> tuple[Points, str] | None:
    """Points and ends of a dimension; None where it is none of space or time, such as `component`."""
    boundary: str = content.boundaries.get(dim, "open")
    name, found = _array_of(dim, arrays), None
    if text := options.coordinates.get(dim):
        *words, last = text.split(":")
        known = ("periodic", "wall", "open", "closed")
        if last in known and words:
            boundary = last
        else:
            words = [*words, last]
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            numbers = []
        if len(numbers) == 2 and numbers[0] < numbers[1] and np.isfinite(numbers).all():
            if length < 2 and dim != "time":
                raise GridError(f"axis {dim} has {length} point; an axis has at least two")
            return (numbers[0], numbers[1]), boundary
        if len(words) != 1 or numbers:
            raise SpecError(
                f"--coordinate {dim}={text}: expected ARRAY or START:STOP with START < STOP, then perhaps "
                f"one of :{', :'.join(known)}",
                source="--coordinate",
                mistakes=[text],
            )
        name = words[0]
        if name not in arrays:
            raise UnknownNameError(
                f"--coordinate {dim}={text}: {content.path.name} has no array {name!r}; "
                f"{nearest(name, arrays)}",
                name=name,
            )
    if name in arrays:
        found = line(arrays[name][()], length)
        if found is None and (dim in options.coordinates or name in content.coordinates):
            raise GridError(
                f"{content.path.name}: {name!r}, of shape {np.shape(arrays[name])}, does not give "
                f"{length} points along {dim!r} of {field!r}; name another array, or the ends: "
                f"--coordinate {dim}=0:1"
            )
    if found is None and dim in ("time", *SPACE):
        raise GridError(
            f"{content.path.name} has no coordinate for {dim!r} of {field!r}; name the array that holds it "
            f"(--coordinate {dim}=ARRAY) or its ends (--coordinate {dim}=0:1, or {dim}=0:1:periodic)"
        )
    return None if found is None else (found, boundary)


def check_sizes(path: Path, fields: Mapping[str, Field]) -> None:
    """Raises InputError where a dimension has two sizes."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, one in fields.items():
        for dim, size in one.sizes.items():
            if not size:
                raise InputError(f"{path.name}: {name!r} of shape {one.shape} has no entry along {dim!r}")
            known, other = sizes.setdefault(dim, (size, name))
            if known != size:
                raise InputError(
                    f"{path.name}: {dim!r} has {size} entries in {name!r} of shape {one.shape}, but {known} "
                    f"in {other!r}; choose fields that go together by --map NEW=OLD, or name dimensions by "
                    "--dims"
                )


def agreed(grids: Sequence[dict[str, tuple[Points, str]]]) -> dict[str, tuple[Points, str]]:
    first: dict[str, tuple[Points, str]] = {}
    for grid in grids:
        for axis, (points, boundary) in grid.items():
            known, its = first.setdefault(axis, (points, boundary))
            same = np.array_equal(np.asarray(known), np.asarray(points), equal_nan=True)
            if its != boundary or not same:
                raise GridError(f"axis {axis} is not the same in all files; one dataset has one grid")
    return first


def times(points: Points, count: int) -> tuple[float, ...]:
    values = np.linspace(*points, count) if isinstance(points, tuple) else points.astype(np.float64)
    if not np.isfinite(values).all() or (np.diff(values) <= 0).any() or values[0] < 0:
        raise GridError(
            f"times must be finite, not negative, and increase, but go from {values[0]:g} to {values[-1]:g}"
            f"{'' if (np.diff(values) > 0).all() else ' with a step back'}; give others by "
            "--coordinate time=START:STOP"
        )
    return tuple(values.tolist())
