"""The noun `FieldMap`: from one stored field to another, learned from pairs and measured on others.

What every supervised operator shares: which fields at which times, on which grid, the relative
loss, exact shuffling, evaluation at every resolution that the data hold, and the served operation.
Fields are (sample, *space, channel) with one channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from dlde import figures, metrics
from dlde.datasets.info import DatasetInfo
from dlde.datasets.loader import MEMORY, Held, Loader, View
from dlde.errors import GridError, SpecError, nearest
from dlde.method import ArraySpec, DataInfo, Dim, Evaluation, Operation, Run, Terms
from dlde.problem import Axis
from dlde.spec import Spec

if TYPE_CHECKING:
    from dlde.datasets.dataset import Dataset

ROLE = "solutions"  # of the dataset that the pairs come from
BLOCK = 1 << 16  # points that an evaluation predicts at once


class FieldMap(Spec):
    """Input and output field of a dataset, and the grid to train on."""

    input: str = "u"
    output: str = "u"
    input_time: float | None = None  # a stored time; None: the first
    output_time: float | None = None  # a stored time; None: the last
    num_points: PositiveInt | None = None  # of the first axis; the others keep its stride. None: as stored
    # Fraction of the largest target (root mean square over the training split) below which a target
    # counts as vanished: at 1 %, no sample weighs more than a hundred times another.
    floor: NonNegativeFloat = 0.01

    def check(self, info: DataInfo) -> None:
        """Raises SpecError for fields and times that are not stored, GridError for another grid."""
        data = info.data[ROLE]
        for variable in (self.input, self.output):
            if variable not in data.variables:
                raise _mistake(data, f"has no variable {variable!r}; {nearest(variable, data.variables)}")
        spaces = [_space(data, variable) for variable in (self.input, self.output)]
        if spaces[0] != spaces[1]:
            raise _mistake(
                data, f"holds {self.input!r} over {spaces[0]}, but {self.output!r} over {spaces[1]}"
            )
        for split in ("train", "test"):
            if split not in data.samples:
                raise _mistake(data, f"has no split {split!r}; it has {', '.join(data.samples)}")
        times = self._input_time(data), self._output_time(data)
        if self.input == self.output and times[0] == times[1]:
            raise _mistake(
                data, f"would be asked to map {self.input!r} to itself; choose map.output_time or map.output"
            )
        self._every(data)

    def axes(self, info: DataInfo) -> dict[str, Axis]:
        """The spatial axes as trained on, by name, in order."""
        data = info.data[ROLE]
        every = self._every(data)
        return {name: _thinned(axis, every) for name, axis in _axes(data, self.input).items()}

    def pairs(self, run: Run, *, batch: int) -> Pairs:
        """The training split, on the grid to train on: in memory where it fits, else read ahead of use."""
        data, device = run.info.data[ROLE], run.device
        every, floor = self._every(data), self._floor(data)
        if 2 * 4 * data.samples["train"] * self._num_points(data, every) <= MEMORY:
            return Pairs(*self._read(run, "train", every), batch=batch, floor=floor)
        views = {
            "inputs": View(self.input, self._input_time(data), every, channel=True),
            "targets": View(self.output, self._output_time(data), every, channel=True),
        }
        dataset = run.data[ROLE]
        return Pairs.of(
            dataset.loader(
                "train", views, batch=batch, mix="fit", dtype=torch.float32, device=device, memory=MEMORY
            ),
            floor=floor,
        )

    def evaluate(self, model: nn.Module, run: Run, *, minimum: int) -> Evaluation:
        """The test split at every resolution that the stored grid can be thinned out to.

        `relative_l2`, `rmse`, `max_error` and `floored` are at the resolution of training,
        `relative_l2_fine` at that of the store; `minimum` is the fewest points per axis to try.
        """
        data = run.info.data[ROLE]
        trained, floor = self._every(data), self._floor(data)
        axes = list(_axes(data, self.input).values())
        inputs, targets = self._read(run, "test", 1)
        model.to(run.device).eval()
        errors: dict[int, Tensor] = {}
        for every in _strides(axes, minimum):
            sub = (slice(None), *[slice(None, None, every)] * len(axes))
            prediction, reference = predict(model, inputs[sub]), targets[sub]
            errors[every] = metrics.relative_l2(prediction, reference, floor)
            if every == trained:
                measured = {
                    "relative_l2": errors[every].mean(),
                    "rmse": metrics.rmse(prediction, reference).mean(),
                    "max_error": metrics.max_error(prediction, reference).max(),
                    "floored": metrics.floored(reference, floor).sum(),
                }
                grids = [_thinned(axis, every).points for axis in axes]
                shown = (inputs[sub], reference, prediction)
        measured["relative_l2_fine"] = errors[1].mean()
        by_resolution = [
            (float(_thinned(axes[0], every).num_points), float(error.mean()))
            for every, error in sorted(errors.items(), reverse=True)
        ]
        names = (self._label(data, self.input, "input"), self._label(data, self.output, "output"))
        run.figure("samples", figures.samples(grids, *shown, errors[trained], names=names))
        run.figure("errors", figures.histogram(errors[trained]))
        run.figure(
            "resolutions",
            figures.resolutions(by_resolution, trained=_thinned(axes[0], trained).num_points),
        )
        return Evaluation(
            metrics={name: float(value) for name, value in measured.items()},
            curves={"relative_l2_by_resolution": by_resolution},
        )

    def operation(self, info: DataInfo, *, minimum: int) -> Operation:
        """The served map: the input field on any grid of at least `minimum` points per axis."""
        data = info.data[ROLE]
        dims = (
            Dim(name="batch"),
            *(Dim(name=name, minimum=minimum, axis=axis) for name, axis in self.axes(info).items()),
            Dim(name="channel", size=1),
        )
        arrays = {}
        for end, variable in (("input", self.input), ("output", self.output)):
            arrays[end] = ArraySpec(
                dims=dims,
                units=data.variables[variable].units,
                long_name=self._label(data, variable, end),
                rms_range=self._rms_range(data) if end == "input" else None,
            )
        return Operation(
            summary=f"{arrays['output'].long_name} from {arrays['input'].long_name}",
            inputs={self.input: arrays["input"]},
            outputs={self.output: arrays["output"]},
        )

    def _read(self, run: Run, split: str, every: int) -> tuple[Tensor, Tensor]:
        data, dataset = run.info.data[ROLE], run.data[ROLE]
        return (
            _field(dataset, split, self.input, self._input_time(data), every, run.device),
            _field(dataset, split, self.output, self._output_time(data), every, run.device),
        )

    def _num_points(self, data: DatasetInfo, every: int) -> int:
        return math.prod(_thinned(axis, every).num_points for axis in _axes(data, self.input).values())

    def _input_time(self, data: DatasetInfo) -> int | None:
        return _time_index(data, self.input, "input_time", self.input_time, otherwise=0)

    def _output_time(self, data: DatasetInfo) -> int | None:
        return _time_index(data, self.output, "output_time", self.output_time, otherwise=len(data.times) - 1)

    def _label(self, data: DatasetInfo, variable: str, end: str) -> str:
        time = self._input_time(data) if end == "input" else self._output_time(data)
        name = data.variables[variable].long_name
        return name if time is None else f"{name} at t = {data.times[time]:g}"

    def _rms_range(self, data: DatasetInfo) -> tuple[float, float]:
        statistics, time = data.statistics[self.input], self._input_time(data) or 0
        return statistics.rms_low[time], statistics.rms_high[time]

    def _floor(self, data: DatasetInfo) -> float:
        """As a root mean square, in the output's units."""
        return self.floor * data.statistics[self.output].rms_high[self._output_time(data) or 0]

    def _every(self, data: DatasetInfo) -> int:
        """Stored points per point trained on. Raises GridError where that is not a whole number."""
        axes = _axes(data, self.input)
        name, first = next(iter(axes.items()))
        every = 1
        if self.num_points is not None:
            wanted = _intervals(first, self.num_points)
            every = _intervals(first) // max(wanted, 1)
            if wanted < 1 or every * wanted != _intervals(first):
                possible = [_thinned(first, stride).num_points for stride in _divisors(_intervals(first))]
                raise GridError(
                    f"map.num_points={self.num_points} is no sub-grid of the {first.num_points} points of "
                    f"{name} in dataset {data.recipe!r}. Use one of "
                    f"{', '.join(map(str, sorted(possible)))}, or generate the data on another grid",
                    possible=possible,
                )
        for name, axis in axes.items():
            if _intervals(axis) % every:
                raise GridError(
                    f"map.num_points={self.num_points} takes every {every}th point, which does not fit the "
                    f"{axis.num_points} points of {name} in dataset {data.recipe!r}"
                )
        return every


class Pairs:
    """Inputs and targets in batches: every sample exactly once in each epoch.

    Epochs follow one another without a gap; where the batch does not divide the number of
    samples, a batch reaches into the next epoch, so that all are full.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, *, batch: int, floor: float) -> None:
        """Of tensors in memory (sample, *space, channel)."""
        self._loader = Loader(Held({"inputs": inputs, "targets": targets}), batch=batch)
        self.floor = floor

    @classmethod
    def of(cls, loader: Loader, *, floor: float) -> Pairs:
        """Of batches of `inputs` and `targets`."""
        pairs = cls.__new__(cls)
        pairs._loader, pairs.floor = loader, floor
        return pairs

    @property
    def inputs(self) -> Tensor:
        """All inputs. Raises InputError where they are not in memory."""
        return self._loader.whole()["inputs"]

    @property
    def targets(self) -> Tensor:
        """All targets. Raises InputError where they are not in memory."""
        return self._loader.whole()["targets"]

    def at(self, step: int, run: Run) -> tuple[Tensor, Tensor]:
        """This worker's share of the batch: inputs and targets (batch / workers, *space, channel).

        Valid until the next call: where they are read ahead, their memory is used again.
        """
        batch = self._loader.at(step, run)
        return batch["inputs"], batch["targets"]

    def whole(self, run: Run) -> tuple[Tensor, Tensor]:
        """This worker's share of all pairs. Raises InputError where they are not in memory."""
        whole = self._loader.whole(run)
        return whole["inputs"], whole["targets"]

    def samples(self, step: int, run: Run) -> Tensor:
        """Numbers of the samples in this worker's share of the batch."""
        return self._loader.samples(step, run)

    def indices(self, step: int, run: Run) -> Tensor:
        """The whole batch's samples (batch,): a function of the run's seed and the step alone."""
        return self._loader.items(step, run)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Terms:
        """Mean relative error over the samples; one that has vanished counts by the floor."""
        inputs, targets = batch
        return {"relative_l2": metrics.relative_l2(model(inputs), targets, self.floor).mean()}


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """The model's answer without gradients, in blocks that fit in memory."""
    size = max(1, BLOCK // math.prod(inputs.shape[1:-1]))
    with torch.no_grad():
        return torch.cat([model(block.contiguous()) for block in torch.split(inputs, size)])


def _field(
    dataset: Dataset, split: str, variable: str, time: int | None, every: int, device: torch.device
) -> Tensor:
    values = torch.from_numpy(dataset.read(split, variable, time=time, every=every))
    return values.float().unsqueeze(-1).to(device)


def _time_index(
    data: DatasetInfo, variable: str, key: str, time: float | None, *, otherwise: int
) -> int | None:
    if "time" not in data.variables[variable].dims:
        if time is not None:
            raise _mistake(data, f"holds {variable!r} without times; leave out map.{key}")
        return None
    if time is None:
        return otherwise
    for index, stored in enumerate(data.times):
        if math.isclose(stored, time, rel_tol=1e-9, abs_tol=1e-12):
            return index
    times = ", ".join(f"{stored:g}" for stored in data.times)
    raise _mistake(data, f"does not hold map.{key}={time:g}; its times are {times}")


def _mistake(data: DatasetInfo, text: str) -> SpecError:
    return SpecError(f"dataset {data.recipe!r} {text}", mistakes=[text])


def _space(data: DatasetInfo, variable: str) -> tuple[str, ...]:
    return tuple(dim for dim in data.variables[variable].dims if dim in data.axes)


def _axes(data: DatasetInfo, variable: str) -> dict[str, Axis]:
    return {name: data.axes[name] for name in _space(data, variable)}


def _intervals(axis: Axis, num_points: int | None = None) -> int:
    points = axis.num_points if num_points is None else num_points
    return points if axis.boundary == "periodic" else points - 1


def _thinned(axis: Axis, every: int) -> Axis:
    intervals = _intervals(axis) // every
    points = intervals if axis.boundary == "periodic" else intervals + 1
    return Axis(**{**axis.model_dump(), "num_points": points})


def _strides(axes: list[Axis], minimum: int) -> Iterator[int]:
    """All strides that thin out every axis to a whole grid of at least `minimum` points."""
    for every in _divisors(math.gcd(*map(_intervals, axes))):
        if min(_thinned(axis, every).num_points for axis in axes) >= minimum:
            yield every


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
