"""From a recipe to its dataset: lay out, check what is there, compute what is not, commit.

The same command does everything: begin, continue after any kill, grow, and repair.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from dask.callbacks import Callback

from dlde.datasets import layout, parts
from dlde.datasets.dataset import Dataset, check_identity, content_digest, find_records
from dlde.datasets.parts import Part, Record
from dlde.datasets.recipe import Recipe
from dlde.datasets.statistics import statistics
from dlde.errors import DamagedDataError, DataError
from dlde.files import disk_full_named, locked
from dlde.problems.recorded import Recorded

Progress = Callable[[int, int, str], None]  # (samples done, samples in all, note)
Make = Callable[[Recipe, Path, Part, int], Part]  # one part of a split of so many samples, committed


@dataclass(frozen=True)
class Generated:
    """A complete dataset, and what was done for it this time."""

    dataset: Dataset
    parts: int  # of the recipe
    computed: int  # parts that were computed, among them
    repaired: dict[str, list[int]]  # part name -> samples that were damaged; files of metadata -> []
    seconds: float

    @property
    def store(self) -> Path:
        """Where it lies."""
        return self.dataset.store

    @property
    def digest(self) -> str:
        """The content digest."""
        return self.dataset.digest


def generate(
    recipe: Recipe, root: Path | str, *, workers: int = 1, progress: Progress | None = None
) -> Generated:
    """Make the recipe's dataset complete and whole under a storage root.

    The result does not depend on `workers` (processes), nor on what was done before. Raises
    StoreMismatchError, StorageFullError, NonFiniteError, or DataError where nothing can be written, or
    where the recipe is of imported data that are not all there.
    """
    if isinstance(recipe.problem, Recorded):
        _check_imported(recipe, recipe.store(root))
    return complete(recipe, root, _make, workers=workers, progress=progress)


def complete(
    recipe: Recipe, root: Path | str, make: Make, *, workers: int = 1, progress: Progress | None = None
) -> Generated:
    """`generate`, with parts made by `make`; for more than one worker it must survive pickling."""
    began = time.monotonic()
    store = recipe.store(root)
    tell = progress or (lambda done, total, note: None)
    with _writable(store), disk_full_named(store), locked(store, f"dataset {recipe.name!r}"):
        for leftover in store.rglob("*.partial"):
            leftover.unlink(missing_ok=True)
        counts, restored = _lay_out(recipe, store)
        todo, damaged = _check(recipe, store, workers, tell)
        _compute(recipe, store, todo, counts, workers, tell, make)
        _finish(recipe, store, counts)
    return Generated(
        dataset=Dataset.open(recipe, root),
        parts=len(parts.parts_of(recipe)),
        computed=len(todo),
        repaired={**damaged, **{name: [] for name in restored}},
        seconds=time.monotonic() - began,
    )


def _check_imported(recipe: Recipe, store: Path) -> None:
    """Before anything is written. Raises DataError with the command that imports what is missing."""
    there = (store / layout.MANIFEST).is_file()
    if not there or find_records(recipe, store, recipe.digest)[1]:
        raise DataError(
            f"dataset {recipe.name!r} is imported, not computed, and not all of it is in {store}; "
            f"`{recipe.command(store.parent.parent)}` imports it",
            store=str(store),
        )


def _lay_out(recipe: Recipe, store: Path) -> tuple[dict[str, int], list[str]]:
    """Manifest and metadata for the recipe's counts, or the store's where it holds more.

    Returns the counts and the metadata files that were damaged.
    """
    manifest: dict[str, Any] = {"counts": {}, "files": {}, "contents": {}}
    restored = []
    if (store / layout.MANIFEST).is_file():
        try:
            manifest = layout.read_manifest(store)
            check_identity(recipe, store, manifest)
        except DamagedDataError:
            restored.append(layout.MANIFEST)
    counts = {split: max(count, manifest["counts"].get(split, 0)) for split, count in recipe.samples.items()}
    counts = {**manifest["counts"], **counts}
    restored += layout.damaged_files(store, manifest)
    files = layout.template(recipe, counts)
    digests = layout.digests_of(files)
    both = {path: [*known, *digests.get(path, [])] for path, known in manifest["files"].items()}
    layout.write_manifest(store, recipe, counts, both, manifest["contents"])
    layout.restore(store, files)
    layout.write_manifest(store, recipe, counts, digests, manifest["contents"])
    return counts, restored


def _check(
    recipe: Recipe, store: Path, workers: int, tell: Progress
) -> tuple[list[Part], dict[str, list[int]]]:
    """The parts to compute, and those of them that were committed but are damaged."""
    records, _ = find_records(recipe, store, recipe.digest)
    damaged: dict[str, list[int]] = {}
    total, done = sum(recipe.samples.values()), 0

    def look(part: Part, record: Record) -> tuple[Part, list[int]]:
        return part, parts.verify(recipe, store, part, record, part.held(recipe.samples[part.split]))

    def take(found: tuple[Part, list[int]]) -> None:
        nonlocal done
        part, samples = found
        if samples:
            damaged[part.name] = samples
        else:
            done += part.held(recipe.samples[part.split])
            tell(done, total, "found")

    tasks = [
        dask.delayed(look)(part, record, dask_key_name=_key(i))
        for i, (part, record) in enumerate(records.items())
    ]
    _run(tasks, take, scheduler="threads" if workers > 1 else "synchronous", num_workers=workers)
    todo = [part for part in parts.parts_of(recipe) if part not in records or part.name in damaged]
    return todo, dict(sorted(damaged.items()))


def _compute(
    recipe: Recipe,
    store: Path,
    todo: Sequence[Part],
    counts: dict[str, int],
    workers: int,
    tell: Progress,
    make: Make,
) -> None:
    """Make the parts, over processes where there are several of both."""
    total = sum(recipe.samples.values())
    done = total - sum(part.held(recipe.samples[part.split]) for part in todo)
    tell(done, total, "")

    def take(part: Part) -> None:
        nonlocal done
        done += part.held(recipe.samples[part.split])
        tell(done, total, "")

    tasks = [
        dask.delayed(make)(recipe, store, part, counts[part.split], dask_key_name=_key(i))
        for i, part in enumerate(todo)
    ]
    workers = min(workers, len(todo))
    if workers <= 1:
        _run(tasks, take, scheduler="synchronous")
        return
    with _processes(workers) as pool:
        _run(tasks, take, scheduler="processes", pool=pool, chunksize=1)


def _make(recipe: Recipe, store: Path, part: Part, count: int) -> Part:
    parts.make(recipe, store, part, count)
    return part


def _key(position: int) -> str:
    """A key for the task at that position: dask takes the last key first."""
    return f"part-{10**9 - 1 - position}"


def _run(tasks: Sequence[Any], take: Callable[[Any], None], **how: Any) -> None:
    """Compute delayed tasks; `take` sees each result as it comes."""
    if not tasks:
        return
    watch = Callback(posttask=lambda key, result, graph, state, worker: take(result))
    with watch:
        dask.compute(*tasks, optimize_graph=False, traverse=False, **how)


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    """Worker processes that end with this one, however it ends. Fork would hang in zarr's event loop."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(receiver,))
    try:
        yield pool
        pool.shutdown()
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed, perhaps for lack of memory; run the same command again, it "
            "continues where it stopped (fewer --workers or a smaller storage.part need less memory)"
        ) from None
    finally:
        sender.close()  # after an error nobody waits for parts in flight: they are computed again
        pool.shutdown(cancel_futures=True)
        receiver.close()


def _begin_worker(parent: multiprocessing.connection.Connection) -> None:
    """End this process when the other end of the pipe closes; leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        multiprocessing.connection.wait([parent])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _finish(recipe: Recipe, store: Path, counts: dict[str, int]) -> None:
    """Statistics of the training split into the manifest, with the content digest that they belong to."""
    manifest = layout.read_manifest(store)
    records, missing = find_records(recipe, store, recipe.digest)
    assert not missing, f"parts were committed, but {missing} are missing"
    digest = content_digest(recipe, records)
    if digest in manifest["contents"]:
        return
    split = "train" if "train" in recipe.samples else next(iter(recipe.samples))
    found = {
        name: statistics(
            (values for _, values in parts.blocks(recipe, store, records, split, name, recipe.samples)),
            over_time="time" in variable.dims,
        ).dump()
        for name, variable in recipe.variables.items()
    }
    contents = {**manifest["contents"], digest: {"samples": recipe.samples, "statistics": found}}
    layout.write_manifest(store, recipe, counts, manifest["files"], contents)


@contextlib.contextmanager
def _writable(store: Path) -> Iterator[None]:
    """Turn "you may not write here" into a DataError that names the place and the cure."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise
        raise DataError(
            f"cannot write {store}: {error.strerror}; choose another storage root by --root or $DLDE_ROOT",
            store=str(store),
        ) from error
