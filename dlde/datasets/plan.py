"""What a dataset will cost: counts and bytes from its recipe, time and memory from a trial of one part."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Self

import numpy as np

from dlde.datasets import inventory, layout, parts, tolerance
from dlde.datasets.dataset import check_identity, find_records
from dlde.datasets.generate import FACTS
from dlde.datasets.recipe import Recipe
from dlde.errors import DamagedDataError, DataError
from dlde.files import unwritable_named, write_json
from dlde.problems.recorded import Recorded
from dlde.spec import Spec

WARM_SECONDS = 2.0  # a quicker first computation is repeated: it was mostly a warming up


class Trial(Spec):
    """One part, computed, written and read back in a process of its own."""

    samples: int  # of the part
    start_seconds: float  # until a worker is ready
    compute_seconds: float
    write_seconds: float
    verify_seconds: float
    peak_bytes: int  # of the process's memory, its libraries among it
    raw_bytes: int  # of the values
    stored_bytes: int  # of their chunks on disk
    record_bytes: int

    @property
    def seconds(self) -> float:
        """Of one part in a worker that is ready."""
        return self.compute_seconds + self.write_seconds + self.verify_seconds


class Fact(Spec):
    """What the last generation of a store took, as it wrote down."""

    seconds: float
    workers: int
    computed: int  # parts
    peak_bytes: int | None = None  # of a worker's memory
    bytes: int | None = None  # on disk

    @classmethod
    def of(cls, store: Path) -> Self | None:
        """None where nothing was written down, or nothing that can be read."""
        try:
            told = json.loads((store / FACTS).read_bytes())
            return cls.model_validate({key: told[key] for key in cls.model_fields if key in told})
        except (OSError, ValueError, TypeError):
            return None


class Plan(Spec):
    """Of one dataset under one storage root; what is there already counts as done."""

    recipe: str
    store: str
    samples: dict[str, int]
    parts: int
    done: int  # of them
    files: int  # of the whole store
    raw_bytes: int  # of all values, not compressed
    stored_bytes: int | None  # on disk, estimated by the trial; None without one
    workers: int
    processes: int  # of them that find work and a core
    seconds: float | None  # for what is not done, with those workers; None without a trial
    trial: Trial | None
    fact: Fact | None  # of the complete dataset
    fact_forecast: float | None  # seconds that the trial foretells for the same parts and workers
    warnings: tuple[str, ...]


def plan(
    recipe: Recipe,
    root: Path | str,
    *,
    workers: int = 1,
    trial: bool = True,
    before_trial: Callable[[], None] = lambda: None,
) -> Plan:
    """What generating the recipe's dataset with so many workers will take, and what it took.

    The plan is kept in `<root>/plans`. Without `trial`, and where all is done, an earlier trial counts, if
    there was one; `before_trial` is called where there will be one. The dataset itself is not touched.
    Raises what generating the first part would raise, such as NonFiniteError; StoreMismatchError where the
    store is another recipe's; DataError where the trial's process is killed.

    The solver of a recipe with a tolerance is searched first, as generating does; without `trial` it must
    have been found before, DataError else.
    """
    root = Path(root)
    if trial:
        recipe = tolerance.resolved(recipe, root, lambda done, total, note: None)
    else:
        recipe = tolerance.known(recipe, root)
    store = recipe.store(root)
    path = root / "plans" / f"{store.stem}.json"
    wanted = parts.parts_of(recipe)
    done, held = _done(recipe, store)
    fact = Fact.of(store) if done == len(wanted) else None
    measured = _earlier(path)
    useful = done < len(wanted) or (fact is not None and measured is None)
    if trial and useful and not isinstance(recipe.problem, Recorded):
        before_trial()
        measured = _measure(recipe, root)
    raw, metadata = _raw_bytes(recipe), layout.template(recipe, recipe.samples)
    cores = len(os.sched_getaffinity(0))
    processes = max(1, min(workers, len(wanted) - done, cores))
    made = Plan(
        recipe=recipe.name,
        store=str(store),
        samples=recipe.samples,
        parts=len(wanted),
        done=done,
        files=_chunks(recipe) + len(metadata) + len(wanted) + 1,  # and the manifest
        raw_bytes=raw,
        stored_bytes=None if measured is None else _stored_bytes(measured, raw, len(wanted), metadata),
        workers=workers,
        processes=processes,
        seconds=None
        if measured is None
        else forecast(measured, len(wanted) - done, processes, found=done, parts=len(wanted)),
        trial=measured,
        fact=fact,
        fact_forecast=None
        if measured is None or fact is None
        else forecast(
            measured,
            fact.computed,
            max(1, min(fact.workers, fact.computed, cores)),
            found=len(wanted) - fact.computed,
            parts=len(wanted),
        ),
        warnings=(),
    )
    made = made.model_copy(update={"warnings": tuple(_warnings(made, root, cores, held))})
    with unwritable_named(path):
        write_json(path, made.dump())
    return made


def forecast(trial: Trial, todo: int, processes: int, *, found: int, parts: int) -> float:
    """Seconds to compute `todo` parts, to check the `found` ones, and to take the statistics of all.

    Processes do not slow one another down here; on a machine whose memory is slow, they do.
    """
    if not todo:
        return found * trial.verify_seconds / processes
    start = trial.start_seconds if processes > 1 else 0.0
    computing = math.ceil(todo / processes) * trial.seconds
    return start + computing + found * trial.verify_seconds / processes + parts * trial.verify_seconds


def _done(recipe: Recipe, store: Path) -> tuple[int, int]:
    """Parts that are committed, and the bytes of what is there."""
    if not (store / layout.MANIFEST).is_file():
        return 0, 0
    with contextlib.suppress(DamagedDataError):  # generating restores it
        check_identity(recipe, store, layout.read_manifest(store))
    records, _ = find_records(recipe, store, recipe.digest)
    return len(records), inventory.size(store)


def _earlier(path: Path) -> Trial | None:
    try:
        return Trial.model_validate(json.loads(path.read_bytes())["trial"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _raw_bytes(recipe: Recipe) -> int:
    size = np.dtype(recipe.storage.dtype).itemsize
    values = sum(math.prod(recipe.shape(name)) for name in recipe.variables)
    return sum(recipe.samples.values()) * values * size


def _stored_bytes(trial: Trial, raw: int, num_parts: int, metadata: Mapping[str, bytes]) -> int:
    values = raw * trial.stored_bytes / max(trial.raw_bytes, 1)
    return round(values) + num_parts * trial.record_bytes + sum(map(len, metadata.values()))


def _chunks(recipe: Recipe) -> int:
    return sum(
        math.ceil(count / recipe.chunk(name))
        for count in recipe.samples.values()
        for name in recipe.variables
    )


def _measure(recipe: Recipe, root: Path) -> Trial:
    """The trial, in a fresh process on the disk of the root."""
    folder = root / "plans"
    with unwritable_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".trial-") as place:
            context = multiprocessing.get_context("spawn")  # fork would hang in zarr's event loop
            try:
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    told = pool.submit(_trial, recipe, Path(place) / "trial.zarr", time.time()).result()
            except BrokenProcessPool:
                raise DataError(
                    f"the trial of dataset {recipe.name!r} was killed, perhaps for lack of memory: a part of "
                    f"{recipe.storage.part} samples is computed at once; a smaller storage.part needs less"
                ) from None
    return Trial.model_validate(told)


def _trial(recipe: Recipe, store: Path, began: float) -> dict[str, Any]:
    """Make the first part of the largest split in a store of its own; runs in a child."""
    start = time.time() - began
    split = max(recipe.samples, key=lambda name: recipe.samples[name])
    part = parts.Part(split, 0, recipe.storage.part)
    count = part.held(recipe.samples[split])
    layout.restore(store, layout.template(recipe, {split: count}))
    clock = time.perf_counter()
    values, quarantined = parts.compute(recipe, part, count)
    compute = time.perf_counter() - clock
    if compute < WARM_SECONDS:
        clock = time.perf_counter()
        values, quarantined = parts.compute(recipe, part, count)
        compute = time.perf_counter() - clock
    clock = time.perf_counter()
    parts.commit(recipe, store, part, values, quarantined)
    commit = time.perf_counter() - clock
    record = parts.read_record(store, recipe.digest, part)
    assert record is not None, "the part was committed"
    clock = time.perf_counter()
    parts.verify(recipe, store, part, record, count)
    verify = time.perf_counter() - clock
    chunks = [path for name in recipe.variables for path in (store / split / name).glob("c*")]
    return {
        "samples": count,
        "start_seconds": start,
        "compute_seconds": compute,
        "write_seconds": max(commit - verify, 0.0),
        "verify_seconds": verify,
        "peak_bytes": peak_memory(),
        "raw_bytes": sum(array.nbytes for array in values.values()),
        "stored_bytes": sum(path.stat().st_size for path in chunks),
        "record_bytes": parts.record_path(store, part).stat().st_size,
    }


def peak_memory() -> int:
    """The most memory (bytes) that this process has held.

    The kernel's counter for children begins at the parent's size, so that the one of the address space is
    read where there is one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _available_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _warnings(made: Plan, root: Path, cores: int, held: int) -> list[str]:
    """What stands in the way on this machine."""
    found: list[str] = []
    if made.done == made.parts:
        return found
    free = shutil.disk_usage(root).free
    needed = (made.stored_bytes or made.raw_bytes) - held
    if needed > free:
        found.append(f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free under {root}")
    if made.workers > cores:
        found.append(f"{made.workers} workers on {cores} cores: the time is that of {made.processes}")
    load = os.getloadavg()[0]
    if made.trial and load > 0.5 * cores:
        found.append(
            f"others work on this machine (load {load:.1f} on {cores} cores): times are those of now"
        )
    memory = _available_memory()
    if made.trial and memory is not None and made.processes * made.trial.peak_bytes > memory:
        found.append(
            f"{made.processes} workers need {made.processes * made.trial.peak_bytes / 1e9:.1f} GB of memory, "
            f"{memory / 1e9:.1f} GB are free; take fewer workers, or a smaller storage.part"
        )
    return found


def total(plans: Mapping[str, Plan]) -> dict[str, Any]:
    """Of several datasets that are made one after another."""
    each = list(plans.values())

    def add(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    return {
        "parts": sum(one.parts for one in each),
        "done": sum(one.done for one in each),
        "files": sum(one.files for one in each),
        "raw_bytes": sum(one.raw_bytes for one in each),
        "stored_bytes": add([one.stored_bytes for one in each]),
        "seconds": add([one.seconds for one in each]),
    }
