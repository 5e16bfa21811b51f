"""Time of one Burgers step of a batch: prints a table of ours, exponax (where installed) and the FFTs.

    python benchmarks/burgers_solver.py

Same equation, grid, step and initial states; candidates in turn, medians of processor time, one
thread. The FFTs alone
(4 pairs a step) are what no Runge-Kutta scheme of four stages can avoid. Answers are compared first.
"""

import os

os.environ.update(
    OMP_NUM_THREADS="1", XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from timing import machine, processor_time

from dlde.numerics.random_fields import gaussian_field
from dlde.numerics.spectral import Scheme, Stepper, Transform
from dlde.problems.periodic import quadratic

VISCOSITY, DT, NUM_STEPS, BATCH, REPEATS = 0.02, 2e-3, 50, 256, 7
Candidate = Callable[[], NDArray[np.floating]]


def ours(u0: torch.Tensor, scheme: Scheme) -> Candidate:
    transform = Transform((u0.shape[-1],), (1.0,))
    (k,) = transform.wavenumbers()
    flux = torch.from_numpy(-0.5j * k).to(transform.forward(u0))
    stepper = Stepper(-VISCOSITY * k**2, quadratic(transform, flux), scheme)
    return lambda: transform.backward(
        stepper.solve(transform.forward(u0), (DT * NUM_STEPS,), DT)[:, 0]
    ).numpy()


def transforms_alone(u0: torch.Tensor) -> Candidate:
    v, n = torch.fft.rfft(u0), u0.shape[-1]

    def run() -> NDArray[np.floating]:
        for _ in range(4 * NUM_STEPS):
            u = torch.fft.irfft(v, n=n)
            torch.fft.rfft(u)
        return u.numpy()

    return run


def exponax(u0: torch.Tensor) -> Candidate:
    import exponax
    import jax

    jax.config.update("jax_enable_x64", u0.dtype == torch.float64)
    stepper = exponax.stepper.Burgers(
        1, 1.0, u0.shape[-1], DT, diffusivity=VISCOSITY, convection_scale=1.0, conservative=True, order=4
    )
    solve = jax.jit(jax.vmap(exponax.repeat(stepper, NUM_STEPS)))
    initial = jax.numpy.asarray(u0.numpy())[:, None]
    return lambda: np.asarray(solve(initial))[:, 0]


def main() -> None:
    torch.set_num_threads(1)
    rival = importlib.util.find_spec("exponax") is not None
    print(f"{machine(1)}, batch {BATCH}")
    print("| points | precision | candidate | us a step | of exponax | difference |\n|" + " --- |" * 6)
    for dtype in (torch.float64, torch.float32):
        for num_points in (128, 256, 1024):
            generator = np.random.default_rng(100)
            law = {"exponent": 2.0, "tau": 5.0, "sigma": 25.0, "num_modes": 32}
            fields = [gaussian_field(generator, (num_points,), (1.0,), **law) for _ in range(BATCH)]
            u0 = torch.from_numpy(np.stack(fields)).to(dtype)
            candidates = {"dlde if-rk4": ours(u0, "if-rk4"), "dlde etdrk4": ours(u0, "etdrk4")}
            if rival:
                candidates["exponax etdrk4"] = exponax(u0)
            candidates["FFTs alone"] = transforms_alone(u0)
            compare(candidates, num_points, str(dtype).removeprefix("torch."))


def compare(candidates: dict[str, Candidate], num_points: int, precision: str) -> None:
    answers = {name: run() for name, run in candidates.items()}
    reference = answers["dlde if-rk4"]
    median = {name: taken / NUM_STEPS for name, taken in processor_time(candidates, REPEATS).items()}
    for name, value in median.items():
        ratio = f"{median['exponax etdrk4'] / value:.2f}x" if "exponax etdrk4" in median else "-"
        difference = np.linalg.norm(answers[name] - reference) / np.linalg.norm(reference)
        same = "-" if name == "FFTs alone" else f"{difference:.1e}"
        assert name == "FFTs alone" or difference < 1e-4, f"{name} gives another answer: {difference}"
        print(f"| {num_points} | {precision} | {name} | {1e6 * value:.0f} | {ratio} | {same} |", flush=True)


if __name__ == "__main__":
    main()
