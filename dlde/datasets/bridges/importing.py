"""From foreign files to a store and its recipe: everything is read and checked before anything is written.

A killed import leaves a store that is not finished and no recipe; the same command completes it.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import yaml

from dlde.datasets import parts
from dlde.datasets.bridges import graphs, hdf5, images, pdebench, plain, the_well
from dlde.datasets.bridges.content import Boundary, Content, Field, Read, Values, ends, join, line
from dlde.datasets.generate import Generated, Progress, complete
from dlde.datasets.parts import Part
from dlde.datasets.recipe import Recipe
from dlde.errors import GridError, InputError, NonFiniteError, SpecError, UnknownNameError, nearest
from dlde.files import sha256_of, write_atomically, yaml_files
from dlde.problem import Axis, Variable
from dlde.problems.recorded import Format, Recorded

READERS: dict[str, Read] = {
    "npz": plain.read_npz,
    "netcdf": plain.read_netcdf,
    "the-well": the_well.read,
    "pdebench": pdebench.read,
    "idx": images.read_idx,
    "images": images.read_pictures,
    "graph": graphs.read,
}
SPACE = ("x", "y", "z")  # dimensions of these names must have coordinates, as `time` must
BLOCK_BYTES = 2**26  # read at once while a file is checked
PART_BYTES, PART_SAMPLES = 2**25, 1024  # most of a part of the store
DEFAULT_SPLITS = ("train=0.8,test=0.2",)
Points = Values | tuple[float, float]  # of an axis: given one by one, or by its two ends


@dataclass(frozen=True)
class Options:
    """What the command line says about files that do not say it themselves."""

    rename: Mapping[str, str]  # field -> array of the file
    dims: Mapping[str, tuple[str, ...]]  # field -> its dimensions, in the file's order
    coordinates: Mapping[str, str]  # axis -> ARRAY[:BOUNDARY] or START:STOP[:BOUNDARY]
    units: Mapping[str, str]  # field or axis -> units
    splits: tuple[str, ...] = ()
    format: str | None = None
    shuffle: int | None = None

    @classmethod
    def parse(
        cls,
        *,
        rename: Sequence[str] = (),
        dims: Sequence[str] = (),
        coordinates: Sequence[str] = (),
        units: Sequence[str] = (),
        splits: Sequence[str] = (),
        format: str | None = None,
        shuffle: int | None = None,
    ) -> Options:
        """From texts like "u=y". Raises SpecError for one that is not."""
        if format is not None and format not in READERS:
            raise UnknownNameError(f"no format {format!r}; {nearest(format, READERS)}", name=format)
        return cls(
            _pairs("--map", rename, "NEW=OLD, such as u=y"),
            {
                name: tuple(part.strip() for part in text.split(","))
                for name, text in _pairs("--dims", dims, "FIELD=sample,…, such as u=sample,time,x").items()
            },
            _pairs("--coordinate", coordinates, "AXIS=ARRAY[:BOUNDARY] or AXIS=START:STOP[:BOUNDARY]"),
            _pairs("--units", units, "NAME=UNITS, such as u=m/s"),
            tuple(splits),
            format,
            shuffle,
        )

    def arguments(self, names: Mapping[str, str]) -> list[str]:
        """The command line again, with files called as in `names`."""
        given = [("--map", f"{new}={old}") for new, old in self.rename.items()]
        given += [("--dims", f"{name}={','.join(dims)}") for name, dims in self.dims.items()]
        given += [("--coordinate", f"{axis}={text}") for axis, text in self.coordinates.items()]
        given += [("--units", f"{name}={units}") for name, units in self.units.items()]
        for text in self.splits:
            split, _, value = text.partition("=")
            given.append(("--split", f"{split}={names.get(value, value)}"))
        given += [("--format", self.format)] if self.format else []
        given += [("--shuffle", str(self.shuffle))] if self.shuffle is not None else []
        return [part for pair in given for part in pair]


def _pairs(option: str, texts: Sequence[str], form: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not (separator and name and value) or name in found:
            twice = f"{name} is given twice" if name in found else f"expected {form}"
            raise SpecError(f"{option} {text}: {twice}", source=option, mistakes=[text])
        found[name] = value
    return found


@dataclass(frozen=True)
class Imported:
    """A finished import: its store and the recipe that names it."""

    generated: Generated
    recipe: Recipe
    recipe_file: Path


def import_files(
    files: Sequence[Path | str],
    name: str,
    options: Options,
    root: Path | str,
    *,
    folder: Path | str = "data",
    progress: Progress | None = None,
) -> Imported:
    """Make a dataset of files; its recipe goes to `folder`/`name`.yaml.

    The same files and options find what is there, complete it or repair it. Raises InputError,
    GridError, SpecError, UnknownNameError for what cannot be imported, NonFiniteError for samples that
    are not finite; nothing is written then.
    """
    with ExitStack() as opened:
        source = Source.of([Path(file) for file in files], options, opened)
        recipe = source.recipe(name)
        target = Path(folder) / f"{name}.yaml"
        _check_free(recipe, target)

        def make(recipe: Recipe, store: Path, part: Part, count: int) -> Part:
            start, stop = part.start, part.start + part.held(count)
            values = {
                field: source.read(part.split, field, start, stop).astype(recipe.storage.dtype)
                for field in recipe.variables
            }
            parts.commit(recipe, store, part, values)
            return part

        generated = complete(recipe, root, make, progress=progress)
    text = recipe_text(recipe)
    if not target.is_file() or target.read_text() != text:
        write_atomically(target, text)
    return Imported(generated, recipe, target)


def _check_free(recipe: Recipe, target: Path) -> None:
    """Raises InputError where the name is another recipe's."""
    known = target if target.is_file() else yaml_files("data").get(recipe.name)
    if known is None or known.read_text() == recipe_text(recipe):
        return
    try:
        if Recipe.load(str(known)) == recipe:
            return
    except (SpecError, UnknownNameError):  # whatever it is, it is not ours
        pass
    raise InputError(
        f"there is another recipe {recipe.name!r} ({known}); choose another --name, or remove that file"
    )


def recipe_text(recipe: Recipe) -> str:
    """The recipe as its file holds it."""
    assert isinstance(recipe.problem, Recorded)
    plain = recipe.model_dump(
        mode="json", exclude={"name", "problem", "seed", "solver"}, exclude_defaults=True
    )
    plain["problem"] = {"name": "recorded", **recipe.problem.model_dump(mode="json", exclude_defaults=True)}
    keys = ("description", "problem", "num_points", "times", "samples", "storage")
    ordered = {key: plain[key] for key in keys if key in plain}
    text = yaml.safe_dump(ordered, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return f"# Imported by `{recipe.problem.command(recipe.name)}`.\n{text}"


class Source:
    """The samples of an import by split, with all that is known of them."""

    def __init__(
        self,
        contents: Mapping[str, Content],
        samples: Mapping[str, Values],
        axes: Mapping[str, tuple[Points, str]],
        options: Options,
        files: Mapping[str, str],
        arguments: Sequence[str],
    ) -> None:
        self.contents, self.samples = contents, samples  # by split; numbers in their content
        self.options, self.files, self.arguments = options, files, arguments
        self.first = next(iter(contents.values()))
        self.closed = {axis for axis, (_, boundary) in axes.items() if boundary == "closed"}
        self.axes, self.times = self._grid(axes)
        self.variables = {name: self._variable(name) for name in self.first.fields}

    @classmethod
    def of(cls, files: Sequence[Path], options: Options, opened: ExitStack) -> Source:
        """Open, join and divide into splits. Raises InputError and its like."""
        by_split = _files_of_splits(options.splits)
        if by_split and files:
            raise SpecError(
                f"--split names files, so {files[0]} has no split; give it one too, or give fractions "
                "(--split train=0.8,test=0.2)",
                source="--split",
                mistakes=[],
            )
        if not by_split and not files:
            raise SpecError("name a file to import", source="import", mistakes=[])
        groups = by_split or {"": list(files)}
        paths = list(dict.fromkeys(path for group in groups.values() for path in group))
        for path in paths:
            if not path.exists():
                raise InputError(f"no such file: {path}")
        names = _short_names(paths)
        contents: dict[str, Content] = {}
        grids = []
        for split, group in groups.items():
            resolved = [_resolve(_read(path, options.format, opened), options) for path in group]
            grids += [grid for _, grid in resolved]
            contents[split] = join([content for content, _ in resolved])
        axes = _agreed(grids)
        join(list(contents.values()))  # refuses splits that do not agree
        counts = {split: _count(content) for split, content in contents.items()}
        samples = {split: _order(count, options.shuffle) for split, count in counts.items()}
        if not by_split:
            everything, order = contents.pop(""), samples.pop("")
            bounds = _divide(options.splits or _default_splits(counts[""]), counts[""])
            contents = dict.fromkeys(bounds, everything)
            samples = {split: order[start:stop] for split, (start, stop) in bounds.items()}
        return cls(
            contents,
            samples,
            axes,
            options,
            {names[path]: _checksum(path) for path in paths},
            options.arguments({str(path): name for path, name in names.items()}),
        )

    def _grid(self, axes: Mapping[str, tuple[Points, str]]) -> tuple[dict[str, Axis], tuple[float, ...]]:
        found: dict[str, Axis] = {}
        times: tuple[float, ...] = (0.0,)
        sizes = {dim: n for one in self.first.fields.values() for dim, n in one.sizes.items()}
        for name, (points, boundary) in axes.items():
            if name == "time":
                times = _times(points, sizes[name])
                continue
            whole = sizes[name] - (name in self.closed)
            end: Boundary = "periodic" if name in self.closed else cast(Boundary, boundary)
            if isinstance(points, tuple):
                start, stop = points
            else:
                start, stop = ends(points[:whole], end, of=f"axis {name}")
            units = self.options.units.get(name, self.first.units.get(name, "dimensionless"))
            found[name] = Axis(start=start, stop=stop, num_points=whole, boundary=end, units=units)
        return found, times

    def _variable(self, name: str) -> Variable:
        one = self.first.fields[name]
        sizes = {
            dim: n for dim, n in one.sizes.items() if dim not in {"sample", "time", *self.axes}
        }  # fmt: skip
        order = ("time", *self.axes, *sizes)
        return Variable(
            dims=tuple(dim for dim in order if dim in one.sizes),
            sizes=sizes,
            units=self.options.units.get(name) or one.units or "dimensionless",
            long_name=one.long_name or name,
        )

    def read(self, split: str, name: str, start: int, stop: int, *, whole: bool = False) -> Values:
        """Samples of a split in the dtype of the file; `whole`: with the points that are left out."""
        dims = self.variables[name].dims
        values = self.contents[split].fields[name].read(self.samples[split][start:stop], dims)
        if whole or not self.closed & set(dims):
            return values
        return values[(slice(None), *[slice(None, -1 if dim in self.closed else None) for dim in dims])]

    def blocks(self, split: str, name: str) -> Iterator[Values]:
        """All samples of a split, as many at once as `BLOCK_BYTES` hold; with all points."""
        one = self.contents[split].fields[name]
        count = len(self.samples[split])
        total = max(int(np.prod(one.shape, dtype=np.int64)) * np.dtype(one.values.dtype).itemsize, 1)
        step = count if "sample" not in one.sizes else max(1, BLOCK_BYTES * one.sizes["sample"] // total)
        for start in range(0, count, step):
            yield self.read(split, name, start, min(start + step, count), whole=True)

    def recipe(self, name: str) -> Recipe:
        """The dataset to be, after a look at every value. Raises NonFiniteError and InputError."""
        doubles = [field for field in self.variables if self._needs_double(field)]
        self._check_ends()
        dtype = "float64" if doubles else "float32"
        shared = tuple(field for field, one in self.first.fields.items() if "sample" not in one.sizes)
        problem = Recorded(
            format=self.first.format,
            files=dict(self.files),
            options=tuple(self.arguments),
            variables=self.variables,
            grid=self.axes,
            time_units=self.options.units.get("time") or self.first.units.get("time", "dimensionless"),
            dtypes={
                field: one.dtype or np.dtype(one.values.dtype).name
                for field, one in self.first.fields.items()
            },
            shared=shared,
            parameters=self.first.parameters,
            conditions=() if self.closed else self.first.conditions,
        )
        samples = {split: len(numbers) for split, numbers in self.samples.items()}
        sizes = {"time": len(self.times), **{axis: its.num_points for axis, its in self.axes.items()}}
        largest = max(
            np.prod([{**sizes, **one.sizes}[dim] for dim in one.dims], dtype=np.int64)
            for one in self.variables.values()
        )
        bytes_ = int(largest) * np.dtype(dtype).itemsize
        part = min(PART_SAMPLES, max(PART_BYTES // max(bytes_, 1), 1), max(samples.values()))
        return Recipe.parse(
            {
                "name": name,
                "description": f"Imported from {', '.join(self.files)}",
                "problem": {"name": "recorded", **problem.dump()},
                "num_points": [axis.num_points for axis in self.axes.values()],
                "times": list(self.times),
                "samples": samples,
                "storage": {"dtype": dtype, "part": 2 ** int(np.log2(part))},
            },
            source="import",
        )

    def _needs_double(self, name: str) -> bool:
        """Whether single precision would change a value. Raises where double would too, or one is not finite."""
        dtype = np.dtype(self.first.fields[name].values.dtype)
        largest = 0
        for split in self.contents:
            start = 0
            for values in self.blocks(split, name):
                if not len(values):
                    continue
                if dtype.kind == "f":
                    self._check_finite(split, name, values, start)
                elif dtype.kind in "iu":
                    largest = max(largest, int(values.max()), -int(values.min()))
                start += len(values)
        if largest > 2**53:
            raise InputError(
                f"{name!r} holds whole numbers up to {largest}, which double precision does not tell apart; "
                "divide them into two fields, or scale them"
            )
        return dtype == np.float64 or largest > 2**24

    def _check_finite(self, split: str, name: str, values: Values, start: int) -> None:
        finite = np.isfinite(values).reshape(len(values), -1).all(1)
        if finite.all():
            return
        bad = (start + np.flatnonzero(~finite)).tolist()
        numbers = self.samples[split][bad].tolist()
        where = " and ".join(dict.fromkeys(path.name for path in (self.contents[split].path,)))
        raise NonFiniteError(
            f"{name!r} is not finite in {split} samples {parts.ranges(bad)}"
            + (f" (numbers {parts.ranges(sorted(numbers))} of {where})" if numbers != bad else f" of {where}")
            + "; leave these samples out before you import",
            split=split,
            samples=bad,
        )

    def _check_ends(self) -> None:
        """Refuse a periodic axis that holds both of its ends, and a closed one whose ends differ."""
        for axis, its in self.axes.items():
            if its.boundary != "periodic":
                continue
            equal, varies = True, False
            for name, variable in self.variables.items():
                if axis not in variable.dims:
                    continue
                place = 1 + variable.dims.index(axis)
                for split in self.contents:
                    for values in self.blocks(split, name):
                        first, second, last = (values.take(i, place) for i in (0, 1, -1))
                        equal &= np.array_equal(first, last)
                        varies |= not np.array_equal(first, second)
            if axis in self.closed and not equal:
                raise GridError(
                    f"axis {axis} is called closed, but the values at its last point are not those at its "
                    f"first; use --coordinate {axis}=…:periodic, or …:open"
                )
            if axis not in self.closed and equal and varies:
                raise GridError(
                    f"axis {axis} is called periodic, but its last point repeats its first in every sample; a "
                    f"periodic axis leaves out its end: --coordinate {axis}=…:closed leaves that point out"
                )


def _read(path: Path, format: str | None, opened: ExitStack) -> Content:
    chosen = format or format_of(path)
    content = READERS[chosen](path, opened)
    if not content.fields:
        raise InputError(f"{path.name} ({chosen}) holds no field")
    return content


def format_of(path: Path) -> Format:
    """What a file is, by its content. Raises InputError that says what was found."""
    if path.is_dir():
        if (path / "zarr.json").is_file() or (path / "manifest.json").is_file():
            raise InputError(f"{path} is a store already; `dlde data inspect {path}` looks at it")
        return "images"
    with path.open("rb") as file:
        head = file.read(8)
    if head == b"\x89HDF\r\n\x1a\n":
        with ExitStack() as stack:
            found = hdf5.opened(path, stack)
            if the_well.holds(found):
                return "the-well"
            if pdebench.holds(found):
                return "pdebench"
            if "_NCProperties" in found.attrs or path.suffix in (".nc", ".nc4") or _has_scales(found):
                return "netcdf"
            raise InputError(
                f"{path.name} is HDF5, but of no known layout (The Well, PDEBench, NetCDF); it holds "
                f"{hdf5.contents(found)}. Write its arrays to a .npz: numpy.savez(FILE, u=file['…'][()])"
            )
    if head[:3] == b"CDF":
        return "netcdf"
    if head[:2] == b"PK" and path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return "graph" if graphs.holds(archive.files) else "npz"
    if images.is_idx(path):
        return "idx"
    if tarfile.is_tarfile(path):
        return "images"
    raise InputError(
        f"{path.name} is of no known format ({', '.join(READERS)}); of other kinds (.mat, .pt, .csv) write the "
        "arrays to a .npz: numpy.savez(FILE, u=u, x=x)"
    )


def _has_scales(file: h5py.File) -> bool:
    return any(h5py.h5ds.is_scale(one.id) for one in hdf5.datasets(file).values())


def _resolve(content: Content, options: Options) -> tuple[Content, dict[str, tuple[Points, str]]]:
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
            found = _axis(content, dim, length, name, arrays, options)
            if found is not None:
                axes[dim] = found
    for axis in options.coordinates:
        if axis not in axes:
            raise UnknownNameError(
                f"--coordinate {axis}: no field has such a dimension; {nearest(axis, axes)}", name=axis
            )
    _check_sizes(content.path, fields)
    return replace(content, fields=fields), _ordered(axes, options)


def _dims_of(fields: Mapping[str, Field], options: Options) -> set[str]:
    named = {dim for dims in options.dims.values() for dim in dims}
    return named | {dim for one in fields.values() for dim in one.dims or ()} | {*options.coordinates, "time"}


def _ordered(axes: dict[str, tuple[Points, str]], options: Options) -> dict[str, tuple[Points, str]]:
    """x before y before z; others as they came."""
    known = [axis for axis in SPACE if axis in axes]
    if set(known) == set(axes) - {"time"} and options.dims:
        return {axis: axes[axis] for axis in (*(["time"] if "time" in axes else []), *known)}
    return axes


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
            f"{path.name} does not say what the dimensions of {name!r}, of shape {field.shape}, are; say it by "
            f"--dims {name}=…, such as --dims {name}={example} (or choose fields by --map NEW=OLD)"
        )
    if len(given) != len(field.shape) or len(set(given)) != len(given):
        raise InputError(
            f"{path.name}: {name!r} has shape {field.shape}, but dimensions ({', '.join(given)}); give one name "
            "for each, all different"
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
        if len(numbers) == 2 and numbers[0] < numbers[1]:
            return (numbers[0], numbers[1]), boundary
        if len(words) != 1 or numbers:
            raise SpecError(
                f"--coordinate {dim}={text}: expected ARRAY or START:STOP with START < STOP, then perhaps one of "
                f":{', :'.join(known)}",
                source="--coordinate",
                mistakes=[text],
            )
        name = words[0]
        if name not in arrays:
            raise UnknownNameError(
                f"--coordinate {dim}={text}: {content.path.name} has no array {name!r}; {nearest(name, arrays)}",
                name=name,
            )
    if name in arrays:
        found = line(arrays[name][()], length)
        if found is None and (dim in options.coordinates or name in content.coordinates):
            raise GridError(
                f"{content.path.name}: {name!r}, of shape {np.shape(arrays[name])}, does not give {length} points "
                f"along {dim!r} of {field!r}; name another array, or the ends: --coordinate {dim}=0:1"
            )
    if found is None and dim in ("time", *SPACE):
        raise GridError(
            f"{content.path.name} has no coordinate for {dim!r} of {field!r}; name the array that holds it "
            f"(--coordinate {dim}=ARRAY) or its ends (--coordinate {dim}=0:1, or {dim}=0:1:periodic)"
        )
    return None if found is None else (found, boundary)


def _check_sizes(path: Path, fields: Mapping[str, Field]) -> None:
    """Raises InputError where a dimension has two sizes."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, one in fields.items():
        for dim, size in one.sizes.items():
            known, other = sizes.setdefault(dim, (size, name))
            if known != size:
                raise InputError(
                    f"{path.name}: {dim!r} has {size} entries in {name!r} of shape {one.shape}, but {known} in "
                    f"{other!r}; choose fields that go together by --map NEW=OLD, or name dimensions by --dims"
                )


def _agreed(grids: Sequence[dict[str, tuple[Points, str]]]) -> dict[str, tuple[Points, str]]:
    first: dict[str, tuple[Points, str]] = {}
    for grid in grids:
        for axis, (points, boundary) in grid.items():
            known, its = first.setdefault(axis, (points, boundary))
            if its != boundary or not np.array_equal(np.asarray(known), np.asarray(points)):
                raise GridError(f"axis {axis} is not the same in all files; one dataset has one grid")
    return first


def _times(points: Points, count: int) -> tuple[float, ...]:
    values = np.linspace(*points, count) if isinstance(points, tuple) else points.astype(np.float64)
    if not np.isfinite(values).all() or (np.diff(values) <= 0).any() or values[0] < 0:
        raise GridError(
            f"times must be finite, not negative, and increase, but go from {values[0]:g} to {values[-1]:g}"
            f"{'' if (np.diff(values) > 0).all() else ' with a step back'}; give others by "
            "--coordinate time=START:STOP"
        )
    return tuple(values.tolist())


def _count(content: Content) -> int:
    counts = {one.sizes["sample"] for one in content.fields.values() if "sample" in one.sizes}
    if not counts:
        raise InputError(f"{content.path.name}: no field has the dimension 'sample'; name it by --dims")
    count = counts.pop()
    if not count:
        raise InputError(f"{content.path.name} holds no sample")
    return count


def _order(count: int, seed: int | None) -> Values:
    return np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)


def _default_splits(count: int) -> tuple[str, ...]:
    return DEFAULT_SPLITS if count > 1 else ("train=1",)


def _files_of_splits(texts: Sequence[str]) -> dict[str, list[Path]]:
    """Split -> its files, where the splits name files. Raises SpecError where only some do."""
    found: dict[str, list[Path]] = {}
    for text in texts:
        split, separator, value = text.partition("=")
        if not (separator and split and value):
            raise _wrong_split(text)
        if re.fullmatch(r"[\w=.,\s]*", value) and _is_number(value.split(",")[0]):
            continue
        found.setdefault(split.strip(), []).append(Path(value))
    if found and len(texts) != sum(map(len, found.values())):
        raise SpecError(
            "--split: some name files and others numbers; give a file for each, or a number for each",
            source="--split",
            mistakes=list(texts),
        )
    return found


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*", text) is not None


def _wrong_split(text: str) -> SpecError:
    return SpecError(
        f"--split {text}: expected fractions (train=0.8,test=0.2), counts (train=800,test=200) or files "
        "(train=FILE)",
        source="--split",
        mistakes=[text],
    )


def _divide(texts: Sequence[str], count: int) -> dict[str, tuple[int, int]]:
    """Split -> first and last-but-one of its samples, one split after the other."""
    wanted: dict[str, str] = {}
    for text in (part for text in texts for part in text.split(",")):
        split, separator, value = (part.strip() for part in text.partition("="))
        if not (separator and split and _is_number(value)) or split in wanted:
            raise _wrong_split(text)
        wanted[split] = value
    fractions = ["." in value for value in wanted.values()]
    numbers = [float(value) for value in wanted.values()]
    if any(fractions) and not all(fractions):
        raise _wrong_split(",".join(texts))
    if all(fractions):
        if abs(sum(numbers) - 1) > 1e-9:
            raise SpecError(
                f"--split {','.join(texts)}: fractions sum to {sum(numbers):g}, expected 1",
                source="--split",
                mistakes=list(texts),
            )
        bounds = [round(float(edge) * count) for edge in np.cumsum(numbers)]
    else:
        bounds = [int(edge) for edge in np.cumsum(numbers)]
        if bounds[-1] > count:
            raise SpecError(
                f"--split {','.join(texts)}: asks for {bounds[-1]} samples, but there are {count}",
                source="--split",
                mistakes=list(texts),
            )
    divided = dict(zip(wanted, zip([0, *bounds[:-1]], bounds, strict=True), strict=True))
    empty = [split for split, (start, stop) in divided.items() if start == stop]
    if empty:
        raise SpecError(
            f"--split {','.join(texts)}: {empty[0]} would have none of the {count} samples",
            source="--split",
            mistakes=list(texts),
        )
    return divided


def _short_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Each file's name, with as many of its folders as tell it from the others."""
    for depth in range(1, max(len(path.resolve().parts) for path in paths) + 1):
        names = {path: "/".join(path.resolve().parts[-depth:]) for path in paths}
        if len(set(names.values())) == len({path.resolve() for path in paths}):
            break
    return names


def _checksum(path: Path) -> str:
    """SHA-256 (hex): of a file, or of a folder's files and their names."""
    if not path.is_dir():
        return sha256_of(path)
    digest = hashlib.sha256()
    for member in sorted(path.rglob("*")):
        if member.is_file():
            digest.update(f"{member.relative_to(path).as_posix()}\0{sha256_of(member)}\n".encode())
    return digest.hexdigest()
