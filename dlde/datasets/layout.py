"""What a store consists of: a Zarr v3 group per split, part records beside them, a manifest.

    burgers-1d-grf-0123456789ab.zarr/
      manifest.json           recipe, counts, digests of the metadata files, statistics
      zarr.json               root group with consolidated metadata
      train/zarr.json         group of a split: attributes say all that a reader needs
      train/time, x, sample   coordinates
      train/u                 (sample, time, x): consecutive samples per chunk, checksummed
      parts/train-00000.json  committed after the chunks of that part were written and read back

All metadata is a pure function of recipe and counts, so that it is compared and restored byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from dlde import __version__
from dlde.datasets.recipe import FORMAT, Recipe
from dlde.errors import DamagedDataError, DataError
from dlde.files import write_atomically, write_json
from dlde.problems.recorded import Recorded

MANIFEST = "manifest.json"
_KEYS = {"format", "recipe_digest", "recipe", "arguments", "counts", "files", "contents"}


def template(recipe: Recipe, counts: Mapping[str, int]) -> dict[str, bytes]:
    """All files of a store but chunks of samples, records and manifest, by path in the store."""
    entries: dict[str, Any] = {}
    memory = MemoryStore(entries)
    with warnings.catch_warnings():  # consolidated metadata is not in the v3 specification yet
        warnings.simplefilter("ignore", ZarrUserWarning)
        with zarr.config.set({"array.write_empty_chunks": True}):
            zarr.create_group(memory, attributes=_root_attributes(recipe))
            for split, count in sorted(counts.items()):
                _add_split(memory, recipe, split, count)
                zarr.consolidate_metadata(memory, path=split)
            zarr.consolidate_metadata(memory)
    return {path: buffer.to_bytes() for path, buffer in entries.items()}


def _root_attributes(recipe: Recipe) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.11",
        "title": recipe.name,
        "source": f"dlde {__version__}, {_origin(recipe)}",
        "recipe_digest": recipe.digest,
        "problem": recipe.dump()["problem"],
    }


def _origin(recipe: Recipe) -> str:
    if isinstance(recipe.problem, Recorded):
        return f"imported from {', '.join(recipe.problem.files)}"
    return f"reference solver version {recipe.solvable.version}"


def _add_split(memory: MemoryStore, recipe: Recipe, split: str, count: int) -> None:
    scalars = [name for name, variable in recipe.variables.items() if not variable.dims]
    attributes = {
        **_root_attributes(recipe),
        "split": split,
        "seed": recipe.seed,
        "boundary_conditions": {name: axis.boundary for name, axis in recipe.axes.items()},
        "field_order": list(recipe.variables),
    }
    if scalars:
        attributes["coordinates"] = " ".join(scalars)
    zarr.create_group(memory, path=split, attributes=attributes)
    _add_coordinate(memory, split, "sample", np.arange(count, dtype="<i8"), {"long_name": "sample number"})
    _add_coordinate(
        memory,
        split,
        "time",
        np.asarray(recipe.times, "<f8"),
        {"long_name": "time", "units": recipe.time_units, "axis": "T"},
    )
    for name, axis in recipe.axes.items():
        attrs = {"long_name": f"{name} coordinate", "units": axis.units, "axis": name.upper()}
        _add_coordinate(memory, split, name, axis.points.astype("<f8"), attrs)
    compressors: list[Any] = [Crc32cCodec()]
    if recipe.storage.compression == "lz4":
        compressors.insert(0, BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"))
    for name, variable in recipe.variables.items():
        shape = recipe.shape(name)
        zarr.create_array(
            memory,
            name=f"{split}/{name}",
            shape=(count, *shape),
            dtype=np.dtype(recipe.storage.dtype).newbyteorder("<"),
            chunks=(recipe.chunk(name), *shape),
            shards=(recipe.storage.part, *shape) if recipe.storage.sharded else None,
            compressors=compressors,
            chunk_key_encoding={"name": "default", "separator": "."},  # one folder per array
            fill_value=np.nan,  # a lost chunk does not look like data
            dimension_names=("sample", *variable.dims),
            attributes={"long_name": variable.long_name, "units": variable.units},
        )


def _add_coordinate(
    memory: MemoryStore, split: str, name: str, values: NDArray[Any], attributes: dict[str, str]
) -> None:
    array = zarr.create_array(
        memory,
        name=f"{split}/{name}",
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compressors=[Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
        fill_value=0 if values.dtype.kind == "i" else np.nan,
        dimension_names=(name,),
        attributes=attributes,
    )
    array[...] = values


def restore(store: Path, files: Mapping[str, bytes]) -> list[str]:
    """Write those files of a template that differ on disk, consolidated metadata last; returns them."""
    changed = [path for path, content in files.items() if _content(store / path) != content]
    for path in sorted(changed, key=lambda path: (path.endswith("zarr.json"), -path.count("/"))):
        write_atomically(store / path, files[path])
    return sorted(changed)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def digests_of(files: Mapping[str, bytes]) -> dict[str, list[str]]:
    """SHA-256 of files, in the form that the manifest keeps: all digests that each may have."""
    return {path: [hashlib.sha256(content).hexdigest()] for path, content in files.items()}


def write_manifest(
    store: Path, recipe: Recipe, counts: Mapping[str, int], files: Mapping[str, list[str]], contents: Any
) -> None:
    """Commit what the store is, how many samples its arrays hold, and what is known of their values."""
    write_json(
        store / MANIFEST,
        {
            "format": FORMAT,
            "recipe_digest": recipe.digest,
            "recipe": recipe.dump(),
            "arguments": list(recipe.arguments),
            "counts": dict(counts),
            "files": dict(files),
            "contents": contents,
        },
    )


def read_manifest(store: Path) -> dict[str, Any]:
    """The manifest of a store. Raises DataError where there is none, DamagedDataError where it is damaged."""
    try:
        text = (store / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{store} holds no dataset", store=str(store)) from None
    try:
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise DataError(
                f"{store} has format {manifest['format']}, this version of dlde reads {FORMAT}",
                store=str(store),
            )
        if not set(manifest) >= _KEYS:
            raise KeyError(MANIFEST)
    except (ValueError, KeyError, TypeError):
        raise DamagedDataError(
            f"{store}: {MANIFEST} is damaged; generate the dataset again, which keeps what is whole",
            damage={MANIFEST: []},
            store=str(store),
        ) from None
    return cast(dict[str, Any], manifest)


def damaged_files(store: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Metadata files that are not as the manifest says."""
    return sorted(
        path
        for path, known in manifest["files"].items()
        if (content := _content(store / path)) is None or hashlib.sha256(content).hexdigest() not in known
    )
