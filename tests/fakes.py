"""The least of a run and of a dataset that field maps need: no engine, no store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from dlde.datasets.info import DatasetInfo, Statistics
from dlde.method import Batches, DataInfo, Descent, Terms
from dlde.problem import Axis, Variable
from dlde.problems.burgers import Burgers


class FakeDataset:
    """Splits of {variable: (sample, time, *space)} on `axes`, in memory."""

    def __init__(
        self, splits: dict[str, dict[str, NDArray[Any]]], axes: dict[str, Axis], times: tuple[float, ...]
    ) -> None:
        self.splits = splits
        self.info = DatasetInfo(
            recipe="fake",
            problem=Burgers(),
            variables={
                name: Variable(dims=("time", *axes), long_name=f"field {name}") for name in splits["train"]
            },
            axes=axes,
            times=times,
            samples={split: len(next(iter(arrays.values()))) for split, arrays in splits.items()},
            statistics={name: _statistics(values) for name, values in splits["train"].items()},
            digest="0" * 64,
        )

    def read(self, split: str, variable: str, *, time: int | None = None, every: int = 1) -> NDArray[Any]:
        values = self.splits[split][variable]
        values = values if time is None else values[:, time]
        return values[(..., *[slice(None, None, every)] * len(self.info.axes))]


class FakeRun:
    """A run of one worker of several, in process; figures are kept."""

    def __init__(self, dataset: FakeDataset, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.info = DataInfo(data={"solutions": dataset.info})
        self.data = {"solutions": dataset}
        self.device = torch.device("cpu")
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.figures: dict[str, Figure] = {}
        self.losses: list[float] = []

    def generator(self, *keys: str | int) -> torch.Generator:
        return torch.Generator().manual_seed(hash((self.seed, *keys)) % 2**31)

    def share(self, batch: Tensor) -> Tensor:
        return batch.chunk(self.world_size)[self.rank]

    def fit(
        self, model: nn.Module, batches: Batches, loss: Callable[[nn.Module, Any], Terms], descent: Descent
    ) -> None:
        optimizer = torch.optim.Adam(model.parameters(), descent.rate, weight_decay=descent.weight_decay)
        for step in range(descent.steps):
            optimizer.param_groups[0]["lr"] = descent.rate * descent.factor(step)
            total = sum(loss(model, batches.at(step, self)).values())  # type: ignore[arg-type]
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            self.losses.append(float(total.detach()))

    def figure(self, name: str, figure: Figure) -> None:
        self.figures[name] = figure

    def save(self, folder: Path) -> None:
        for name, figure in self.figures.items():
            figure.savefig(folder / f"{name}.png", dpi=80)


def axis(num_points: int, boundary: Any = "periodic") -> Axis:
    """The unit interval."""
    return Axis(start=0.0, stop=1.0, num_points=num_points, boundary=boundary)


def shifted_waves(num_samples: int, num_points: int, *, seed: int = 0) -> NDArray[np.float32]:
    """(sample, 2, num_points): band-limited periodic fields, and the same a tenth of the axis further."""
    generator = np.random.default_rng(seed)
    x = np.arange(num_points) / num_points
    k = np.arange(1, 5)
    amplitude = generator.standard_normal((num_samples, 4)) / k
    phase = generator.uniform(0, 2 * np.pi, (num_samples, 4))
    fields = [
        np.einsum("nk,nkx->nx", amplitude, np.sin(2 * np.pi * k[:, None] * (x - t) + phase[..., None]))
        for t in (0.0, 0.1)
    ]
    return np.stack(fields, axis=1).astype(np.float32)


def waves(num_points: int = 128, *, train: int = 40, test: int = 10) -> FakeDataset:
    """Transport of waves on a periodic line."""
    splits = {
        "train": {"u": shifted_waves(train, num_points)},
        "test": {"u": shifted_waves(test, num_points, seed=1)},
    }
    return FakeDataset(splits, {"x": axis(num_points)}, (0.0, 1.0))


def _statistics(values: NDArray[Any]) -> Statistics:
    rms = np.sqrt((values.astype(float) ** 2).mean(axis=tuple(range(2, values.ndim))))
    return Statistics(
        mean=float(values.mean()),
        std=float(values.std()),
        rms=float(np.sqrt((values.astype(float) ** 2).mean())),
        mean_delta=0.0,
        std_delta=1.0,
        rms_delta=1.0,
        rms_low=tuple(rms.min(0).tolist()),
        rms_high=tuple(rms.max(0).tolist()),
    )
