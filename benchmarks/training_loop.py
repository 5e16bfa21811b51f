"""What the engine adds to a training step, against a bare torch loop of the same step.

    python benchmarks/training_loop.py [--seconds 20]

A multilayer perceptron is trained on points drawn anew for every step, by `run.fit` and by a loop of
plain torch, in turn: after every `BLOCK` steps of the one, `BLOCK` steps of the other, in one process on
one thread. Losses are logged at every step and tracked by MLflow meanwhile, checkpoints are written. The
table gives the time per step of both over the whole time, what a step costs more, and the same inside a
Ray Train worker.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import machine
from torch import Tensor, nn

from dlde.method import DataInfo, Descent, Evaluation, Method, Operation, Run, Terms

BLOCK = 20
STEPS = {"1 ms": (80, 96), "20 ms": (288, 768)}  # width, batch


class Loop(Method):
    """A perceptron fitted to a sine: only its loop is of interest."""

    width: int = 96
    descent: Descent = Descent(steps=100, batch=128)
    beside: bool = True  # take a block of bare steps after every block of the engine's

    def build(self, info: DataInfo) -> nn.Module:
        return network(self.width)

    def train(self, run: Run) -> nn.Module:
        model, steps = self.build(run.info), Bare(self.width, self.descent)
        seconds = {"bare": 0.0, "engine": 0.0}
        block = [0.0]

        def after(done: int) -> None:
            if not self.beside or done % BLOCK:
                return
            now = time.perf_counter()
            if block[0]:  # the first block of each warms up
                seconds["engine"] += now - block[0]
            steps(BLOCK)
            if block[0]:
                seconds["bare"] += time.perf_counter() - now
            block[0] = time.perf_counter()

        run.fit(model, self.batch, loss, self.descent, after=after)
        if run.rank == 0 and self.beside:
            counted = self.descent.steps // BLOCK * BLOCK - BLOCK
            place = Path(os.environ["LOOP_TIMES"])
            place.write_text(json.dumps({name: value / counted for name, value in seconds.items()}))
        return model

    def batch(self, generator: torch.Generator) -> Tensor:
        return torch.rand(self.descent.batch, 3, generator=generator)

    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        return Evaluation(metrics={"loss": 0.0})

    def operations(self, info: DataInfo) -> dict[str, Operation]:
        return {}


def network(width: int) -> nn.Module:
    inner = [layer for _ in range(2) for layer in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), *inner, nn.Linear(width, 1))


def loss(model: nn.Module, x: Tensor) -> Terms:
    return {"fit": (model(x) - x.sin().sum(1, keepdim=True)).square().mean()}


class Bare:
    """The same steps as a person writes them."""

    def __init__(self, width: int, descent: Descent) -> None:
        self.model, self.batch = network(width), descent.batch
        self.optimizer = torch.optim.Adam(self.model.parameters(), descent.rate, fused=True)
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, count: int) -> None:
        for _ in range(count):
            x = torch.rand(self.batch, 3, generator=self.generator)
            value = loss(self.model, x)["fit"]
            self.optimizer.zero_grad(set_to_none=True)
            value.backward()
            self.optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two, in each row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(1), "\n")
    print("| step | where | bare (ms) | engine (ms) | more (ms) | more (%) |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        installed(Path(folder))
        for name, (width, batch) in STEPS.items():
            bare = Bare(width, Descent(steps=1, batch=batch))
            each = seconds_of(lambda bare=bare: bare(50)) / 50
            steps = int(options.seconds / each) // BLOCK * BLOCK
            for workers in (None, 1):
                times = measured(Path(folder), width, Descent(steps=steps, batch=batch), workers)
                more = times["engine"] - times["bare"]
                print(
                    f"| {name} | {'in process' if workers is None else 'Ray Train worker'} "
                    f"| {1e3 * times['bare']:.3f} | {1e3 * times['engine']:.3f} | {1e3 * more:.3f} "
                    f"| {100 * more / times['bare']:.1f} |",
                    flush=True,
                )


def measured(folder: Path, width: int, descent: Descent, workers: int | None) -> dict[str, float]:
    from dlde.training import job as jobs
    from dlde.training import launch, tracking
    from dlde.training.run import Execution

    root = folder / f"{width}-{workers}"
    os.environ["LOOP_TIMES"] = str(folder / f"times-{width}-{workers}.json")
    job = jobs.Job(method=method(width, descent), seed=0)
    place = jobs.prepare(job, root, workers=workers or 1)
    with tracking.Tracker(root, place, name="loop"):
        launch.train(job, root, workers=workers, execution=Execution())
    times: dict[str, float] = json.loads(Path(os.environ["LOOP_TIMES"]).read_text())
    return times


def method(width: int, descent: Descent) -> Any:
    """As the catalog finds it, which is not this `__main__`."""
    from dlde import catalog

    return catalog.read("method", {"name": "loop", "width": width, "descent": descent.dump()})


def installed(folder: Path) -> None:
    """Make `loop` known as a method here and in the processes that are started, as a package does."""
    from dlde import catalog

    place = folder / "site" / "loop-0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: loop\nVersion: 0\n")
    (place / "entry_points.txt").write_text("[dlde.methods]\nloop = training_loop:Loop\n")
    here = [str(place.parent), str(Path(__file__).parent)]
    sys.path[:0] = here
    os.environ["PYTHONPATH"] = os.pathsep.join([*here, os.environ.get("PYTHONPATH", "")])
    os.environ["OMP_NUM_THREADS"] = "1"
    catalog.places.cache_clear()


def seconds_of(call: Callable[[], object]) -> float:
    call()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
