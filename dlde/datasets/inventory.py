"""The datasets of a storage root: what they are, whether they are whole; removed.

Nothing here reads a value: manifests, names of records and sizes of files say enough, and say it at once.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dlde.datasets import certificate, layout, parts
from dlde.errors import DataError, DldeError, InputError, UnwritableError, nearest
from dlde.files import locked, unwritable_named

Models = Mapping[str, Sequence[str]]  # content digest -> the registered models that were made from it


@dataclass(frozen=True)
class Entry:
    """One store in a list."""

    name: str  # of its recipe; the folder's where that cannot be read
    store: str
    state: str  # "complete" | "incomplete" | "damaged"
    problem: str
    samples: dict[str, int]  # by split, that its recipe last asked for
    parts: int
    missing: int  # of them
    bytes: int  # on disk
    digest: str | None  # of the values that the recipe last asked for; None while some are missing
    contents: dict[str, dict[str, int]]  # every content digest that was committed -> its samples by split
    certificate: str | None  # "passed" | "failed" | "unreadable"; None where there is none
    models: tuple[str, ...]  # registered ones that were made from any of its contents
    damage: str = ""  # what is wrong

    def dump(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def entries(root: Path | str, models: Models | None = None) -> list[Entry]:
    """Every store under a storage root, by name; one that is damaged is listed as such."""
    found = [
        _entry(store, models or {})
        for store in sorted((Path(root) / "data").glob("*.zarr"))
        if store.is_dir() and not store.name.startswith(".")
    ]
    return sorted(found, key=lambda entry: (entry.name, entry.store))


def remove(store: Path, models: Models | None = None, *, force: bool = False) -> int:
    """Remove a store, for others at once; returns the bytes freed.

    `models` tells which registered models were made from which contents: with one of them among the
    store's, and where a damaged store does not say what its contents are, nothing is removed and InputError
    names them, unless `force`. Raises RunningError while somebody works on the store, DataError where
    there is none or it cannot be removed.
    """
    check_store(store)
    if store.is_symlink():
        raise InputError(f"{store} is a link; remove what it points to: {store.resolve()}", store=str(store))
    if not force:
        _check_unneeded(store, models or {})
    try:
        with unwritable_named(store), locked(store, f"dataset {store.name}"):
            freed = size(store)
            removed = store.with_name(f".{store.name}.removed")
            shutil.rmtree(removed, ignore_errors=True)  # of a removal that was killed
            store.rename(removed)
            shutil.rmtree(removed)
    except UnwritableError as error:
        raise DataError(
            f"cannot remove {store}: {error.reason}; it belongs to somebody else, or its disk is read-only",
            store=str(store),
        ) from error
    return freed


def check_store(store: Path) -> None:
    """Refuse a folder that is no store of ours. Raises DataError that names the stores beside it."""
    if (store / layout.MANIFEST).is_file() or (
        (store / "parts").is_dir() and (store / "zarr.json").is_file()
    ):
        return
    known = [path.name for path in store.parent.glob("*.zarr") if not path.name.startswith(".")]
    stem = store.name.rpartition("-")[0]
    same = sorted(name for name in known if name.rpartition("-")[0] == stem)
    hint = f"of that name there are: {', '.join(same)}" if same else nearest(store.name, known)
    raise DataError(f"there is no dataset in {store}; {hint}", store=str(store))


def size(folder: Path) -> int:
    """Bytes of all files; those that go away meanwhile count nothing."""
    return sum(_sizes(folder))


def _sizes(folder: Path | str) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError, PermissionError), os.scandir(folder) as listed:
        for one in listed:
            if one.is_dir(follow_symlinks=False):
                yield from _sizes(one.path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    yield one.stat(follow_symlinks=False).st_size


def _check_unneeded(store: Path, models: Models) -> None:
    try:
        contents = layout.read_manifest(store)["contents"]
    except DldeError as error:
        if not models:
            return
        raise InputError(
            f"{error.message}. So it cannot be told whether a registered model was made from it; "
            "to remove it all the same, say --force",
            store=str(store),
        ) from None
    needed = sorted({model for digest in contents for model in models.get(digest, ())})
    if needed:
        raise InputError(
            f"{store.name} holds the data of the registered model{'s' if len(needed) > 1 else ''} "
            f"{', '.join(needed)}, which could not be made again from anything else; to remove it all the "
            "same, say --force",
            store=str(store),
            models=needed,
        )


def _entry(store: Path, models: Models) -> Entry:
    common: dict[str, Any] = {
        "store": str(store),
        "bytes": size(store),
        "certificate": _verdict(store / certificate.FILE),
    }
    try:
        manifest = layout.read_manifest(store)
        recipe = manifest["recipe"]
        asked = {split: int(count) for split, count in recipe["samples"].items()}
        contents = {digest: dict(known["samples"]) for digest, known in manifest["contents"].items()}
        count, missing = _count(store, manifest["recipe_digest"], asked, int(recipe["storage"]["part"]))
        altered = layout.damaged_files(store, manifest)
        name, problem = str(recipe["name"]), str(recipe["problem"]["name"])
    except (DldeError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        told = (
            error.message if isinstance(error, DldeError) else f"{layout.MANIFEST} cannot be read: {error!r}"
        )
        told = told.removeprefix(f"{store}: ")
        return Entry(
            name=store.stem, state="damaged", problem="", samples={}, parts=0, missing=0, digest=None,
            contents={}, models=(), damage=told, **common,
        )  # fmt: skip
    digest = None if missing else next((one for one in reversed(contents) if contents[one] == asked), None)
    return Entry(
        name=name,
        state="damaged" if altered else "complete" if digest else "incomplete",
        problem=problem,
        samples=asked,
        parts=count,
        missing=missing,
        digest=digest,
        contents=contents,
        models=tuple(sorted({model for one in contents for model in models.get(one, ())})),
        damage=f"altered or lost: {', '.join(altered)}" if altered else "",
        **common,
    )


def _count(store: Path, recipe_digest: str, samples: Mapping[str, int], part: int) -> tuple[int, int]:
    """Parts of those samples, and how many of them are not committed.

    A record may hold fewer samples than its part should, where the dataset is to grow.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        listed = {name.removesuffix(".json") for name in os.listdir(store / "parts")}
        wanted = [
            parts.Part(split, index, part)
            for split, count in samples.items()
            for index in range(math.ceil(count / part))
        ]
        missing = 0
        for one in wanted:
            if one.name in listed:
                record = parts.read_record(store, recipe_digest, one)
                missing += record is None or record.count < one.held(samples[one.split])
            else:
                missing += 1
        return len(wanted), missing
    count = sum(math.ceil(number / part) for number in samples.values())
    return count, count


def _verdict(path: Path) -> str | None:
    try:
        passed = json.loads(path.read_bytes())["passed"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        return "unreadable"
    return "passed" if passed is True else "failed"
