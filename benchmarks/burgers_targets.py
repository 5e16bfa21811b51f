"""How much is left of u(., 1) at each viscosity: prints the table of docs/decisions/0002.

    python benchmarks/burgers_targets.py [num_instances]

A relative error says little where the target has nearly vanished, or is one sine for every input.
The instances are the random fields of the Burgers problem (seed 100), the same for each viscosity.
"""

import sys

import numpy as np
import torch
from torch import Tensor

from dlde.problem import Solver
from dlde.problems.burgers import Burgers

VISCOSITIES = (0.1, 0.05, 0.02, 0.01, 0.005)


def main(num_instances: int = 1000) -> None:
    torch.set_num_threads(1)
    for viscosity in VISCOSITIES:
        problem = Burgers(viscosity=viscosity)
        axes = problem.axes((1024,))
        generator = np.random.default_rng(100)
        initial = torch.from_numpy(
            np.stack([problem.draw(generator, axes)["u"] for _ in range(num_instances)])
        )
        target = problem.solve({"u": initial}, axes, (1.0,), Solver(num_points=512, dt=5e-3))["u"][:, 0]
        figures = {"viscosity": viscosity, **summarise(initial, target)}
        if viscosity == VISCOSITIES[0]:
            print("| " + " | ".join(figures) + " |\n|" + " --- |" * len(figures))
        print("| " + " | ".join(f"{value:.3g}" for value in figures.values()) + " |", flush=True)


def summarise(initial: Tensor, target: Tensor) -> dict[str, float]:
    """Root mean squares of (sample, x), the share of small ones, the share of energy in high modes."""
    rms = target.square().mean(1).sqrt()
    kept = rms / initial.square().mean(1).sqrt()
    energy = torch.fft.rfft(target)[:, 1:].abs().square()
    energy /= energy.sum(1, keepdim=True)
    figures = {
        "rms: min": rms.min(),
        "1 %": rms.quantile(0.01),
        "median": rms.median(),
        "share < 0.1 median": (rms < 0.1 * rms.median()).double().mean(),
        "share < 0.01": (rms < 0.01).double().mean(),
        "share < 0.1 of its input": (kept < 0.1).double().mean(),
        "median of rms / input's": kept.median(),
        "energy above mode 1: median": energy[:, 1:].sum(1).median(),
        "above 16: largest": energy[:, 16:].sum(1).max(),
        "above 42: largest": energy[:, 42:].sum(1).max(),
    }
    return {name: float(value) for name, value in figures.items()}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
