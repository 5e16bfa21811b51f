"""One part of a store: consecutive samples, computed as one batch, written, read back, committed.

Everything here is a pure function of (recipe, split, part number): done twice, or by two writers at
once, it leaves the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from dlde.datasets.instances import batch, solve
from dlde.datasets.recipe import Recipe
from dlde.errors import DamagedDataError, NonFiniteError
from dlde.files import unwritable_named, write_json
from dlde.spec import digest_of

MAX_ATTEMPTS = 5  # draws of one sample before its recipe is held to be at fault

Values = NDArray[Any]


@dataclass(frozen=True)
class Part:
    """Which samples: those of `split` from `start`, at most `size`."""

    split: str
    index: int
    size: int  # of the batch that is computed

    @property
    def name(self) -> str:
        """As users see it."""
        return f"{self.split}-{self.index:05d}"

    @property
    def start(self) -> int:
        """Number of its first sample."""
        return self.index * self.size

    def held(self, count: int) -> int:
        """How many of its samples a split of `count` samples has."""
        return min(self.size, count - self.start)


def parts_of(recipe: Recipe) -> list[Part]:
    """All parts that hold the recipe's samples, in order."""
    size = recipe.storage.part
    return [
        Part(split, index, size)
        for split, count in sorted(recipe.samples.items())
        for index in range(math.ceil(count / size))
    ]


@dataclass(frozen=True)
class Record:
    """What was committed of a part: per variable the SHA-256 of every sample, and who was replaced."""

    digests: dict[str, list[str]]
    quarantined: list[dict[str, Any]]

    @property
    def count(self) -> int:
        """Number of samples."""
        return min(len(column) for column in self.digests.values())

    def samples(self, count: int) -> list[str]:
        """One digest per sample, over its variables in order of name."""
        columns = [self.digests[name][:count] for name in sorted(self.digests)]
        return [hashlib.sha256("".join(row).encode()).hexdigest() for row in zip(*columns, strict=True)]


def record_path(store: Path, part: Part) -> Path:
    """Where a part is committed."""
    return store / "parts" / f"{part.name}.json"


def read_record(store: Path, recipe_digest: str, part: Part) -> Record | None:
    """The committed record of a part; None where there is none, or none that can be believed."""
    try:
        plain = json.loads(record_path(store, part).read_bytes())
        checksum = plain.pop("checksum")
        if (
            plain["recipe_digest"] != recipe_digest
            or plain["part"] != part.name
            or digest_of(plain) != checksum
        ):
            return None
        return Record(plain["digests"], plain["quarantined"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None


def sample_digests(variable: str, values: Values) -> list[str]:
    """SHA-256 of each sample: variable, dtype, shape, then its values as little-endian bytes in C order."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    head = json.dumps([variable, values.dtype.name, list(values.shape[1:])]).encode()
    return [hashlib.sha256(head + b"\n" + sample.tobytes()).hexdigest() for sample in little]


def compute(recipe: Recipe, part: Part, count: int) -> tuple[dict[str, Values], list[dict[str, Any]]]:
    """Values of the part's first `count` samples, and what had to be replaced.

    Always the same full batch on one thread, so that a part is the same wherever it is computed and
    however much of it is wanted. Raises NonFiniteError where `MAX_ATTEMPTS` draws all fail, or one does
    that may not be replaced.
    """
    attempts = [0] * part.size
    quarantined: list[dict[str, Any]] = []
    while True:
        drawn = batch(recipe, part.split, part.start, attempts)
        solution = solve(recipe, drawn, recipe.times, recipe.solver)
        with np.errstate(over="ignore", invalid="ignore"):  # seen below
            values = {
                name: solution[name].cpu().numpy()[:count].astype(recipe.storage.dtype)
                for name in recipe.variables
            }
        for name, array in values.items():
            assert array.shape == (count, *recipe.shape(name)), f"{name}: solved to {array.shape}"
        finite = np.all([np.isfinite(array).reshape(count, -1).all(1) for array in values.values()], axis=0)
        bad = np.flatnonzero(~finite).tolist()
        if not bad:
            return values, quarantined
        for i in bad:
            quarantined.append(
                {"sample": part.start + i, "attempt": attempts[i], "instance": _describe(drawn[i])}
            )
            attempts[i] += 1
        given = part.split in recipe.instances
        allowed = 1 if given or recipe.diverged == "refuse" else MAX_ATTEMPTS
        lost = [part.start + i for i in bad if attempts[i] == allowed]
        if lost:
            tries = "" if allowed == 1 else f" in each of {MAX_ATTEMPTS} draws"
            raise NonFiniteError(
                f"{recipe.name}: the solution of {part.split} samples {lost} is not finite{tries}; their "
                f"first instance: {json.dumps(quarantined[-len(bad)]['instance'])}. Use a smaller solver.dt, "
                f"more solver.num_points, or a milder problem",
                split=part.split,
                samples=lost,
                instances=[entry["instance"] for entry in quarantined if entry["sample"] in lost],
            )


def _describe(instance: Mapping[str, Values]) -> dict[str, Any]:
    """The parameters of an instance; of long arrays what says how extreme it is."""
    described: dict[str, Any] = {}
    for name, values in instance.items():
        if np.size(values) <= 16:
            described[name] = [str(value) for value in np.ravel(values)]
        else:
            with np.errstate(all="ignore"):
                low, high, rms = np.min(values), np.max(values), np.sqrt(np.mean(np.square(values)))
            described[name] = {"min": str(low), "max": str(high), "rms": str(rms)}
    return described


def make(recipe: Recipe, store: Path, part: Part, count: int) -> int:
    """Compute, write, read back and commit one part of a split that holds `count` samples.

    Returns how many of them it holds. Raises NonFiniteError, StorageFullError, DamagedDataError.
    """
    held = part.held(count)
    values, quarantined = compute(recipe, part, held)
    commit(recipe, store, part, values, quarantined)
    return held


def commit(
    recipe: Recipe,
    store: Path,
    part: Part,
    values: Mapping[str, Values],
    quarantined: Sequence[dict[str, Any]] = (),
) -> None:
    """Write a part's values, read them back, and record what they are.

    Raises StorageFullError, DamagedDataError.
    """
    digests = {name: sample_digests(name, array) for name, array in values.items()}
    with unwritable_named(store):
        for name, array in values.items():
            write(store, recipe, part, name, array)
    held = len(next(iter(values.values())))
    damaged = verify(recipe, store, part, Record(digests, []), held)
    if damaged:
        raise DamagedDataError(
            f"{store}: part {part.name} read back differs from what was written; is the disk sound?",
            damage={part.name: damaged},
            store=str(store),
        )
    plain = {
        "recipe_digest": recipe.digest, "part": part.name, "digests": digests, "quarantined": [*quarantined]
    }  # fmt: skip
    write_json(record_path(store, part), {**plain, "checksum": digest_of(plain)})


def write(store: Path, recipe: Recipe, part: Part, name: str, values: Values) -> None:
    """Whole chunks, each written once and atomically, on disk before this returns."""
    array = open_array(store, part.split, name, "r+")
    with zarr.config.set({"array.write_empty_chunks": True}):
        array[part.start : part.start + len(values)] = values
    for chunk in _chunk_files(store, recipe, part, name, len(values)):
        _sync(chunk)
    _sync(store / part.split / name)


def _chunk_files(store: Path, recipe: Recipe, part: Part, name: str, count: int) -> list[Path]:
    per_chunk = part.size if recipe.storage.sharded else recipe.chunk(name)
    zeros = ".0" * len(recipe.shape(name))
    first = part.start // per_chunk
    return [store / part.split / name / f"c.{first + i}{zeros}" for i in range(math.ceil(count / per_chunk))]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_array(store: Path, split: str, name: str, mode: Any = "r") -> Any:
    """A variable of a split."""
    return zarr.open_array(store / split / name, mode=mode, zarr_format=3)


def read(array: Any, start: int, stop: int) -> Values | None:
    """Samples of an array; None where they cannot be decoded."""
    try:
        return np.asarray(array[start:stop])
    except (OSError, MemoryError):
        raise
    except Exception:  # checksum, codec and shape errors come as whatever the codec library raises
        return None


def damaged_samples(
    recipe: Recipe, array: Any, part: Part, name: str, record: Record, count: int
) -> list[int]:
    """Numbers of those of the part's first `count` samples whose `name` differs from the record."""
    damaged = []
    per_chunk = recipe.chunk(name)
    for first in range(0, count, per_chunk):
        last = min(first + per_chunk, count)
        values = read(array, part.start + first, part.start + last)
        found = sample_digests(name, values) if values is not None else [""] * (last - first)
        for i, digest in enumerate(found, first):
            if digest != record.digests[name][i]:
                damaged.append(part.start + i)
    return damaged


def verify(recipe: Recipe, store: Path, part: Part, record: Record, count: int) -> list[int]:
    """Numbers of the part's samples, of the first `count`, that are not what was committed."""
    damaged: set[int] = set()
    for name in recipe.variables:
        array = try_open(store, part.split, name)
        if array is None:
            return list(range(part.start, part.start + count))
        damaged.update(damaged_samples(recipe, array, part, name, record, count))
    return sorted(damaged)


def blocks(
    recipe: Recipe,
    store: Path,
    records: Mapping[Part, Record],
    split: str,
    name: str,
    counts: Mapping[str, int],
) -> Iterator[tuple[int, Values]]:
    """A split's values part by part, as `block` gives them: (number of first sample, values)."""
    for part in records:
        if part.split == split:
            yield part.start, block(recipe, store, records, part, name, counts)


def block(
    recipe: Recipe,
    store: Path,
    records: Mapping[Part, Record],
    part: Part,
    name: str,
    counts: Mapping[str, int],
) -> Values:
    """The values of one part, compared with its record.

    Raises DamagedDataError that names every damaged part and sample of the split.
    """
    count = part.held(counts[part.split])
    array = try_open(store, part.split, name)
    values = None if array is None else read(array, part.start, part.start + count)
    if values is None or sample_digests(name, values) != records[part].digests[name][:count]:
        raise damage_error(
            recipe,
            store,
            {
                other.name: damaged
                for other, its in records.items()
                if other.split == part.split
                and (damaged := verify(recipe, store, other, its, other.held(counts[part.split])))
            },
        )
    return values


def damage_error(recipe: Recipe, store: Path, damage: Mapping[str, list[int]]) -> DamagedDataError:
    """The error that names what is damaged, and the cure."""
    places = "; ".join(
        f"part {name}: samples {ranges(samples)}" if samples else name for name, samples in damage.items()
    )
    return DamagedDataError(
        f"{store} is damaged ({places}); `{recipe.command(store.parent.parent)}` repairs just that",
        damage=dict(damage),
        store=str(store),
    )


def ranges(samples: list[int]) -> str:
    """`[3, 4, 5, 9]` as "3-5, 9"."""
    runs: list[list[int]] = []
    for sample in samples:
        if runs and sample == runs[-1][-1] + 1:
            runs[-1][1:] = [sample]
        else:
            runs.append([sample])
    return ", ".join("-".join(map(str, run)) for run in runs)


def try_open(store: Path, split: str, name: str) -> Any:
    """A variable of a split; None where it is lost or its metadata cannot be read."""
    try:
        return open_array(store, split, name)
    except (PermissionError, MemoryError):
        raise
    except Exception:  # damaged metadata fails in as many ways as it has fields
        return None
