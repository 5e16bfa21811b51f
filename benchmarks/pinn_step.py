"""Training step of a physics-informed network against DeepXDE's (PyTorch), with equal weights.

    python benchmarks/pinn_step.py [--threads 1] [--repeats 15] [--compiled] [--memory] [--device cuda]

Needs `pip install deepxde` (tried with 1.15.0). Both sides are the same function: a tanh network of the
coordinates scaled to [-1, 1], inside the same conditions where the case has any. Loss and gradients at the
same points are compared before anything is timed. A step is the loss (mean square of the residual), backward
and Adam (fused, on both sides); steps are taken in turn, the table gives medians. DeepXDE differentiates by
its `dde.grad.jacobian` and `hessian`; `--compiled` has dlde's loss by torch.compile, which cannot compile the
nested backward passes that DeepXDE needs. `--memory` gives the peak of a step instead: the growth of the
largest resident set over three steps, each side in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("DDE_BACKEND", "pytorch")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from timing import in_turn, machine
from torch import Tensor

from dlde.nn.mlp import MLP
from dlde.numerics import sampling
from dlde.numerics.jets import Jet
from dlde.problem import Residual, Variable
from dlde.problems.burgers import Burgers, Sine
from dlde.tasks.collocation import Trial, corners

CASES = (  # name, dimensions of the Poisson problem or 0 for Burgers, hidden layers, width, points
    ("Burgers 4x64", 0, 4, 64, 10_000),
    ("Burgers 8x20", 0, 8, 20, 10_000),
    ("Poisson d=2, 4x64", 2, 4, 64, 10_000),
    ("Poisson d=10, 4x64", 10, 4, 64, 2_000),
)


class Poisson(Residual):
    """- laplacian u = 1 on (-1, 1)^dims, without conditions."""

    def __init__(self, dims: int) -> None:
        self.names = "abcdefghijklmnopqrstuvwxyz"[:dims]

    @property
    def box(self) -> dict[str, tuple[float, float]]:
        return dict.fromkeys(self.names, (-1.0, 1.0))

    @property
    def unknowns(self) -> dict[str, Variable]:
        return {"u": Variable(dims=(), long_name="potential")}

    @property
    def derivatives(self) -> tuple[str, ...]:
        return ()

    @property
    def operators(self) -> dict[str, dict[str, float]]:
        return {"laplacian": {2 * name: 1 for name in self.names}}

    def residual(self, x: Mapping[str, Tensor], u: Mapping[str, Jet]) -> dict[str, Tensor]:
        return {"poisson": -u["u"]["laplacian"] - 1}

    def constrain(self, x: Mapping[str, Jet], network: Mapping[str, Jet]) -> dict[str, Jet]:
        return dict(network)

    def reference(self, points: Tensor) -> dict[str, Tensor]:
        """The solution that vanishes at the origin and is alike in all directions: -|x|^2 / (2 dims)."""
        return {"u": -points.square().sum(1) / (2 * points.shape[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak(int(options.peak[0]), options.peak[1], options.device))
        return
    print(f"{machine(options.threads, options.device)}, deepxde {importlib.metadata.version('deepxde')}\n")
    if options.memory:
        memory(options.device)
    else:
        times(options.repeats, compiled=options.compiled, device=options.device)


def times(repeats: int, *, compiled: bool, device: str) -> None:
    head = ["dlde (ms)", *(["dlde compiled (ms)"] if compiled else []), "DeepXDE (ms)", "ratio"]
    print(f"| case | points | {' | '.join([*head, *(['ratio compiled'] if compiled else [])])} |")
    print("|---" * (len(head) + 2 + compiled) + "|")
    for name, dims, layers, width, count in CASES:
        trial, ours, theirs, rival = pair(dims, layers, width, device)
        points = points_of(trial, count).to(device)
        check(trial, ours, theirs, rival, points)
        candidates = [stepper(trial, ours, points)]
        if compiled:
            torch.compiler.reset()
            fused = torch.compile(ours)
            torch.testing.assert_close(fused(points), ours(points), rtol=1e-4, atol=1e-7)
            candidates.append(stepper(trial, fused, points))
        candidates.append(stepper(rival, theirs, points))
        *mine, last = in_turn(candidates, repeats)
        row = [f"{t * 1e3:.1f}" for t in (*mine, last)] + [f"{last / t:.2f}" for t in mine]
        print(f"| {name} | {count} | {' | '.join(row)} |", flush=True)


def memory(device: str) -> None:
    print("| case | points | dlde (MB) | DeepXDE (MB) | ratio |")
    print("|---" * 5 + "|")
    for number, (name, *_, count) in enumerate(CASES):
        mine, theirs = (
            float(
                subprocess.run(  # noqa: S603
                    [sys.executable, __file__, "--device", device, "--peak", str(number), side],
                    check=True, capture_output=True, text=True,
                ).stdout.split()[-1]
            )
            for side in ("dlde", "deepxde")
        )  # fmt: skip
        print(f"| {name} | {count} | {mine:.0f} | {theirs:.0f} | {mine / theirs:.2f} |", flush=True)


def peak(number: int, side: str, device: str) -> float:
    """Growth of the largest resident set over three steps (MB), after a step of 100 points.

    On a GPU, of the largest allocation there.
    """
    _, dims, layers, width, count = CASES[number]
    trial, ours, theirs, rival = pair(dims, layers, width, device)
    model, loss = (trial, ours) if side == "dlde" else (rival, theirs)
    stepper(model, loss, points_of(trial, 100).to(device))()
    step = stepper(model, loss, points_of(trial, count).to(device))
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


Loss = Callable[[Tensor], Tensor]


def pair(
    dims: int, layers: int, width: int, device: str = "cpu"
) -> tuple[Trial, Loss, Loss, torch.nn.Module]:
    """dlde's trial function with its loss, DeepXDE's loss and network, with the same weights."""
    import deepxde as dde

    torch.manual_seed(0)
    burgers = Burgers(
        boundary="dirichlet", domain=(-1.0, 1.0), viscosity=0.01 / math.pi, initial_condition=Sine()
    )
    problem: Any = Poisson(dims) if dims else burgers
    sizes = [len(problem.box), *[width] * layers, 1]
    trial = Trial(problem, MLP(sizes))
    network = dde.nn.FNN(sizes, "tanh", "Glorot uniform")
    assert isinstance(trial.network, MLP)
    with torch.no_grad():
        for mine, other in zip(trial.network.layers, network.linears, strict=True):
            other.weight.copy_(mine.weight)
            other.bias.copy_(mine.bias)
    low, high = corners(problem)
    middle, radius = ((low + high).float() / 2).to(device), ((high - low).float() / 2).to(device)
    trial.to(device)
    network.to(device)
    if not dims:
        k, amplitude = burgers._wavenumber, burgers._amplitude

        def conditions(x: Tensor, y: Tensor) -> Tensor:
            space, time = x[:, :1], x[:, 1:]
            bubble = 4 / burgers.extent**2 * (space + 1) * (1 - space)
            return amplitude * torch.sin(k * (space + 1)) + (1 - torch.exp(-time)) * bubble * y

        network.apply_feature_transform(lambda x: (x - middle) / radius)
        network.apply_output_transform(conditions)

    def ours(points: Tensor) -> Tensor:
        return torch.stack([r.square().mean() for r in trial.residual(points).values()]).sum()

    def theirs(points: Tensor) -> Tensor:
        x = points.detach().requires_grad_()
        y = network(x)
        if dims:
            laplacian = sum(dde.grad.hessian(y, x, i=i, j=i) for i in range(dims))
            residual = -laplacian - 1
        else:
            u_x, u_t = dde.grad.jacobian(y, x, j=0), dde.grad.jacobian(y, x, j=1)
            residual = u_t + y * u_x - burgers.viscosity * dde.grad.hessian(y, x, i=0, j=0)
        dde.grad.clear()
        return residual.square().mean()

    return trial, ours, theirs, network


def points_of(trial: Trial, count: int) -> Tensor:
    """Sobol points of the box, float32."""
    return sampling.sobol(count, *corners(trial.problem), seed=0).float()


def check(trial: Trial, ours: Loss, theirs: Loss, rival: torch.nn.Module, points: Tensor) -> None:
    """Both have the same loss and the same gradients."""
    losses = [ours(points), theirs(points)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    for loss, model in zip(losses, (trial, rival), strict=True):
        model.zero_grad()
        loss.backward()
    for mine, other in zip(trial.parameters(), rival.parameters(), strict=True):
        if mine.grad is None:  # the last bias, which a residual of derivatives alone does not see
            assert other.grad is None or not other.grad.any()
            continue
        assert other.grad is not None
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-4 * scale)


def stepper(model: torch.nn.Module, loss: Loss, points: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(points).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
