"""Paths and states in memory, and runs of one or several workers over them: no store, no cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dlde.datasets.info import DatasetInfo, Statistics
from dlde.method import Comm, DataInfo
from dlde.problem import Solver, Variable
from dlde.problems.ornstein_uhlenbeck import OrnsteinUhlenbeck
from dlde.training.run import EngineRun, Execution

Splits = dict[str, dict[str, NDArray[np.float64]]]
NOTHING = Statistics(
    mean=0.0, std=1.0, rms=1.0, mean_delta=0.0, std_delta=1.0, rms_delta=1.0, rms_low=(0.0,), rms_high=(1.0,)
)


class FakePaths:
    """Splits of {"control": (sample, time, driver), "state": (sample, time, component)}."""

    def __init__(self, splits: Splits, times: tuple[float, ...], *, part: int = 4) -> None:
        self.splits, self.part = splits, part
        drivers, components = (splits["train"][name].shape[2] for name in ("control", "state"))
        self.info = DatasetInfo(
            recipe="fake",
            problem=OrnsteinUhlenbeck(),
            variables={
                "control": Variable(dims=("time", "driver"), sizes={"driver": drivers}, long_name="path"),
                "state": Variable(
                    dims=("time", "component"), sizes={"component": components}, long_name="state"
                ),
            },
            axes={},
            times=times,
            samples={split: len(values["state"]) for split, values in splits.items()},
            statistics={"control": NOTHING, "state": NOTHING},
            digest="0" * 64,
        )

    def read(self, split: str, variable: str) -> NDArray[np.float64]:
        return self.splits[split][variable]

    def num_blocks(self, split: str) -> int:
        return -(-self.info.samples[split] // self.part)

    def block(self, split: str, number: int, *names: str) -> tuple[int, dict[str, NDArray[np.float64]]]:
        rows = slice(number * self.part, (number + 1) * self.part)
        return rows.start, {name: self.splits[split][name][rows] for name in names}


def walks(
    train: int = 20,
    test: int = 10,
    *,
    steps: int = 20,
    drivers: int = 1,
    state: Callable[[Tensor, Tensor], Tensor] | None = None,
    part: int = 4,
) -> FakePaths:
    """Random walks over [0, 1] and their states, by default an Ornstein-Uhlenbeck process.

    `state` makes them of times (time,) and walks (sample, time, driver).
    """
    times = tuple((np.arange(steps + 1) / steps).tolist())
    splits: Splits = {}
    for seed, (split, count) in enumerate((("train", train), ("test", test))):
        noise = np.random.default_rng([7, seed]).standard_normal((count, steps, drivers))
        if state is None:
            problem = OrnsteinUhlenbeck(dims=drivers, path={"steps": steps})  # type: ignore[arg-type]
            found = problem.solve({"noise": torch.from_numpy(noise)}, {}, times, Solver(dt=1 / steps))
            splits[split] = {name: values.numpy() for name, values in found.items()}
        else:
            walk = torch.from_numpy(np.concatenate([0 * noise[:, :1], noise.cumsum(1)], 1)) / steps**0.5
            splits[split] = {
                "control": walk.numpy(),
                "state": state(torch.from_numpy(np.array(times)), walk).numpy(),
            }
    return FakePaths(splits, times, part=part)


def run_over(
    data: FakePaths, folder: Path, *, seed: int = 0, comm: Comm | None = None, every_step: bool = False
) -> EngineRun:
    """A run of the engine itself; its pictures are drawn, too."""
    execution = Execution(checkpoint_steps=1) if every_step else Execution()
    sources: Any = {"paths": data}
    return EngineRun(folder, info_of(data), sources, seed=seed, comm=comm, execution=execution)


def info_of(data: FakePaths) -> DataInfo:
    return DataInfo(data={"paths": data.info})


class Meeting:
    """Where the threads of a run leave tensors for one another."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.given: list[Any] = [None] * size


class Threads:
    """A run's messages between threads of one process, one thread for each worker."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting, self.rank, self.size = meeting, rank, meeting.size

    def _exchanged(self, value: Any) -> list[Any]:
        self.meeting.given[self.rank] = value
        self.meeting.barrier.wait()
        found = list(self.meeting.given)
        self.meeting.barrier.wait()
        return found

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack([t.clone() for t in self._exchanged(tensor.clone())]).mean(0))

    def gather(self, tensor: Tensor) -> Tensor:
        return torch.cat(self._exchanged(tensor.clone()))

    def broadcast(self, value: Any) -> Any:
        return self._exchanged(value)[0]

    def barrier(self) -> None:
        self.meeting.barrier.wait()


def with_workers(size: int, work: Callable[[Comm], nn.Module]) -> list[nn.Module]:
    """What each of `size` threads makes of its own messages."""
    meeting = Meeting(size)
    found: list[Any] = [None] * size

    def one(rank: int) -> None:
        try:
            found[rank] = work(Threads(meeting, rank))
        except BaseException:
            meeting.barrier.abort()
            raise

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
