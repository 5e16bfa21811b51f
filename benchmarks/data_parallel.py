"""Data-parallel training: what two workers give, and our averaging of gradients against torch's DDP.

    python benchmarks/data_parallel.py [--repeats 30]

Two gloo processes of one machine, one thread each. In turn, over several rounds: how much two processes,
each alone with its own FNO-2d step of half the batch, do more than one (two busy cores share caches, memory
and clock), and two workers with half of the batch each against one with the whole batch. Then steps of
perceptrons of 2 and 10 million weights, by `run.descend` and by DistributedDataParallel
(gradient_as_bucket_view, its default buckets), block by block in turn in the same two processes; the weights
of both are compared at the end.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timing import machine
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dlde import metrics
from dlde.method import DataInfo
from dlde.methods.fno import FourierNetwork
from dlde.problem import Axis
from dlde.training.comm import Alone, Distributed
from dlde.training.run import EngineRun

POINTS, MODES, WIDTH, BATCH = 64, 12, 20, 10  # FNO-2d as for Navier-Stokes
MODELS = {"2 M": (1000, 3), "10 M": (1800, 4)}  # width and number of linear layers of that width
ROUNDS = 7  # of one and two workers and the machine's own gain, each in processes of its own
BLOCK = 5  # steps of one candidate in a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30, help="steps that a median is taken of")
    repeats = parser.parse_args().repeats
    print(machine(1) + " a process\n")

    print("| FNO-2d, batch 10 | ms | speed-up | machine's gain | of the machine's |\n|---|---|---|---|---|")
    rounds = [fourier_round(max(5, repeats // 3)) for _ in range(ROUNDS)]
    whole, half, gain = (statistics.median(column) for column in zip(*rounds, strict=True))
    speed_up = statistics.median(one / two for one, two, _ in rounds)
    share = statistics.median(one / two / gain for one, two, gain in rounds)
    print(f"| one worker | {1e3 * whole:.1f} | 1.00 | | |")
    print(f"| two workers | {1e3 * half:.1f} | {speed_up:.2f} | {gain:.2f} | {share:.0%} |\n", flush=True)

    print("| weights | dlde (ms) | DDP (ms) | dlde / DDP | alone, not averaged (ms) |\n|---|---|---|---|---|")
    for name in MODELS:
        ours, ddp, bare = (max(times) for times in zip(*spawned(averaging, 2, repeats, name), strict=True))
        print(
            f"| {name} | {1e3 * ours:.2f} | {1e3 * ddp:.2f} | {ours / ddp:.2f} | {1e3 * bare:.2f} |",
            flush=True,
        )


def fourier_round(repeats: int) -> tuple[float, float, float]:
    """Seconds of a step of one worker and of two, and how much more two processes alone do than one."""
    (one,), two = spawned(alone, 1, repeats), statistics.mean(spawned(alone, 2, repeats))
    (whole,), halves = spawned(worker, 1, repeats), spawned(worker, 2, repeats)
    return whole, max(halves), 2 * one / two


def spawned(task: Callable[..., Any], size: int, *given: Any) -> list[Any]:
    """What `task(rank, folder, *given)` returns in each of `size` processes joined by gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, (size, port, folder, task, given), nprocs=size)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(size)]


def _process(rank: int, size: int, port: int, folder: str, task: Callable[..., Any], given: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    torch.save(task(Path(folder) / "run", *given), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def alone(folder: Path, repeats: int) -> float:
    """Seconds of an FNO-2d step of half the batch by plain torch, while the other process does the same."""
    model, (u, v) = fourier(), pair(BATCH // 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        metrics.relative_l2(model(u), v).mean().backward()
        optimizer.step()

    for _ in range(3):
        step()
    dist.barrier()
    times = timed(step for _ in range(repeats))
    dist.barrier()  # nobody rests while another is timed
    return statistics.median(times)


def worker(folder: Path, repeats: int) -> float:
    """Seconds of an FNO-2d step of a dlde worker with its share of the batch."""
    run = engine(folder)
    model, (u, v) = fourier(), tuple(run.share(one) for one in pair(BATCH))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def step() -> None:
        run.descend(optimizer, lambda: {"error": metrics.relative_l2(model(u), v).mean()})

    state = run.state(model=model, optimizer=optimizer)
    return statistics.median(timed(step for _ in run.steps(repeats + 3, state=state))[3:])


def averaging(folder: Path, repeats: int, name: str) -> tuple[float, float, float]:
    """Seconds of a step by `run.descend`, by DDP, and without averaging."""
    run, rank = engine(folder), dist.get_rank()
    models = [perceptron(*MODELS[name]) for _ in range(3)]
    ddp = DistributedDataParallel(models[1], gradient_as_bucket_view=True)
    optimizers = [torch.optim.SGD(model.parameters(), 1e-3, fused=True) for model in models]
    generator = torch.Generator().manual_seed(rank)
    x, y = (torch.randn(64, width, generator=generator) for width in (64, 1))

    def descended() -> None:
        run.descend(optimizers[0], lambda: {"square": (models[0](x) - y).square().mean()})

    def plain(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        (model(x) - y).square().mean().backward()
        optimizer.step()

    steps = (descended, lambda: plain(ddp, optimizers[1]), lambda: plain(models[2], optimizers[2]))
    seconds: list[list[float]] = [[], [], []]
    state = run.state(model=models[0], optimizer=optimizers[0])
    blocks = max(2, repeats // BLOCK) + 1
    for number, _ in enumerate(run.steps(blocks * BLOCK, state=state)):
        seconds[0] += timed([steps[0]])
        if number % BLOCK == BLOCK - 1:
            for times, step in zip(seconds[1:], steps[1:], strict=True):
                times += timed([step] * BLOCK)
                dist.barrier()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    ours, theirs, bare = (statistics.median(times[BLOCK:]) for times in seconds)
    return ours, theirs, bare


def timed(steps: Iterable[Callable[[], None]]) -> list[float]:
    times = []
    for step in steps:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def engine(folder: Path) -> EngineRun:
    comm = Distributed() if dist.get_world_size() > 1 else Alone()
    return EngineRun(folder, DataInfo(), {}, seed=0, comm=comm)


def fourier() -> FourierNetwork:
    torch.manual_seed(0)
    axes = (Axis(start=0.0, stop=1.0, num_points=POINTS, boundary="periodic"),) * 2
    return FourierNetwork(axes, modes=MODES, width=WIDTH, layers=4, projection=128, padding=0.0)


def pair(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(batch, POINTS, POINTS, 1, generator=generator) for _ in range(2))
    return u, v


def perceptron(width: int, layers: int) -> nn.Module:
    torch.manual_seed(0)
    hidden = [part for _ in range(layers - 1) for part in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(nn.Linear(64, width), nn.Tanh(), *hidden, nn.Linear(width, 1))


if __name__ == "__main__":
    main()
