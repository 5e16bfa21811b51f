"""Training step of our Fourier neural operator against neuraloperator's, with equal weights.

    python benchmarks/fno_step.py [--threads 1] [--repeats 40] [--roads]

Needs `pip install neuraloperator` (tried with 2.0.0). Both networks hold the same weights, which is
checked by their answers; a step is forward, relative L2 loss, backward and Adam. Steps are taken in
turn; the table gives medians. The rival's complex weights rule out torch's fused Adam, so it has
torch's default one. `--roads` prints the crossover of the two roads of `dlde.nn.fourier` instead.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--roads", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{_processor()}, {os.cpu_count()} cores, {options.threads} thread(s), "
        f"torch {torch.__version__}, neuraloperator {importlib.metadata.version('neuraloperator')}\n"
    )
    if options.roads:
        roads(options.repeats)
        return
    print("| case | points | modes | width | batch | dlde (ms) | neuraloperator (ms) | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for name, dims, points, modes, width, batch in CASES:
        ours, theirs = pair(dims, points, modes, width)
        # The rival turns its spectrum back by the wrong shift where an axis is odd: compare on an even one.
        check(ours, theirs, torch.randn(2, *[points + points % 2] * dims, 1))
        inputs, targets = (torch.randn(batch, *[points] * dims, 1) for _ in range(2))
        mine, rivals = in_turn(
            [stepper(ours, inputs, targets, fused=True), stepper(theirs, inputs, targets, fused=False)],
            options.repeats,
        )
        print(
            f"| {name} | {points}{'²' if dims == 2 else ''} | {modes} | {width} | {batch} "
            f"| {1e3 * mine:.2f} | {1e3 * rivals:.2f} | {rivals / mine:.2f} |",
            flush=True,
        )


class Rival(nn.Module):
    """neuraloperator's FNO of the same architecture, taking (batch, *space, 1) as ours does."""

    def __init__(self, dims: int, modes: int, width: int) -> None:
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
        )
        self.network.fno_blocks.non_linearity = every_other(nn.functional.gelu)

    def forward(self, u: Tensor) -> Tensor:
        out: Tensor = self.network(u.movedim(-1, 1)).movedim(1, -1)
        return out


def every_other(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Without its channel MLP the rival applies gelu twice after each layer; we and the paper do once."""
    turns = itertools.cycle((True, False))
    return lambda u: function(u) if next(turns) else u


def pair(dims: int, points: int, modes: int, width: int) -> tuple[FourierNetwork, Rival]:
    """Ours, and the rival with the same weights."""
    torch.manual_seed(0)
    axes = (Axis(start=0.0, stop=1.0, num_points=points, boundary="periodic"),) * dims
    ours = FourierNetwork(axes, modes=modes, width=width, layers=4, projection=PROJECTION, padding=0.0)
    theirs = Rival(dims, modes, width)
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


def in_turn(candidates: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each, after three rounds of warming up."""
    seconds: list[list[float]] = [[] for _ in candidates]
    for _ in range(repeats + 3):
        for times, candidate in zip(seconds, candidates, strict=True):
            start = time.perf_counter()
            candidate()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[3:]) for times in seconds]


def roads(repeats: int) -> None:
    """Forward and backward of one spectral convolution of 32 channels, on a batch of about 40,000 points."""
    print("| points | modes | matrix (ms) | FFT (ms) | ratio |\n|---|---|---|---|---|")
    for dims, sizes, kept in ((1, (128, 1024, 16384), (16, 64, 128)), (2, (64, 128, 256), (8, 16, 24))):
        for modes in kept:
            for points in sizes:
                if points < 2 * modes:
                    continue
                convolution = (SpectralConv1d if dims == 1 else SpectralConv2d)(32, 32, modes)
                u = torch.randn(max(1, 40960 // points**dims), *[points] * dims, 32, requires_grad=True)

                def step(road: str, convolution: nn.Module = convolution, u: Tensor = u) -> None:
                    convolution(u, road=road).sum().backward()

                matrix, fft = in_turn([lambda: step("matrix"), lambda: step("fft")], repeats)
                print(
                    f"| {points}{'²' if dims == 2 else ''} | {modes} | {1e3 * matrix:.2f} | {1e3 * fft:.2f} "
                    f"| {fft / matrix:.2f} |",
                    flush=True,
                )


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
