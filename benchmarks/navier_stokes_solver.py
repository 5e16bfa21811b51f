"""Time of one Navier-Stokes step of a batch: a table of ours, exponax (where installed) and the FFTs.

    python benchmarks/navier_stokes_solver.py

Vorticity, decaying, 64 x 64 points, batch 16; same equation, step and initial states; candidates in turn,
medians of processor time, one thread. The FFTs alone (16 real transforms a step, on kept columns) are what
four evaluations in this form cannot avoid. Answers are compared first. exponax's cut keeps one mode less
at this size, so that states are compared where both are resolved; its vorticity has the other sign.
"""

import os

os.environ.update(
    OMP_NUM_THREADS="1", XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import argparse
import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from timing import machine, processor_time

from dlde.numerics.random_fields import gaussian_field
from dlde.numerics.spectral import Stepper, Transform
from dlde.numerics.vorticity import VorticityAdvection

POINTS, VISCOSITY, DT, NUM_STEPS, BATCH = 64, 1e-3, 1e-2, 20, 16
Candidate = Callable[[], NDArray[np.floating]]


def ours(w0: torch.Tensor) -> Candidate:
    transform = Transform((POINTS, POINTS), (1.0, 1.0))
    kx, ky = transform.wavenumbers()
    v0 = transform.forward(w0)
    stepper = Stepper(-VISCOSITY * (kx**2 + ky**2), VorticityAdvection(transform, v0))

    def run() -> NDArray[np.floating]:
        states = stepper.solve(transform.forward(w0), (DT * NUM_STEPS,), DT)
        return transform.backward(states[:, 0]).numpy()

    return run


def transforms_alone(w0: torch.Tensor) -> Candidate:
    kept = POINTS // 3 + 1
    columns = torch.fft.rfft(torch.stack([w0, w0]))[..., :kept].contiguous()
    rows = torch.fft.rfft(torch.stack([w0, w0]))
    fields = torch.stack([w0, w0])

    def run() -> NDArray[np.floating]:
        for _ in range(4 * NUM_STEPS):
            torch.fft.ifft(columns, dim=-2)
            torch.fft.irfft(rows, n=POINTS)
            torch.fft.rfft(fields)
            torch.fft.fft(columns, dim=-2)
        return w0.numpy()

    return run


def exponax(w0: torch.Tensor) -> Candidate:
    import exponax
    import jax

    jax.config.update("jax_enable_x64", w0.dtype == torch.float64)
    stepper = exponax.stepper.NavierStokesVorticity(
        2, 1.0, POINTS, DT, diffusivity=VISCOSITY, vorticity_convection_scale=-1.0, order=4
    )
    solve = jax.jit(jax.vmap(exponax.repeat(stepper, NUM_STEPS)))
    initial = jax.numpy.asarray(w0.numpy())[:, None]
    return lambda: np.asarray(solve(initial))[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    rival = importlib.util.find_spec("exponax") is not None
    print(f"{machine(1)}, {POINTS} x {POINTS} points, batch {BATCH}")
    if not rival:
        print("exponax is not installed (pip install 'dlde[bench]'): ours against the FFTs alone")
    print("| precision | candidate | ms a step | of exponax | of the FFTs | difference |\n|" + " --- |" * 6)
    for dtype in (torch.float64, torch.float32):
        generator = np.random.default_rng(100)
        law = {"exponent": 2.5, "tau": 7.0, "sigma": 2**0.5 * 7**1.5, "num_modes": 10}
        fields = [gaussian_field(generator, (POINTS, POINTS), (1.0, 1.0), **law) for _ in range(BATCH)]
        w0 = torch.from_numpy(np.stack(fields)).to(dtype)
        candidates = {"dlde if-rk4": ours(w0)}
        if rival:
            candidates["exponax etdrk4"] = exponax(w0)
        candidates["FFTs alone"] = transforms_alone(w0)
        compare(candidates, str(dtype).removeprefix("torch."), repeats)


def compare(candidates: dict[str, Candidate], precision: str, repeats: int) -> None:
    answers = {name: run() for name, run in candidates.items()}
    reference = answers["dlde if-rk4"]
    median = {name: taken / NUM_STEPS for name, taken in processor_time(candidates, repeats).items()}
    for name, value in median.items():
        ratio = f"{median['exponax etdrk4'] / value:.2f}x" if "exponax etdrk4" in median else "-"
        limit = f"{median['FFTs alone'] / value:.2f}"
        difference = np.linalg.norm(answers[name] - reference) / np.linalg.norm(reference)
        same = "-" if name == "FFTs alone" else f"{difference:.1e}"
        assert name == "FFTs alone" or difference < 1e-4, f"{name} gives another answer: {difference}"
        print(f"| {precision} | {name} | {1e3 * value:.2f} | {ratio} | {limit} | {same} |", flush=True)


if __name__ == "__main__":
    main()
