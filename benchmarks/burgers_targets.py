"""How much is left of u(., 1) at each viscosity: prints the table of docs/decisions/0002.

    python benchmarks/burgers_targets.py [num_instances]

A relative error says little where the target has nearly vanished. The instances are the random
fields of the Burgers problem (seed 100), the same for every viscosity.
"""

import sys

import numpy as np
import torch

from dlde.problem import Solver
from dlde.problems.burgers import Burgers

VISCOSITIES = (0.1, 0.05, 0.02, 0.01, 0.005)
NUM_POINTS = 1024


def main(num_instances: int = 1000) -> None:
    torch.set_num_threads(1)
    header = ("viscosity", "rms min", "1 %", "median", "< 0.1 median", "< 0.01", "energy > 16", "worst", "> 42")
    print("".join(f"{name:>14}" for name in header))
    for viscosity in VISCOSITIES:
        problem = Burgers(viscosity=viscosity)
        axes = problem.axes((NUM_POINTS,))
        generator = np.random.default_rng(100)
        initial = np.stack([problem.draw(generator, axes)["u"] for _ in range(num_instances)])
        u = problem.solve({"u": torch.from_numpy(initial)}, axes, (1.0,), Solver(dt=2e-3))["u"][:, 0]
        print("".join(f"{value:14.3g}" for value in (viscosity, *summarise(u))), flush=True)


def summarise(u: torch.Tensor) -> list[float]:
    """Of targets (sample, x): root mean squares, how many are small, share of energy in high modes."""
    rms = u.square().mean(1).sqrt()
    median = rms.median()
    energy = torch.fft.rfft(u)[:, 1:].abs().square()
    share = [energy[:, cut:].sum(1) / energy.sum(1) for cut in (16, 42)]
    figures = [
        rms.min(),
        rms.quantile(0.01),
        median,
        (rms < 0.1 * median).double().mean(),
        (rms < 0.01).double().mean(),
        share[0].median(),
        share[0].max(),
        share[1].max(),
    ]
    return [float(figure) for figure in figures]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
