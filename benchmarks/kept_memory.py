"""What it gives that a training keeps the memory that its steps free (dlde/memory.py).

    python benchmarks/kept_memory.py [--repeats 3]

Each case runs in processes of its own, with and without, in turn; one thread. Pages are those that the
kernel had to provide in a step; the peak is the largest resident set of the whole process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from timing import machine

from dlde import memory, metrics
from dlde.methods.fno import FourierNetwork
from dlde.nn.mlp import MLP
from dlde.numerics import sampling
from dlde.problem import Axis
from dlde.problems.burgers import Burgers, Sine
from dlde.tasks.collocation import Trial, corners

STEPS = 12


def fno(dims: int, points: int, modes: int, width: int, batch: int) -> tuple[FourierNetwork, torch.Tensor]:
    axes = (Axis(start=0.0, stop=1.0, num_points=points, boundary="periodic"),) * dims
    model = FourierNetwork(axes, modes=modes, width=width, layers=4, projection=128, padding=0.0)
    return model, torch.randn(batch, *[points] * dims, 1)


def trained(model: FourierNetwork, u: torch.Tensor) -> Callable[[], None]:
    return _trained(model, lambda: metrics.relative_l2(model(u), u).mean())


def asked(model: FourierNetwork, u: torch.Tensor) -> Callable[[], None]:
    return torch.inference_mode()(lambda: model(u))


def pinn(points: int) -> Callable[[], None]:
    problem = Burgers(
        boundary="dirichlet", domain=(-1.0, 1.0), viscosity=0.01 / math.pi, initial_condition=Sine()
    )
    trial = Trial(problem, MLP([2, *[64] * 4, 1]))
    inside = sampling.sobol(points, *corners(problem), seed=0).float()
    return _trained(
        trial, lambda: torch.stack([r.square().mean() for r in trial.residual(inside).values()]).sum()
    )


CASES: dict[str, Callable[[], Callable[[], None]]] = {
    "FNO-1d, 128 points, batch 20": lambda: trained(*fno(1, 128, 16, 32, 20)),
    "FNO-2d, 64², batch 10": lambda: trained(*fno(2, 64, 12, 20, 10)),
    "FNO-2d, 64², batch 32": lambda: trained(*fno(2, 64, 12, 20, 32)),
    "PINN 4x64, 10,000 points": lambda: pinn(10_000),
    "PINN 4x64, 100,000 points": lambda: pinn(100_000),
    "answers of FNO-2d, 64², batch 64": lambda: asked(*fno(2, 64, 12, 20, 64)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "HOW"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(*given.one)))
        return
    print(machine(1) + "\n")
    print("| step | given back (ms) | kept (ms) | gain | pages (MB) | kept (MB) | peak (MB) | kept (MB) |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        rows: dict[str, list[list[float]]] = {"given back": [], "kept": []}
        for _ in range(given.repeats):
            for how, found in rows.items():
                command = [sys.executable, __file__, "--one", case, how]
                found.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))  # noqa: S603
        (lost, lost_pages, lost_peak), (ms, pages, peak) = (
            [statistics.median(column) for column in zip(*found, strict=True)] for found in rows.values()
        )
        print(
            f"| {case} | {lost:.1f} | {ms:.1f} | {lost / ms:.2f} | {lost_pages:.0f} | {pages:.1f} "
            f"| {lost_peak:.0f} | {peak:.0f} |",
            flush=True,
        )


def measured(case: str, how: str) -> tuple[float, float, float]:
    """Milliseconds of a step, MB of new pages in a step, MB of the largest resident set."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with memory.kept() if how == "kept" else contextlib.nullcontext():
        step = CASES[case]()
        for _ in range(3):
            step()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        times = []
        for _ in range(STEPS):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pages = (usage.ru_minflt - before) * resource.getpagesize() / STEPS / 2**20
    return 1e3 * statistics.median(times), pages, usage.ru_maxrss / 1024


def _trained(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), 1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
