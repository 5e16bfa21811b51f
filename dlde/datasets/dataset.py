"""A finished dataset: opened only when it is complete, read only when it is what was committed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dlde.datasets import certificate, layout, parts, tolerance
from dlde.datasets.certificate import Certificate
from dlde.datasets.info import DatasetInfo, Statistics
from dlde.datasets.loader import MEMORY, Loader, View, load
from dlde.datasets.parts import Part, Record
from dlde.datasets.recipe import Recipe
from dlde.errors import (
    DamagedDataError,
    DataError,
    GridError,
    InputError,
    StoreMismatchError,
    UnknownNameError,
    nearest,
)
from dlde.problem import Variable
from dlde.spec import digest_of

if TYPE_CHECKING:
    import torch
    import xarray as xr


@dataclass(frozen=True)
class Health:
    """What `verify` found: part name -> sample numbers that are damaged, or were never committed."""

    parts: int  # looked at
    damage: dict[str, list[int]] = field(default_factory=dict)
    missing: dict[str, list[int]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)  # metadata that is not as it was written
    digest: str | None = None  # the content digest that was committed; None while something is missing

    @property
    def whole(self) -> bool:
        """Nothing is damaged and nothing is missing."""
        return not (self.damage or self.missing or self.files)


class Dataset:
    """The samples that a recipe asks for, in a store that may hold more of them."""

    def __init__(
        self,
        store: Path,
        recipe: Recipe,
        recipe_digest: str,
        records: Mapping[Part, Record],
        statistics: Mapping[str, Statistics],
    ) -> None:
        self.store, self.recipe, self.recipe_digest = store, recipe, recipe_digest
        self._records = records
        self.digest = content_digest(recipe, records)
        self.info = DatasetInfo(
            recipe=recipe.name,
            problem=recipe.problem,
            variables=recipe.variables,
            axes=recipe.axes,
            times=recipe.times,
            samples=recipe.samples,
            statistics=dict(statistics),
            digest=self.digest,
        )

    @classmethod
    def open(cls, recipe: Recipe, root: Path | str) -> Dataset:
        """The dataset of a recipe under a storage root.

        Raises DataError with the command that completes it, DamagedDataError where its metadata is
        damaged, StoreMismatchError where the store is another recipe's.
        """
        recipe = tolerance.known(recipe, root)
        store = recipe.store(root)
        return cls._of(store, recipe, _manifest(recipe, store))

    @classmethod
    def _of(cls, store: Path, recipe: Recipe, manifest: Mapping[str, Any]) -> Dataset:
        damaged = layout.damaged_files(store, manifest)
        if damaged:
            raise parts.damage_error(recipe, store, {name: [] for name in damaged})
        records, missing = find_records(recipe, store, manifest["recipe_digest"])
        known = None if missing else manifest["contents"].get(content_digest(recipe, records))
        if known is None:
            lacking = sum(len(samples) for samples in missing.values())
            what = f"{lacking} of {sum(recipe.samples.values())} samples" if lacking else "its statistics"
            raise DataError(
                f"dataset {recipe.name!r} is not complete: {what} missing in {store}; "
                f"`{recipe.command(store.parent.parent)}` completes it",
                store=str(store),
                missing=missing,
            )
        statistics = {
            name: Statistics.parse(raw, source="manifest") for name, raw in known["statistics"].items()
        }
        return cls(store, recipe, manifest["recipe_digest"], records, statistics)

    def read(self, split: str, variable: str, *, time: int | None = None, every: int = 1) -> NDArray[Any]:
        """All samples of a split: (sample, [time,] *space), as stored; `every` thins out the spatial axes.

        Every value is compared with what was committed: raises DamagedDataError naming parts and samples.
        """
        self._check_known(split, variable)
        selection = self.selection(variable, time, every)
        result: NDArray[Any] | None = None
        counts = self.recipe.samples
        for start, values in parts.blocks(self.recipe, self.store, self._records, split, variable, counts):
            block = values[(slice(None), *selection)]
            if result is None:
                result = np.empty((counts[split], *block.shape[1:]), block.dtype)
            result[start : start + len(block)] = block
        assert result is not None
        return result

    def to_xarray(self, split: str) -> xr.Dataset:
        """A split as an xarray dataset with names, units and coordinates, read when it is used.

        Nested attributes (the problem, the versions) are JSON text, so that it can be written as NetCDF.

        Of a store that holds more samples, those of this dataset. Values are not compared with what was
        committed: `read` and `verify` do that.
        """
        import xarray as xr

        self._check_known(split)
        opened = xr.open_zarr(self.store, group=split, chunks=None, consolidated=False)
        chosen: xr.Dataset = opened.isel(sample=slice(0, self.recipe.samples[split]))
        # NetCDF knows text and numbers alone: what is nested is JSON there.
        chosen.attrs = {
            name: json.dumps(value) if isinstance(value, Mapping | list | bool | None) else value
            for name, value in chosen.attrs.items()
        }
        return chosen

    def num_blocks(self, split: str) -> int:
        """Into how many blocks `block` divides a split."""
        self._check_known(split)
        return sum(part.split == split for part in self._records)

    def block(self, split: str, number: int, *variables: str) -> tuple[int, dict[str, NDArray[Any]]]:
        """Consecutive samples of a split: number of the first, and (sample, *dims) of each variable.

        For what need not fit in memory: `number` counts from 0 to `num_blocks(split)`, all samples of a
        split come in exactly one block. Values are compared with what was committed, as by `read`.
        """
        self._check_known(split, *variables)
        part = [part for part in self._records if part.split == split][number]
        counts = self.recipe.samples
        return part.start, {
            name: parts.block(self.recipe, self.store, self._records, part, name, counts)
            for name in variables
        }

    def loader(
        self,
        split: str,
        views: Sequence[str] | Mapping[str, View],
        *,
        batch: int,
        history: int = 0,
        horizon: int = 0,
        stride: int = 1,
        shuffle: bool = True,
        mix: int | Literal["fit"] | None = None,
        normalise: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        memory: int = MEMORY,
        recheck: bool = False,
        threads: int = 2,
        buffers: int = 3,
    ) -> Loader:
        """Batches of a split, by names of variables or as `View`s by a name of your own.

        `loader.at(step)` gives (batch, [time,] *space) by name; what is read when is told in
        `dlde.datasets.loader`. With `history` and `horizon`, an item is a window of history + horizon
        frames that lie `stride` stored times apart: (batch, history + horizon, *space), of which the first
        `history` are the input; views without times, or of one time, are given beside it.

        `normalise` subtracts the mean of the training split and divides by its standard deviation, on the
        device, in the precision `dtype` (None: as stored). `memory` bounds what is kept, in bytes; beyond
        it there are `buffers` batches and a chunk for each of the `threads`. `mix`: blocks of chunks that
        are shuffled with one another (None: all; "fit": as many as `memory` holds).

        Raises UnknownNameError, GridError for times, grids and windows that are not stored, InputError.
        """
        if not isinstance(views, Mapping):
            views = {name: View(name) for name in views}
        if not views:
            raise InputError("a loader of no variables; name at least one")
        self._check_known(split, *(view.variable for view in views.values()))
        source = load(
            self, split, views, history=history, horizon=horizon, stride=stride, normalise=normalise,
            dtype=dtype, device=device, memory=memory, recheck=recheck,
        )  # fmt: skip
        return Loader(source, batch=batch, shuffle=shuffle, mix=mix, threads=threads, buffers=buffers)

    def damage(self, split: str, samples: Iterable[int]) -> DamagedDataError:
        """The error for samples of a split that cannot be read; it names their parts, and the cure."""
        damaged: dict[str, list[int]] = {}
        for sample in samples:
            if sample < self.recipe.samples[split]:
                size = self.recipe.storage.part
                damaged.setdefault(Part(split, sample // size, size).name, []).append(sample)
        return parts.damage_error(self.recipe, self.store, damaged)

    def _check_known(self, split: str, *variables: str) -> None:
        if split not in self.recipe.samples:
            raise UnknownNameError(f"no split {split!r}; {nearest(split, self.recipe.samples)}", name=split)
        for name in variables:
            if name not in self.recipe.variables:
                raise UnknownNameError(
                    f"no variable {name!r}; {nearest(name, self.recipe.variables)}", name=name
                )

    def selection(self, variable: str, time: int | None, every: int) -> tuple[int | slice, ...]:
        """What to take of each of the variable's dimensions. Raises GridError where that is not stored."""
        selection: list[int | slice] = []
        for dim in self.recipe.variables[variable].dims:
            if dim in self.recipe.variables[variable].sizes:
                selection.append(slice(None))
                continue
            if dim == "time":
                stored = len(self.recipe.times)
                if time is not None and not -stored <= time < stored:
                    raise GridError(
                        f"time={time}, but dataset {self.recipe.name!r} has {stored} stored times"
                    )
                selection.append(slice(None) if time is None else time)
                continue
            axis = self.recipe.axes[dim]
            intervals = axis.num_points if axis.boundary == "periodic" else axis.num_points - 1
            if every < 1 or intervals % every:
                raise GridError(
                    f"every={every} does not divide the {intervals} intervals of {dim} in dataset "
                    f"{self.recipe.name!r}"
                )
            selection.append(slice(None, None, every))
        return tuple(selection)

    def verify(self) -> Health:
        """Read everything and compare it with what was committed."""
        return verify(self.recipe, self.store)

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(path.stat().st_size for path in self.store.rglob("*") if path.is_file())

    @property
    def certificate(self) -> Certificate | None:
        """What was measured of the solver; None of imported data."""
        return certificate.read(self.store)

    @property
    def quarantined(self) -> list[dict[str, Any]]:
        """Draws that were replaced because their solution was not finite, with what is known of them."""
        return [
            {"split": part.split, **entry}
            for part, record in self._records.items()
            for entry in record.quarantined
            if entry["sample"] < self.recipe.samples[part.split]
        ]


def open_dataset(path: Path | str) -> Dataset:
    """The dataset in a store, as it was last generated. Raises DataError, as `Dataset.open` does."""
    store, manifest = Path(path), layout.read_manifest(Path(path))
    return Dataset._of(store, recipe_of(manifest), manifest)


def recipe_of(manifest: Mapping[str, Any]) -> Recipe:
    """The recipe that a store was last generated by."""
    return Recipe.parse(manifest["recipe"], source=layout.MANIFEST).named_by(manifest["arguments"])


def verify(recipe: Recipe, store: Path) -> Health:
    """Read all that the recipe asks for and compare it with what was committed; works on any store.

    Raises DataError where there is no store, DamagedDataError where the manifest is unreadable,
    StoreMismatchError where the store is another recipe's.
    """
    manifest = _manifest(recipe, store)
    records, missing = find_records(recipe, store, manifest["recipe_digest"])
    damage = {
        part.name: damaged
        for part, record in records.items()
        if (damaged := parts.verify(recipe, store, part, record, part.held(recipe.samples[part.split])))
    }
    return Health(
        parts=len(records) + len(missing),
        damage=damage,
        missing=missing,
        files=layout.damaged_files(store, manifest),
        digest=None if missing else content_digest(recipe, records),
    )


def _manifest(recipe: Recipe, store: Path) -> dict[str, Any]:
    """The manifest of the recipe's own store."""
    if not (store / layout.MANIFEST).is_file():
        raise DataError(
            f"dataset {recipe.name!r} is not there yet ({store}); `{recipe.command(store.parent.parent)}` "
            "generates it",
            store=str(store),
        )
    manifest = layout.read_manifest(store)
    check_identity(recipe, store, manifest)
    return manifest


def find_records(
    recipe: Recipe, store: Path, recipe_digest: str
) -> tuple[dict[Part, Record], dict[str, list[int]]]:
    """The records of the recipe's parts, and part name -> sample numbers that none of them holds."""
    records: dict[Part, Record] = {}
    missing: dict[str, list[int]] = {}
    for part in parts.parts_of(recipe):
        record = parts.read_record(store, recipe_digest, part)
        held, needed = record.count if record else 0, part.held(recipe.samples[part.split])
        if record and held >= needed:
            records[part] = record
        else:
            missing[part.name] = list(range(part.start + held, part.start + needed))
    return records, missing


def content_digest(recipe: Recipe, records: Mapping[Part, Record]) -> str:
    """SHA-256 (hex) of the decoded values of every split and its count, and of the coordinates."""
    splits: dict[str, list[str]] = {split: [] for split in recipe.samples}
    for part, record in records.items():
        splits[part.split] += record.samples(part.held(recipe.samples[part.split]))
    return digest_of(
        {
            "splits": {split: [len(digests), digest_of(digests)] for split, digests in splits.items()},
            "variables": {name: _identity(variable) for name, variable in recipe.variables.items()},
            "axes": {name: axis.dump() for name, axis in recipe.axes.items()},
            "times": list(recipe.times),
        }
    )


def _identity(variable: Variable) -> dict[str, Any]:
    """`sizes` count where there are any: digests from before there were such dimensions stay valid."""
    plain = variable.dump()
    return plain if plain["sizes"] else {key: value for key, value in plain.items() if key != "sizes"}


def check_identity(recipe: Recipe, store: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a store that is another recipe's. Raises StoreMismatchError."""
    if manifest["recipe_digest"] != recipe.digest:
        raise StoreMismatchError(
            f"{store} holds the dataset with recipe digest {manifest['recipe_digest']}, but recipe "
            f"{recipe.name!r} has {recipe.digest}; move that folder away, or choose another storage root",
            expected=recipe.digest,
            found=manifest["recipe_digest"],
            store=str(store),
        )
