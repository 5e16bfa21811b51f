"""All samples of an import by split, looked at from end to end before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import numpy as np

from dlde.datasets import parts
from dlde.datasets.bridges import formats
from dlde.datasets.bridges.content import Boundary, Content, Values, ends, join
from dlde.datasets.bridges.meaning import Points, agreed, check_sizes, resolve, times
from dlde.datasets.bridges.options import Options, default_splits, divide, files_of_splits
from dlde.datasets.recipe import Recipe
from dlde.errors import GridError, InputError, NonFiniteError, SpecError
from dlde.files import sha256_of
from dlde.problem import Axis, Variable

BLOCK_BYTES = 2**26  # read at once while a file is checked
LARGEST = 1e140  # of a value: squares are summed over all samples
PART_BYTES, PART_SAMPLES = 2**25, 1024  # most of a part of the store


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
        by_split = files_of_splits(options.splits)
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
            resolved = [resolve(formats.read(path, options.format, opened), options) for path in group]
            grids += [grid for _, grid in resolved]
            contents[split] = join([content for content, _ in resolved])
            check_sizes(group[-1], contents[split].fields)
        axes = agreed(grids)
        join(list(contents.values()))  # refuses splits that do not agree
        counts = {split: _count(content) for split, content in contents.items()}
        samples = {split: _order(count, options.shuffle) for split, count in counts.items()}
        if not by_split:
            everything, order = contents.pop(""), samples.pop("")
            bounds = divide(options.splits or default_splits(counts[""]), counts[""])
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
        stored: tuple[float, ...] = (0.0,)
        sizes = {dim: n for one in self.first.fields.values() for dim, n in one.sizes.items()}
        for name, (points, boundary) in axes.items():
            if name == "time":
                stored = times(points, sizes[name])
                continue
            whole = sizes[name] - (name in self.closed)
            end: Boundary = "periodic" if name in self.closed else cast(Boundary, boundary)
            if isinstance(points, tuple):
                start, stop = points
            else:
                kind: Boundary = "open" if name in self.closed else end
                start, stop = ends(points, kind, of=f"axis {name}", stop=self.first.stops.get(name))
            units = self.options.units.get(name, self.first.units.get(name, "dimensionless"))
            found[name] = Axis(start=start, stop=stop, num_points=whole, boundary=end, units=units)
        return found, stored

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
        problem = {
            "name": "recorded",
            "format": self.first.format,
            "files": dict(self.files),
            "options": list(self.arguments),
            "variables": {field: one.dump() for field, one in self.variables.items()},
            "grid": {axis: its.dump() for axis, its in self.axes.items()},
            "time_units": self.options.units.get("time") or self.first.units.get("time", "dimensionless"),
            "dtypes": {
                field: one.dtype or np.dtype(one.values.dtype).name
                for field, one in self.first.fields.items()
            },
            "shared": [field for field, one in self.first.fields.items() if "sample" not in one.sizes],
            "parameters": self.first.parameters,
            "conditions": [] if self.closed else [one.dump() for one in self.first.conditions],
        }
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
                "problem": problem,
                "num_points": [axis.num_points for axis in self.axes.values()],
                "times": list(self.times),
                "samples": samples,
                "storage": {"dtype": dtype, "part": 2 ** int(np.log2(part))},
            },
            source="import",
        )

    def _needs_double(self, name: str) -> bool:
        """Whether single precision would change a value.

        Raises InputError where double would too, NonFiniteError for what is not finite.
        """
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
        with np.errstate(invalid="ignore"):
            sizes = np.abs(values).reshape(len(values), -1).max(1)
        finite = np.isfinite(sizes)
        if finite.all():
            if (largest := float(sizes.max())) > LARGEST:
                raise InputError(
                    f"{name!r} has values up to {largest:.3g}, whose squares are beyond double precision, so "
                    f"it has no statistics; scale it below {LARGEST:g}, in other --units"
                )
            return
        bad = (start + np.flatnonzero(~finite)).tolist()
        numbers = self.samples[split][bad].tolist()
        where = self.contents[split].path.name
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
                    f"axis {axis} is called periodic, but its last point repeats its first in every sample; "
                    f"a periodic axis leaves out its end: --coordinate {axis}=…:closed leaves that point out"
                )


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
