"""What a dataset costs beside its solving: writing, verifying, scheduling; workers; tolerance; memory.

    python benchmarks/generation.py [--part writing|overhead|workers|tolerance|memory ...]

- writing: the chunks of a part written by dlde against zarr's own assignment of the same array to the same
  layout, in turn; both with and without fsync (dlde's commits are on disk before they count).
- overhead: verification and commit of a part beside a solve of at least 1 s.
- workers: two worker processes against one, beside what two processes of the machine give (calibration).
- tolerance: samples per second of the solver found for a tolerance, against the habit of a fine grid.
- memory: peak of the driver and its workers for 1 GB and 10 GB of data.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from timing import in_turn, machine
from torch import Tensor

from dlde.datasets import instances, layout, parts, tolerance
from dlde.datasets.engines import Threads
from dlde.datasets.generate import complete, generate
from dlde.datasets.parts import Part
from dlde.datasets.recipe import Recipe
from dlde.problem import Solver

PARTS = ("writing", "overhead", "workers", "tolerance", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", help="where to write; default: the temporary folder")
    options = parser.parse_args()
    print(machine(1) + "\n")
    for name in options.part:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            {"writing": writing, "overhead": overhead, "workers": workers, "tolerance": by_tolerance,
             "memory": memory}[name](Path(folder))  # fmt: skip


def recipe(**fields: Any) -> Recipe:
    raw = {
        "name": "burgers",
        "problem": {"name": "burgers"},
        "num_points": [1024],
        "times": {"stop": 1.0, "count": 513},
        "samples": {"train": 20},
        "solver": {"num_points": 256, "dt": 2.5e-3},
    }
    return Recipe.parse({**raw, **fields}, source="benchmark")


def writing(folder: Path) -> None:
    """20 samples of 2.1 MB, one chunk each."""
    print("| chunks | dlde MB/s | zarr MB/s | zarr and fsync MB/s | dlde / zarr | dlde / zarr and fsync |")
    print("|---|---|---|---|---|---|")
    for compression in ("none", "lz4"):
        one = recipe(storage={"compression": compression, "part": 20})
        ours, plain, synced, size = written(one, folder / compression)
        print(
            f"| {compression} | {size / ours:.0f} | {size / plain:.0f} | {size / synced:.0f} "
            f"| {plain / ours:.2f} | {synced / ours:.2f} |"
        )
    print()


def written(one: Recipe, folder: Path) -> tuple[float, float, float, float]:
    """Seconds of dlde, of zarr, and of zarr with fsync; and megabytes."""
    part = parts.parts_of(one)[0]
    values = parts.compute(one, part, 20)[0]["u"]
    places = [folder / name for name in ("ours", "bare", "synced")]
    for place in places:
        layout.restore(place, layout.template(one, one.samples))

    def bare(place: Path, sync: bool) -> None:
        array = zarr.open_array(place / "train" / "u", mode="r+")
        with zarr.config.set({"array.write_empty_chunks": True}):
            array[0:20] = values
        for chunk in (place / "train" / "u").glob("c.*") if sync else ():
            descriptor = os.open(chunk, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    ours, plain, synced = in_turn(
        [
            lambda: parts.write(places[0], one, part, "u", values),
            lambda: bare(places[1], sync=False),
            lambda: bare(places[2], sync=True),
        ],
        15,
    )
    return ours, plain, synced, values.nbytes / 1e6


def overhead(folder: Path) -> None:
    one = recipe(solver={"num_points": 512, "dt": 5e-4}, times={"stop": 1.0, "count": 65})
    store = one.store(folder)
    layout.restore(store, layout.template(one, one.samples))
    part = parts.parts_of(one)[0]
    solved, committed = [], []
    for _ in range(5):
        began = time.perf_counter()
        values, quarantined = parts.compute(one, part, 20)
        middle = time.perf_counter()
        parts.commit(one, store, part, values, quarantined)
        solved.append(middle - began)
        committed.append(time.perf_counter() - middle)
    begun = time.perf_counter()
    quick = recipe(samples={"train": 2000}, num_points=[256], times=[0.0, 1.0])

    def nothing(recipe: Recipe, store: Path, part: Part, count: int) -> Part:
        parts.commit(recipe, store, part, {"u": np.zeros((part.size, 2, 256), "f4")})
        return part

    complete(quick, folder, nothing, engine=Threads(1))
    each = (time.perf_counter() - begun) / len(parts.parts_of(quick))
    solve, commit = statistics.median(solved), statistics.median(committed)
    print(
        f"a part: solved in {solve:.2f} s, written, read back and committed in {1e3 * commit:.1f} ms "
        f"({commit / solve:.1%}); all of a part that solves nothing: {1e3 * each:.1f} ms "
        f"({each / solve:.1%} of that solve)\n"
    )


def busy(seconds: list[float]) -> float:
    """A worker's kind of work, alone in a process."""
    one = recipe(times=[0.0, 1.0], samples={"train": 20})
    part = parts.parts_of(one)[0]
    parts.compute(one, part, 20)
    began = time.perf_counter()
    for _ in range(6):
        parts.compute(one, part, 20)
    return time.perf_counter() - began


def generated(one: Recipe, root: Path, count: int) -> tuple[float, float]:
    """Seconds of the whole, and parts a second once the first is there."""
    came: list[float] = []

    def tell(done: int, total: int, note: str) -> None:
        if done:
            came.append(time.perf_counter())

    began = time.perf_counter()
    generate(one, root, workers=count, progress=tell)
    return time.perf_counter() - began, (len(came) - 1) / (came[-1] - came[0])


def workers(folder: Path) -> None:
    """Two against one, and the machine's own two processes, in turn."""
    context = multiprocessing.get_context("spawn")
    gains, wholes, rates = [], [], []
    with context.Pool(2) as pool:
        pool.map(busy, [[], []])
        for round_ in range(3):
            (alone,) = pool.map(busy, [[]])
            both = max(pool.map(busy, [[], []], chunksize=1))
            gains.append(2 * alone / both)
            one = recipe(times=[0.0, 1.0], samples={"train": 20 * 160}, seed=round_)
            single, double = (generated(one, folder / f"{round_}-{count}", count) for count in (1, 2))
            wholes.append(single[0] / double[0])
            rates.append(double[1] / single[1])
    gain, whole, rate = (statistics.median(values) for values in (gains, wholes, rates))
    print(
        f"two workers against one, 160 parts: {rate:.2f}x the parts a second ({rate / gain:.0%} of the "
        f"{gain:.2f}x that two processes of this machine give), {whole:.2f}x with start, certificate and "
        "statistics\n"
    )


def by_tolerance(folder: Path) -> None:
    print(
        "| tolerance | found | error on 20 other samples | habit | found | gain |\n|---|---|---|---|---|---|"
    )
    for goal in (1e-3, 1e-5):
        print(found_against_habit(goal))
    print()


def found_against_habit(goal: float) -> str:
    times = {"stop": 1.0, "count": 21}
    habit = recipe(solver={"num_points": 1024, "dt": 1e-3}, times=times)
    found, _ = tolerance.search(recipe(tolerance=goal, solver={"num_points": 256, "dt": 2.5e-3}, times=times))
    drawn = instances.batch(habit, "train", 0, [0] * 20)

    def solved(solver: Solver) -> Tensor:
        return instances.solve(habit, drawn, habit.times, solver)["u"]

    slow, fast = in_turn([lambda: solved(habit.solver), lambda: solved(found)], 5, warmup=1)
    truth = solved(habit.solver).flatten(1)
    error = float(((solved(found).flatten(1) - truth).norm(dim=1) / truth.norm(dim=1)).max())
    return (
        f"| {goal:g} | {found.num_points} points, dt {found.dt:g} | {error:.1e} "
        f"| {20 / slow:.1f} samples/s | {20 / fast:.1f} samples/s | {slow / fast:.1f} |"
    )


PEAKS = """
import json, resource, sys
from dlde.datasets.generate import generate
from dlde.datasets.recipe import Recipe
if __name__ == "__main__":
    generate(Recipe.parse(json.loads(sys.argv[1]), source="benchmark"), sys.argv[2], workers=2)
    print(*(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


def memory(folder: Path) -> None:
    print("| data | peak of a worker | peak of the driver |\n|---|---|---|")
    file = folder / "peak.py"
    file.write_text(PEAKS)
    for gigabytes in (1, 10):
        count = int(gigabytes * 1e9 / (513 * 1024 * 4))
        one = recipe(samples={"train": count}, solver={"num_points": 256, "dt": 1e-2})
        root = folder / str(gigabytes)
        out = subprocess.run(  # noqa: S603
            [sys.executable, str(file), json.dumps(one.dump()), str(root)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        driver, worker = (int(kilobytes) / 1e3 for kilobytes in out.split())
        print(f"| {gigabytes} GB | {worker:.0f} MB | {driver:.0f} MB |", flush=True)
        shutil.rmtree(root)
    print()


if __name__ == "__main__":
    main()
