"""Fifty generations killed at random moments, over all engines: the same dataset every time.

    python benchmarks/kills.py [--times 50] [--seed 0] [--engines threads,processes,ray]

Each begins a dataset of 24 parts in a process of its own, waits until a random number of parts is
committed (some, not all), kills the driver or one of its workers by SIGKILL, and starts the same command
again until it has ended well. Digests are compared with that of a generation that nobody disturbed.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

SETS = [
    "num_points=[256]", "samples={train: 90, test: 6}", "storage.part=4", "times={stop: 1.0, count: 5}",
    "problem.initial_condition.num_modes=32", "solver={num_points: 128, dt: 2.0e-3}",
]  # fmt: skip
PARTS = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engines", default="threads,processes,ray")
    options = parser.parse_args()
    engines, chance = options.engines.split(","), random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = finished(Path(folder) / "undisturbed", "threads")
        counted: collections.Counter[tuple[str, str]] = collections.Counter()
        equal = 0
        for number in range(options.times):
            engine = engines[number % len(engines)]
            root = Path(folder) / str(number)
            victim, count = killed(root, engine, chance)
            digest = finished(root, engine)
            equal += digest == undisturbed
            counted[engine, victim] += 1
            verdict = "equal" if digest == undisturbed else f"DIFFERS: {digest}"
            place = f"{victim:6s} killed at {count:2d} of {PARTS} parts"
            print(f"{number + 1:3d}  {engine:9s}  {place}  {verdict}", flush=True)
            shutil.rmtree(root, ignore_errors=True)
    kinds = ", ".join(f"{count} {engine} ({victim})" for (engine, victim), count in sorted(counted.items()))
    print(f"\n{equal} of {options.times} digests are equal to the undisturbed {undisturbed[:12]}...: {kinds}")
    sys.exit(equal != options.times)


def command(root: Path, engine: str) -> list[str]:
    sets = [part for text in SETS for part in ("--set", text)]
    cluster = {"processes": "local"}.get(engine, engine)
    return [
        sys.executable, "-m", "dlde", "data", "generate", "burgers-1d-grf", "--root", str(root),
        "--cluster", cluster, "--workers", "2", "--json", *sets,
    ]  # fmt: skip


def killed(root: Path, engine: str, chance: random.Random) -> tuple[str, int]:
    """Who was killed, and how many parts were committed then; begins anew where it came too late."""
    while True:
        wanted = chance.randint(1, PARTS - 6)
        driver = subprocess.Popen(
            command(root, engine),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while driver.poll() is None and committed(root) < wanted:
            time.sleep(0.002)
        workers = [child for child in psutil.Process(driver.pid).children(recursive=True) if works(child)]
        victim = "worker" if workers and chance.random() < 0.4 else "driver"
        count = committed(root)
        if driver.poll() is None and 0 < count < PARTS:
            if victim == "worker":
                chance.choice(workers).kill()
                driver.wait()  # it gives the part to another worker, and ends well
            else:
                driver.kill()
                driver.wait()
            return victim, count
        driver.wait()
        shutil.rmtree(root, ignore_errors=True)


def works(child: psutil.Process) -> bool:
    try:
        line = " ".join(child.cmdline())
    except psutil.Error:
        return False
    return "spawn_main" in line or ("ray::" in line and "IDLE" not in line and "Agent" not in line)


def committed(root: Path) -> int:
    return len(list(root.glob("data/*.zarr/parts/*.json")))


def finished(root: Path, engine: str) -> str:
    """The digest, once the command has ended well."""
    done = subprocess.run(  # noqa: S603
        command(root, engine), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command(root, engine))}\n{done.stderr}")
    digest: str = json.loads(done.stdout)["digest"]
    return digest


if __name__ == "__main__":
    main()
