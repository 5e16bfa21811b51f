"""Training step of our Fourier neural operator against neuraloperator's, with equal weights.

    python benchmarks/fno_step.py [--threads 1] [--repeats 40] [--compiled] [--device cuda]
    python benchmarks/fno_step.py --errors | --roads

Needs `pip install neuraloperator` (tried with 2.0.0). Both networks hold the same weights, which is
checked by their answers; a step is forward, relative L2 loss, backward and Adam. Steps are taken in
turn; the table gives medians, and the ratio to the faster of the rival's two contractions
(`implementation`). The rival's complex weights rule out torch's fused Adam, so it has torch's default
one. `--compiled` has both by torch.compile, too. `--errors` trains both on the same small data from the
same weights and prints their test errors, `--roads` the crossover of the two roads of `dlde.nn.fourier`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
from collections.abc import Callable
from typing import Any

import torch
from timing import in_turn, machine
from torch import Tensor, nn

from dlde import metrics
from dlde.methods.fno import FourierNetwork
from dlde.nn.fourier import SpectralConv1d, SpectralConv2d
from dlde.problem import Axis

CASES = (  # dims, points per axis, modes, width, batch; weights in the layers alone matter for the time
    ("FNO-1d, Burgers small", 1, 128, 16, 32, 20),
    ("FNO-2d, Darcy small", 2, 43, 8, 24, 10),
    ("FNO-2d, Navier-Stokes", 2, 64, 12, 20, 10),
)
PROJECTION = 128
IMPLEMENTATIONS = ("factorized", "reconstructed")  # how the rival contracts; the first is its default
ERROR_STEPS = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--roads", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the steps")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    version = importlib.metadata.version("neuraloperator")
    print(f"{machine(options.threads, options.device)}, neuraloperator {version}\n")
    if options.roads:
        roads(options.repeats)
    elif options.errors:
        errors()
    else:
        steps(options.repeats, compiled=options.compiled, device=options.device)


def steps(repeats: int, *, compiled: bool, device: str) -> None:
    names = ["dlde", *IMPLEMENTATIONS, *(["dlde compiled", "rival compiled"] if compiled else [])]
    print(
        f"| case | points | modes | width | batch | {' | '.join(f'{name} (ms)' for name in names)} | ratio |"
    )
    print("|---" * (6 + len(names)) + "|")
    for name, dims, points, modes, width, batch in CASES:
        ours, theirs = pair(dims, points, modes, width)
        # The rival turns its spectrum back by the wrong shift where an axis is odd: compare on an even one.
        check(ours, theirs, torch.randn(2, *[points + points % 2] * dims, 1))
        rivals = [theirs, *(pair(dims, points, modes, width, one)[1] for one in IMPLEMENTATIONS[1:])]
        models: list[Any] = [model.to(device) for model in (ours, *rivals)]
        if compiled:
            models += [torch.compile(ours), torch.compile(theirs)]
        inputs, targets = (torch.randn(batch, *[points] * dims, 1, device=device) for _ in range(2))
        times = in_turn(
            [stepper(m, inputs, targets, fused=not isinstance(_inner(m), Rival)) for m in models], repeats
        )
        fastest = {
            kind: min(t for t, m in zip(times, models, strict=True) if isinstance(_inner(m), kind))
            for kind in (FourierNetwork, Rival)
        }
        print(
            f"| {name} | {points}{'²' if dims == 2 else ''} | {modes} | {width} | {batch} | "
            + " | ".join(f"{1e3 * t:.2f}" for t in times)
            + f" | {fastest[Rival] / fastest[FourierNetwork]:.2f} |",
            flush=True,
        )


def _inner(model: Any) -> nn.Module:
    inner: nn.Module = getattr(model, "_orig_mod", model)
    return inner


def errors() -> None:
    """Both trained for the same steps: a field of random low modes, moved and squashed, 3 seeds."""
    print("| case | seed | dlde | neuraloperator |\n|---|---|---|---|")
    for dims, points, modes, width in ((1, 128, 16, 32), (2, 32, 8, 16)):
        for seed in (100, 101, 102):
            found = []
            for model, fused in zip(pair(dims, points, modes, width, seed=seed), (True, False), strict=True):
                generator = torch.Generator().manual_seed(seed)
                u, v = moved(160, dims, points, generator)
                optimizer = torch.optim.Adam(model.parameters(), 4e-3, fused=fused)
                schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ERROR_STEPS)
                for _ in range(ERROR_STEPS):
                    some = torch.randint(128, (16,), generator=generator)
                    optimizer.zero_grad(set_to_none=True)
                    metrics.relative_l2(model(u[some]), v[some]).mean().backward()
                    optimizer.step()
                    schedule.step()
                with torch.no_grad():
                    found.append(metrics.relative_l2(model(u[128:]), v[128:]).mean().item())
            print(f"| FNO-{dims}d | {seed} | {found[0]:.4f} | {found[1]:.4f} |", flush=True)


def moved(samples: int, dims: int, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    coarse = torch.randn(samples, *[8] * dims, generator=generator)
    axes = tuple(range(1, dims + 1))
    low = torch.fft.fftn(coarse, dim=axes, norm="forward")
    padded = torch.zeros(samples, *[points] * dims, dtype=low.dtype)
    padded[(slice(None), *[slice(0, 4)] * dims)] = low[(slice(None), *[slice(0, 4)] * dims)]
    u = 2 * torch.fft.ifftn(padded, dim=axes, norm="forward").real
    return u.unsqueeze(-1), torch.tanh(u + u.roll([points // 4] * dims, axes)).unsqueeze(-1)


class Rival(nn.Module):
    """neuraloperator's FNO of the same architecture, taking (batch, *space, 1) as ours does."""

    def __init__(self, dims: int, modes: int, width: int, implementation: str) -> None:
        super().__init__()
        from neuralop.models import FNO

        self.network = FNO(
            n_modes=(*[2 * modes] * (dims - 1), 2 * (modes - 1)),  # kept on the last axis: n // 2 + 1
            in_channels=1,
            out_channels=1,
            hidden_channels=width,
            n_layers=4,
            lifting_channel_ratio=0,
            projection_channel_ratio=(PROJECTION + 0.5) / width,
            use_channel_mlp=False,
            fno_skip="linear",
            positional_embedding="grid",
            implementation=implementation,
        )
        self.network.fno_blocks.non_linearity = every_other(nn.functional.gelu)

    def forward(self, u: Tensor) -> Tensor:
        out: Tensor = self.network(u.movedim(-1, 1)).movedim(1, -1)
        return out


def every_other(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Without its channel MLP the rival applies gelu twice after each layer; we and the paper do once."""
    turns = itertools.cycle((True, False))
    return lambda u: function(u) if next(turns) else u


def pair(
    dims: int, points: int, modes: int, width: int, implementation: str = IMPLEMENTATIONS[0], *, seed: int = 0
) -> tuple[FourierNetwork, Rival]:
    """Ours, and the rival with the same weights."""
    torch.manual_seed(seed)
    axes = (Axis(start=0.0, stop=1.0, num_points=points, boundary="periodic"),) * dims
    ours = FourierNetwork(axes, modes=modes, width=width, layers=4, projection=PROJECTION, padding=0.0)
    theirs = Rival(dims, modes, width, implementation)
    network = theirs.network
    with torch.no_grad():
        network.lifting.fcs[0].weight.copy_(ours.lifting.weight.unsqueeze(-1))
        network.lifting.fcs[0].bias.copy_(ours.lifting.bias)
        for mine, convolution, skip in zip(
            ours.layers, network.fno_blocks.convs, network.fno_blocks.fno_skips, strict=True
        ):
            weight = torch.complex(*mine.spectral.weight)
            weight = weight if dims == 1 else weight.roll(modes, 0)  # the rival starts at mode -modes
            convolution.weight.tensor.copy_(weight.movedim((-2, -1), (0, 1)))
            convolution.bias.copy_(mine.pointwise.bias.view(convolution.bias.shape))
            skip.conv.weight.copy_(mine.pointwise.weight.unsqueeze(-1))
        for mine, linear in zip(
            (ours.projection[0], ours.projection[2]), network.projection.fcs, strict=True
        ):
            linear.weight.copy_(mine.weight.unsqueeze(-1))
            linear.bias.copy_(mine.bias)
    return ours, theirs


def check(ours: nn.Module, theirs: nn.Module, u: Tensor) -> None:
    with torch.no_grad():
        difference = (ours(u) - theirs(u)).abs().max() / theirs(u).abs().max()
    assert difference < 1e-5, f"the two networks differ by {difference:.2g}"


def stepper(model: nn.Module, inputs: Tensor, targets: Tensor, *, fused: bool) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=fused)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        metrics.relative_l2(model(inputs), targets).mean().backward()
        optimizer.step()

    return step


def roads(repeats: int) -> None:
    """Forward and backward of one spectral convolution of 32 channels, on a batch of about 40,000 points."""
    print("| points | modes | matrix (ms) | FFT (ms) | ratio |\n|---|---|---|---|---|")
    for dims, sizes, kept in ((1, (128, 1024, 16384), (16, 64, 128)), (2, (64, 128, 256), (8, 16, 24))):
        for modes in kept:
            for points in sizes:
                if points < 2 * modes:
                    continue
                convolution = (SpectralConv1d if dims == 1 else SpectralConv2d)(32, 32, modes)
                u = torch.randn(*[points] * dims, max(1, 40960 // points**dims), 32, requires_grad=True)

                def step(road: str, convolution: nn.Module = convolution, u: Tensor = u) -> None:
                    convolution(u, road=road).sum().backward()

                matrix, fft = in_turn([lambda: step("matrix"), lambda: step("fft")], repeats)
                print(
                    f"| {points}{'²' if dims == 2 else ''} | {modes} | {1e3 * matrix:.2f} | {1e3 * fft:.2f} "
                    f"| {fft / matrix:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
