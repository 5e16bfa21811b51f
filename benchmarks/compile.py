"""Whether torch.compile pays, method by method on this machine: what `Method.compiles_on` rests on.

    python benchmarks/compile.py [--steps 200] [--repeats 2]

Each method trains by its pipeline with its defaults, in processes of their own, eager and compiled in turn.
A step's time is that of the second half of the steps; the time to compile is what the first half took
beyond it. Compiling pays where the method's default number of steps is beyond the break-even.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import machine

CASES = {  # pipeline, variant of its study
    "fno": ("neural-operator", None),
    "fcn": ("neural-operator", "fcn"),
    "pinn": ("adversarial-sampling", "uniform"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--methods", default=",".join(CASES))
    options = parser.parse_args()
    print(machine(2), "\n")
    print("| method | eager ms | compiled ms | compiling s | break-even steps | default steps | pays |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for method in options.methods.split(","):
            print(row(method, options.steps, options.repeats, Path(folder)), flush=True)


def row(method: str, steps: int, repeats: int, root: Path) -> str:
    pipeline, variant = CASES[method]
    taken: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(repeats):
        for compiled in (False, True):
            taken[compiled].append(trained(pipeline, variant, steps, compiled, root))
    (eager, _), (fast, compiling) = (
        tuple(statistics.median(values) for values in zip(*taken[kind], strict=True))
        for kind in (False, True)
    )
    default = default_steps(pipeline, variant)
    even = compiling / (eager - fast) if fast < eager else float("inf")
    return (
        f"| {method} | {1e3 * eager:.1f} | {1e3 * fast:.1f} | {compiling:.1f} | {even:.0f} | {default} | "
        f"{'yes' if even < default else 'no'} |"
    )


def trained(
    pipeline: str, variant: str | None, steps: int, compiled: bool, root: Path
) -> tuple[float, float]:
    """Seconds of a step, and of what came before steps took that long."""
    done = subprocess.run(  # noqa: S603
        [
            sys.executable, "-m", "dlde", "train", pipeline, *(["--variant", variant] if variant else []),
            "--set", f"method.descent.steps={steps}", "--set", f"training.compile={str(compiled).lower()}",
            "--root", str(root), "--fresh", "--json",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    run = json.loads(done.stdout)["run"]
    (curve,) = (root / "runs" / run / "curves").glob("fit*.jsonl")
    seconds = [json.loads(line)["seconds"] for line in curve.read_text().splitlines()]
    half = len(seconds) // 2
    step = (seconds[-1] - seconds[half]) / (len(seconds) - 1 - half)
    return step, max(0.0, seconds[half] - step * (half + 1))


def default_steps(pipeline: str, variant: str | None) -> int:
    from dlde.pipeline import Pipeline

    method = Pipeline.load(pipeline, variant=variant).method
    return int(method.descent.steps)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
