"""Answers of a model to a file of inputs: .npz, NetCDF or Zarr in, one of them out, batch by batch.

What a file holds is looked at before any of it is trusted: no pickle is opened, no link is followed.
An output appears under its name when it is whole, and not before.
"""

from __future__ import annotations

import collections
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlde import __version__, memory
from dlde.errors import InputError, nearest
from dlde.files import unwritable_named
from dlde.method import ArraySpec, Operation
from dlde.registry import package
from dlde.registry.registry import locate
from dlde.serving import wire

Array = NDArray[Any]

BATCH_VALUES = 1 << 20  # input values that are answered at once, where nobody says how many
BATCH_ROWS = 1024
# What a Zarr store may name to be decoded by; the pickles and the like that numcodecs knows are not here.
CODECS = {
    "blosc", "bytes", "bz2", "crc32c", "crc32", "delta", "endian", "fixedscaleoffset", "gzip", "lz4", "lzma",
    "sharding_indexed", "shuffle", "transpose", "vlen-utf8", "zlib", "zstd",
}  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """What `predict` wrote."""

    model: str
    digest: str
    operation: str
    rows: int  # of the first dimension
    batches: int
    path: str
    outputs: dict[str, list[int]]  # name -> shape
    warnings: list[str]

    def dump(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Given:
    """What a file offers: arrays that are read in part, with what is known of them."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str, slice], Array]  # of an array, a part along its first dimension
    dims: dict[str, tuple[str, ...]]  # empty where the file names none
    units: dict[str, str]
    coordinates: dict[str, Array]  # by dimension
    options: dict[str, Any]


def predict(
    reference: str,
    source: Path,
    target: Path,
    root: Path,
    *,
    operation: str | None = None,
    options: Mapping[str, Any] | None = None,
    select: Mapping[str, int] | None = None,
    batch: int | None = None,
    workers: int | None = None,
    force: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    verbose: bool = False,
) -> Prediction:
    """Ask the model that `reference` names everything in `source`; the answers are in `target`.

    `select` takes one entry of a named dimension of the file, such as {"time": 0}. Where an operation's
    rows are independent, `batch` of them are asked at once, by `workers` actors of Ray where given;
    otherwise all together. Raises InputError, with nothing written, for what does not fit.
    """
    source, target = Path(source), Path(target)
    write = _writer(target)
    if target.exists() and not force:
        raise InputError(f"{target} exists already; name another file, or say --force to replace it")
    folder, version = locate(root, reference)
    model = package.read(folder)
    name = operation or ("predict" if "predict" in model.operations else next(iter(model.operations)))
    expected = model.operation(name)
    with _opened(source, select or {}) as given:
        places = _places(given, expected)
        chosen = expected.chosen({**given.options, **(options or {})})
        rows = _rows(given, expected, places)
        coordinates = _coordinates(given, expected, places)
        size = rows if expected.rows is None else min(rows, batch or _batch(given, places, rows))
        parts = [slice(start, min(start + size, rows)) for start in range(0, rows, max(size, 1))] or [
            slice(0, 0)
        ]
        question = partial(_question, given, expected, places)
        answers = _answers(folder, name, coordinates, chosen, question, parts, workers, verbose)
        about = {
            "model": reference if version is None else f"{version.name}/{version.version}",
            "model_digest": model.digest,
            "operation": name,
            "dlde": __version__,
        }
        partial_target = target.with_name(f".{target.name}.{os.getpid()}.partial{target.suffix}")
        _sweep(target)
        told: list[str] = []
        shapes: dict[str, list[int]] = {}
        try:
            with unwritable_named(target), write(partial_target, about) as sink:
                for part, (outputs, texts) in zip(parts, answers, strict=True):
                    for key, tensor in outputs.items():
                        divided = expected.rows is not None
                        whole = (rows, *tensor.shape[1:]) if divided else tuple(tensor.shape)
                        shapes[key] = list(whole)
                        dims = _named(expected.outputs[key], places, given)
                        sink.put(
                            key, tensor.numpy(), part if divided else None, whole, dims, expected.outputs[key]
                        )
                    told += (
                        texts
                        if len(parts) == 1
                        else [f"rows {part.start} to {part.stop - 1}: {t}" for t in texts]
                    )
                    if progress is not None:
                        progress(part.stop, rows, "")
                sink.coordinates(given.coordinates)
            _replace(partial_target, target)
        finally:
            _discard(partial_target)
    return Prediction(
        model=about["model"],
        digest=model.digest,
        operation=name,
        rows=rows,
        batches=len(parts),
        path=str(target),
        outputs=shapes,
        warnings=told,
    )


def _answers(
    folder: Path,
    operation: str,
    coordinates: Mapping[str, Tensor],
    options: Mapping[str, Any],
    question: Callable[[slice], dict[str, Tensor]],
    parts: list[slice],
    workers: int | None,
    verbose: bool,
) -> Iterator[tuple[dict[str, Tensor], list[str]]]:
    """The answers in the order of the parts; Ray's workers are kept two parts ahead of us each."""
    if workers is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        ask = _answerer(folder, operation, dict(coordinates), dict(options), device)
        with memory.kept():
            yield from (ask(question(part)) for part in parts)
        return
    from dlde import ray_session
    from dlde.training.rollouts import RayActors

    with ray_session.session(num_cpus=max(workers, os.cpu_count() or 1), verbose=verbose):
        make = partial(_answerer, folder, operation, dict(coordinates), dict(options), "cpu")
        actors = RayActors(make, workers)
        waiting: collections.deque[Callable[[], Any]] = collections.deque()
        rest = iter(parts)
        for part in rest:
            waiting.append(actors.submit(question(part)))
            if len(waiting) == 2 * workers:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()


def _answerer(
    folder: Path, operation: str, coordinates: dict[str, Tensor], options: dict[str, Any], device: str
) -> Callable[[dict[str, Tensor]], tuple[dict[str, Tensor], list[str]]]:
    model = package.read(folder, device=device)
    return lambda inputs: model.answer(operation, inputs, coordinates, options)


def _places(given: Given, expected: Operation) -> dict[str, str]:
    """Input -> the file's array: of the same name, or the only one for the only input."""
    if set(expected.inputs) <= set(given.shapes):
        return {name: name for name in expected.inputs}
    if len(expected.inputs) == len(given.shapes) == 1:
        return {next(iter(expected.inputs)): next(iter(given.shapes))}
    lacking = sorted(set(expected.inputs) - set(given.shapes))
    hints = "; ".join(f"{name!r} is missing ({nearest(name, given.shapes)})" for name in lacking)
    raise InputError(
        f"the file holds {', '.join(given.shapes) or 'no arrays'}: input {hints}", mistakes=lacking
    )


def _rows(given: Given, expected: Operation, places: Mapping[str, str]) -> int:
    mistakes = []
    counts = {}
    for name, place in places.items():
        spec, shape = expected.inputs[name], given.shapes[place]
        if _missing_channel(spec, shape):
            shape = (*shape, 1)
        if len(shape) != len(spec.dims):
            mistakes.append(f"input {name!r} has shape {given.shapes[place]}, expected {spec.describe()}")
        elif shape:
            counts[name] = shape[0]
            for number, (dim, size) in enumerate(zip(spec.dims, shape, strict=True)):
                if (dim.size is not None and size != dim.size) or (number and size < dim.minimum):
                    mistakes.append(
                        f"input {name!r} has shape {given.shapes[place]}, expected {spec.describe()}: "
                        f"{dim.name} is {size}"
                    )
        units = given.units.get(place)
        if units is not None and not _same_units(units, spec.units):
            mistakes.append(
                f"input {name!r} is in {units!r}, the model expects {spec.units!r}; convert it first"
            )
    if not mistakes and expected.rows is not None and len(set(counts.values())) > 1:
        shown = ", ".join(f"{count} in {name!r}" for name, count in counts.items())
        mistakes.append(f"{expected.rows} differs: {shown}")
    if not mistakes and 0 in counts.values():
        mistakes.append("the file holds no rows to answer")
    if mistakes:
        raise InputError("; ".join(mistakes), mistakes=mistakes)
    return next(iter(counts.values()), 1)


def _missing_channel(spec: ArraySpec, shape: tuple[int, ...]) -> bool:
    """A last dimension of one entry need not be written out."""
    return len(shape) == len(spec.dims) - 1 and bool(spec.dims) and spec.dims[-1].size == 1


def _same_units(given: str, expected: str) -> bool:
    plain = {"", "1", "dimensionless", "none"}
    return given.strip() == expected.strip() or (given.strip().lower() in plain and expected in plain)


def _batch(given: Given, places: Mapping[str, str], rows: int) -> int:
    values = max(math.prod(given.shapes[place]) for place in places.values()) / rows
    return max(1, min(BATCH_ROWS, int(BATCH_VALUES / values)))


def _question(given: Given, expected: Operation, places: Mapping[str, str], part: slice) -> dict[str, Tensor]:
    question = {}
    for name, place in places.items():
        array = np.asarray(given.read(place, part if expected.rows is not None else slice(None)))
        if array.dtype.kind not in "fiu":
            raise InputError(f"input {name!r} holds {array.dtype}, expected numbers", mistakes=[name])
        if _missing_channel(expected.inputs[name], array.shape):
            array = array[..., None]
        kind = (
            np.int64 if array.dtype.kind in "iu" else np.float64 if array.dtype.itemsize > 4 else np.float32
        )
        question[name] = torch.from_numpy(np.array(array, dtype=kind))  # a copy: byte order, read-only maps
    return question


def _coordinates(given: Given, expected: Operation, places: Mapping[str, str]) -> dict[str, Tensor]:
    """The file's coordinates of axes that the operation checks."""
    found = {}
    for name, place in places.items():
        for number, dim in enumerate(expected.inputs[name].dims):
            named = given.dims.get(place, ())
            points = given.coordinates.get(named[number] if number < len(named) else dim.name)
            if dim.axis is not None and points is not None:
                found[dim.name] = torch.from_numpy(np.array(points, dtype=np.float64))
    return found


def _named(spec: ArraySpec, places: Mapping[str, str], given: Given) -> tuple[str, ...]:
    """Names of an output's dimensions: the file's own for rows, the operation's for the rest."""
    names = [dim.name for dim in spec.dims]
    first = next((given.dims[place] for place in places.values() if given.dims.get(place)), ())
    return (first[0], *names[1:]) if first and names else tuple(names)


# --- files that are read


@contextmanager
def _opened(path: Path, select: Mapping[str, int]) -> Iterator[Given]:
    kind = path.suffix.lower()
    if not path.exists():
        raise InputError(f"no such file: {path}")
    if path.is_symlink():
        raise InputError(f"{path} is a link; name the file itself")
    if path.is_dir():
        with _dataset(path, "zarr") as given:
            yield _selected(given, select)
    elif kind == ".npz":
        question = wire.read_npz(path.read_bytes(), limit=1 << 40)
        arrays = {name: tensor.numpy() for name, tensor in question.inputs.items()}
        if select:
            raise InputError(
                f"--select {', '.join(select)}: an .npz names no dimensions; choose before writing it"
            )
        yield Given(
            shapes={name: array.shape for name, array in arrays.items()},
            read=lambda name, part: arrays[name][part],
            dims={},
            units={},
            coordinates={name: tensor.numpy() for name, tensor in question.coordinates.items()},
            options=question.options,
        )
    elif kind in (".nc", ".nc4", ".cdf", ".h5"):
        with path.open("rb") as file:
            magic = file.read(8)
        engine = "h5netcdf" if magic.startswith(b"\x89HDF") else "scipy" if magic.startswith(b"CDF") else None
        if engine is None:
            raise InputError(f"{path} is not NetCDF: it begins with {magic!r}")
        with _dataset(path, engine) as given:
            yield _selected(given, select)
    else:
        raise InputError(f"{path}: expected a Zarr folder, or a file .npz, .nc or .nc4")


@contextmanager
def _dataset(path: Path, engine: str) -> Iterator[Any]:
    import xarray as xr

    if engine == "zarr":
        _refuse_foreign_zarr(path)
    elif engine == "h5netcdf":
        _refuse_foreign_hdf5(path)
    options: dict[str, Any] = {"consolidated": False} if engine == "zarr" else {}
    try:
        dataset = xr.open_dataset(path, engine=engine, chunks=None, decode_times=False, **options)
    except Exception as error:  # what the libraries raise on damaged files is not documented
        raise InputError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
    with dataset:
        yield dataset


def _selected(dataset: Any, select: Mapping[str, int]) -> Given:
    for name, index in select.items():
        if name not in dataset.sizes:
            raise InputError(
                f"--select {name}={index}: no dimension {name!r}; {nearest(name, dataset.sizes)}"
            )
        if not -dataset.sizes[name] <= index < dataset.sizes[name]:
            raise InputError(f"--select {name}={index}: it has {dataset.sizes[name]} entries")
    chosen = dataset.isel(dict(select))

    def read(name: str, part: slice) -> Array:
        variable = chosen[name]
        try:
            array: Array = (variable.isel({variable.dims[0]: part}) if variable.dims else variable).values
        except Exception as error:  # see above: truncated files tell only here
            raise InputError(f"array {name!r} cannot be read: {type(error).__name__}: {error}") from None
        return array

    return Given(
        shapes={name: variable.shape for name, variable in chosen.data_vars.items()},
        read=read,
        dims={name: tuple(map(str, variable.dims)) for name, variable in chosen.data_vars.items()},
        units={
            name: str(variable.attrs["units"])
            for name, variable in chosen.data_vars.items()
            if "units" in variable.attrs
        },
        coordinates={
            str(name): np.asarray(variable.values)
            for name, variable in chosen.coords.items()
            if variable.dims == (name,)
        },
        options={},
    )


def _refuse_foreign_zarr(path: Path) -> None:
    """Links, objects and decoders that run code. Raises InputError."""
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            if (Path(folder) / name).is_symlink():
                raise InputError(f"{path}: {Path(folder, name).relative_to(path)} is a link; refused")
        for name in {"zarr.json", ".zarray"} & set(files):
            place = Path(folder) / name
            try:
                document = json.loads(place.read_text())
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: {place.relative_to(path)} is not valid JSON: {error}") from None
            named = set(_codec_names(document))
            unknown = sorted(name for name in named if name.removeprefix("numcodecs.") not in CODECS)
            if unknown or str(document.get("dtype", "")).startswith("|O"):
                what = f"codec {', '.join(unknown)}" if unknown else "object values"
                raise InputError(f"{path}: {place.parent.relative_to(path)} has {what}; refused")


def _codec_names(document: Any) -> Iterator[str]:
    """What an array's metadata, of Zarr 2 or 3, names to decode by."""
    if not isinstance(document, Mapping):
        return
    for codec in (*(document.get("filters") or ()), document.get("compressor") or {}):
        if isinstance(codec, Mapping) and codec:
            yield str(codec.get("id", codec.get("name")))
    for codec in document.get("codecs") or ():
        if isinstance(codec, Mapping):
            yield str(codec.get("name"))
            inner = codec.get("configuration") or {}
            yield from _codec_names(inner)
            yield from _codec_names({"codecs": inner.get("index_codecs") or ()})


def _refuse_foreign_hdf5(path: Path) -> None:
    """Links and storage outside the file. Raises InputError."""
    import h5py

    def look(group: Any, place: str) -> None:
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise InputError(f"{path}: {place}{name} is a link; refused")
            inner = group[name]
            if isinstance(inner, h5py.Group):
                look(inner, f"{place}{name}/")
            elif isinstance(inner, h5py.Dataset) and (inner.external or inner.is_virtual):
                raise InputError(f"{path}: {place}{name} lies outside the file; refused")

    try:
        with h5py.File(path, "r") as file:
            look(file, "")
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


# --- files that are written


class _Sink(Protocol):
    def put(
        self,
        name: str,
        values: Array,
        part: slice | None,
        shape: tuple[int, ...],
        dims: tuple[str, ...],
        spec: ArraySpec,
    ) -> None:
        """Write values to a part of the rows; None: all of it."""

    def coordinates(self, known: Mapping[str, Array]) -> None:
        """Write those of the dimensions that the outputs have."""


def _writer(path: Path) -> Callable[[Path, Mapping[str, str]], Any]:
    kinds: dict[str, Any] = {".npz": _Npz, ".nc": _NetCDF, ".zarr": _Zarr}
    if path.suffix.lower() not in kinds:
        raise InputError(f"{path}: an output ends in .npz, .nc or .zarr")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    kind = kinds[path.suffix.lower()]

    @contextmanager
    def opened(place: Path, about: Mapping[str, str]) -> Iterator[_Sink]:
        with ExitStack() as stack:
            yield kind(place, about, stack)

    return opened


class _Npz:
    """Held in memory to the end, as an archive cannot be written in parts."""

    def __init__(self, path: Path, about: Mapping[str, str], stack: ExitStack) -> None:
        self.arrays: dict[str, Any] = {}
        stack.push(lambda kind, *rest: None if kind else np.savez(path, **self.arrays))

    def put(self, name: str, values: Array, part: Any, shape: Any, dims: Any, spec: ArraySpec) -> None:
        if name not in self.arrays:
            self.arrays[name] = np.empty(shape, values.dtype)
        self.arrays[name][part or slice(None)] = values

    def coordinates(self, known: Mapping[str, Array]) -> None:
        numbers = {name: points for name, points in known.items() if points.dtype.kind in "fiu"}
        self.arrays.update({f"{wire.COORDINATE}{name}": points for name, points in numbers.items()})


class _NetCDF:
    def __init__(self, path: Path, about: Mapping[str, str], stack: ExitStack) -> None:
        import h5netcdf

        self.file = stack.enter_context(h5netcdf.File(path, "w"))
        self.file.attrs.update(about)

    def put(
        self, name: str, values: Array, part: slice | None, shape: tuple[int, ...], dims: Any, spec: ArraySpec
    ) -> None:
        if name not in self.file.variables:
            for dim, size in zip(dims, shape, strict=True):
                if dim not in self.file.dimensions:
                    self.file.dimensions[dim] = size
            variable = self.file.create_variable(name, dims, values.dtype)
            variable.attrs.update({"units": spec.units, "long_name": spec.long_name})
        self.file.variables[name][part if part is not None else ...] = values

    def coordinates(self, known: Mapping[str, Array]) -> None:
        for name, points in known.items():
            dimension = self.file.dimensions.get(name)
            if dimension is not None and dimension.size == len(points) and points.dtype.kind in "fiu":
                self.file.create_variable(name, (name,), points.dtype)[...] = points


class _Zarr:
    def __init__(self, path: Path, about: Mapping[str, str], stack: ExitStack) -> None:
        import zarr

        self.group = zarr.open_group(path, mode="w", zarr_format=3)
        self.group.attrs.update(about)
        self.sizes: dict[str, int] = {}

    def put(
        self, name: str, values: Array, part: slice | None, shape: tuple[int, ...], dims: Any, spec: ArraySpec
    ) -> None:
        if name not in self.group:
            self.sizes.update(zip(dims, shape, strict=True))
            self.group.create_array(
                name,
                shape=shape,
                dtype=values.dtype,
                chunks=values.shape,  # of the first part: no two parts share a chunk
                dimension_names=dims,
                attributes={"units": spec.units, "long_name": spec.long_name},
            )
        self.group[name][part if part is not None else ...] = values

    def coordinates(self, known: Mapping[str, Array]) -> None:
        for name, points in known.items():
            if self.sizes.get(name) == len(points) and points.dtype.kind in "fiu":
                array = self.group.create_array(
                    name, shape=points.shape, dtype=points.dtype, dimension_names=(name,)
                )
                array[...] = points


def _replace(partial_target: Path, target: Path) -> None:
    """Put the whole output under its name; one that is already there makes room."""
    if not partial_target.is_dir() and not target.is_dir():
        partial_target.replace(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(old)
    partial_target.rename(target)
    _discard(old)


def _sweep(target: Path) -> None:
    """Remove what processes that were killed have left beside the target."""
    for path in target.parent.glob(f".{target.name}.*"):
        number = path.name.removeprefix(f".{target.name}.").partition(".")[0]
        if number.isdecimal() and not _alive(int(number)):
            if path.name.endswith(".old") and not target.exists():
                path.rename(target)
            else:
                _discard(path)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
