"""From a recipe to its dataset: lay out, check what is there, compute what is not, commit.

The same command does everything: begin, continue after any kill, grow, and repair.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlde.datasets import certificate, instances, layout, parts, tolerance
from dlde.datasets.dataset import Dataset, check_identity, content_digest, find_records
from dlde.datasets.engines import Engine, Processes, Threads
from dlde.datasets.parts import Part
from dlde.datasets.recipe import Recipe
from dlde.datasets.statistics import statistics
from dlde.errors import DamagedDataError, DataError, WorkerLostError
from dlde.files import locked, unwritable_named, write_json
from dlde.problems.recorded import Recorded

FACTS = "facts.json"
RESTARTS = 3  # of workers that died, in one generation

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
    recipe: Recipe,
    root: Path | str,
    *,
    workers: int = 1,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Generated:
    """Make the recipe's dataset complete and whole under a storage root.

    The result depends neither on `engine` (default: `workers` processes), nor on what was done before.
    A worker that dies is replaced. Before anything is solved, the solver is certified on two instances.
    Raises StoreMismatchError, StorageFullError, UnwritableError, NonFiniteError, CertificateError,
    WorkerLostError, or DataError where the recipe is of imported data that are not all there.
    """
    if isinstance(recipe.problem, Recorded):
        _check_imported(recipe, recipe.store(root))
    else:
        for split in recipe.instances:
            instances.given(recipe, split)
        with unwritable_named(Path(root)):
            recipe = tolerance.resolved(recipe, root, progress or _silent)
            certificate.check(recipe, recipe.store(root))
    return complete(recipe, root, _make, engine=engine or Processes(workers), progress=progress)


def complete(
    recipe: Recipe, root: Path | str, make: Make, *, engine: Engine, progress: Progress | None = None
) -> Generated:
    """`generate`, with parts made by `make`; for an engine other than threads it must survive pickling."""
    began = time.monotonic()
    store = recipe.store(root)
    tell = progress or _silent
    with unwritable_named(store), locked(store, f"dataset {recipe.name!r}"):
        for leftover in store.rglob("*.partial"):
            leftover.unlink(missing_ok=True)
        counts, restored = _lay_out(recipe, store)
        todo, damaged = _check(recipe, store, engine.workers, tell)
        _compute(recipe, store, todo, counts, engine, tell, make)
        _finish(recipe, store, counts)
        seconds = time.monotonic() - began
        if todo:
            write_json(store / FACTS, _facts(store, len(todo), engine.workers, seconds))
    return Generated(
        dataset=Dataset.open(recipe, root),
        parts=len(parts.parts_of(recipe)),
        computed=len(todo),
        repaired={**damaged, **{name: [] for name in restored}},
        seconds=seconds,
    )


def _silent(done: int, total: int, note: str) -> None:
    return


def _facts(store: Path, computed: int, workers: int, seconds: float) -> dict[str, Any]:
    """What the last generation that computed something took, beside which `dlde plan` sets its forecast."""
    usage = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "seconds": round(seconds, 3),
        "workers": workers,
        "computed": computed,
        "peak_bytes": usage * 1024,  # of the largest process
        "bytes": sum(path.stat().st_size for path in store.rglob("*") if path.is_file()),
    }


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

    def look(part: Part) -> tuple[Part, list[int]]:
        held = part.held(recipe.samples[part.split])
        return part, parts.verify(recipe, store, part, records[part], held)

    def take(found: tuple[Part, list[int]]) -> None:
        nonlocal done
        part, samples = found
        if samples:
            damaged[part.name] = samples
        else:
            done += part.held(recipe.samples[part.split])
            tell(done, total, "found")

    Threads(workers).map(look, list(records), take)
    todo = [part for part in parts.parts_of(recipe) if part not in records or part.name in damaged]
    return todo, dict(sorted(damaged.items()))


def _compute(
    recipe: Recipe,
    store: Path,
    todo: Sequence[Part],
    counts: dict[str, int],
    engine: Engine,
    tell: Progress,
    make: Make,
) -> None:
    """Make the parts; those that a dead worker left are given to another, `RESTARTS` times."""
    total = sum(recipe.samples.values())
    left = dict.fromkeys(todo)
    function = _Task(make, recipe, store, counts)

    def done() -> int:
        return total - sum(part.held(recipe.samples[part.split]) for part in left)

    def take(part: Part) -> None:
        del left[part]
        tell(done(), total, "")

    tell(done(), total, "")
    for restart in range(RESTARTS + 1):
        try:
            engine.map(function, list(left), take)
            return
        except WorkerLostError:
            if restart == RESTARTS:
                raise
        for part in list(left):
            record = parts.read_record(store, recipe.digest, part)
            if record is not None and record.count >= part.held(recipe.samples[part.split]):
                del left[part]


@dataclass(frozen=True)
class _Task:
    """What a worker does with a part."""

    make: Make
    recipe: Recipe
    store: Path
    counts: dict[str, int]

    def __call__(self, part: Part) -> Part:
        return self.make(self.recipe, self.store, part, self.counts[part.split])


def _make(recipe: Recipe, store: Path, part: Part, count: int) -> Part:
    parts.make(recipe, store, part, count)
    return part


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
