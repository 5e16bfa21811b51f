"""How soon the command line answers: `import dlde` and `dlde --help`, median of several whole processes."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time

RUNS = 11


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return time.perf_counter() - began


def main() -> None:
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import dlde": [sys.executable, "-c", "import dlde"],
        "dlde --help": [sys.executable, "-m", "dlde", "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS + 1):  # in turn; the first round warms the caches
        for name, command in commands.items():
            times[name].append(seconds(command))
    print(f"{platform.machine()}, Python {platform.python_version()}, median of {RUNS} (lowest to highest)")
    for name, values in times.items():
        kept = values[1:]
        print(f"  {name:16} {statistics.median(kept):.3f} s ({min(kept):.3f} to {max(kept):.3f})")


if __name__ == "__main__":
    main()
