"""The noun `PathMap`: from a path that drives a system to its state, learned from recorded paths.

What every such method shares: which variables of a dataset are the path and the state, an affine
readout of features of the path by ridge regression (streamed over the data and over workers, with
lambda chosen on paths that it was not fitted on), how an answer is measured, and the served
operation. Times are (batch, time), paths (batch, time, driver), states (batch, time, component).
Time is always the first channel of what features are made of: increments (batch, time - 1, 1 + driver).
"""

from __future__ import annotations

import math
import statistics
import time as clock
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from dlde import figures
from dlde.datasets.info import DatasetInfo
from dlde.errors import DataError, GridError, InputError, NonFiniteError, SpecError, nearest
from dlde.figures import empty
from dlde.method import ArraySpec, DataInfo, Dim, Evaluation, Operation, Run, Terms
from dlde.numerics.ridge import Moments, Readout, validated_dual_ridge, validated_ridge
from dlde.spec import Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROLE = "paths"  # of the dataset
BLOCK = 1 << 26  # bytes of features that are held at once, but at least one path's
MEMORY = 4 << 30  # bytes that a regression may take
WIDTH = 256  # values at one time of a path that any other network may hold
TIMED = 20  # paths of which the features are timed


class Scaler(nn.Module):
    """Increments of (time, path), each channel in units of its size over the training split."""

    scale: Tensor  # (channels,)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(channels, dtype=torch.float64))

    def forward(self, times: Tensor, path: Tensor) -> Tensor:
        points = torch.cat([times[..., None].double(), path.double()], -1)
        return points.diff(dim=1) / self.scale


class PathReadout(nn.Module):
    """The state as an affine function of features: times, path -> (batch, time, component), float64.

    `lift` makes the features and has nothing to fit: increments (batch, time - 1, channel) -> (batch, time,
    features). Its attribute `cure` says what to do where they overflow.
    """

    scaler: Scaler
    lam: Tensor

    def __init__(self, lift: nn.Module, *, drivers: int, features: int, components: int) -> None:
        super().__init__()
        self.scaler = Scaler(1 + drivers)
        self.lift = lift
        self.weight = nn.Parameter(torch.zeros(features, components, dtype=torch.float64), False)
        self.bias = nn.Parameter(torch.zeros(components, dtype=torch.float64), False)
        self.register_buffer("lam", torch.zeros((), dtype=torch.float64))

    def features(self, times: Tensor, path: Tensor) -> Tensor:
        """(batch, time, features), float64."""
        out: Tensor = self.lift(self.scaler(times, path))
        return out

    def forward(self, times: Tensor, path: Tensor) -> Tensor:
        return self.features(times, path) @ self.weight + self.bias


class PathMap(Spec):
    """Path and state of a dataset, and the ridge regression of one on features of the other."""

    input: str = "control"
    output: str = "state"
    # Relative to standardised features and the mean over the rows; that which errs least on held-out
    # paths of the training split is taken.
    lambdas: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = (
        *(10.0**power for power in range(-8, 0)),
        1.0,
    )
    folds: Annotated[int, Field(ge=2)] = 5  # into which the training paths are divided to choose lambda
    every: PositiveInt = 1  # takes every n-th time of a path as a row of the regression

    def check(self, info: DataInfo) -> None:
        """Raises SpecError or GridError for data that hold no such paths and states."""
        data = info.data[ROLE]
        for name in (self.input, self.output):
            if name not in data.variables:
                raise _mistake(data, f"has no variable {name!r}; {nearest(name, data.variables)}")
            dims = data.variables[name].dims
            if len(dims) != 2 or dims[0] != "time":
                raise _mistake(data, f"holds {name!r} over {dims}; expected time and one dimension beside it")
        for split in ("train", "test"):
            if split not in data.samples:
                raise _mistake(data, f"has no split {split!r}; it has {', '.join(data.samples)}")
        if len(data.times) < 2:
            raise GridError(
                f"dataset {data.recipe!r} stores {len(data.times)} time: a path has at least two points"
            )

    def check_regression(self, info: DataInfo, num_features: int, *, fewer: str) -> None:
        """Refuse a regression that has no solution or no room; `fewer` says how to have fewer features.

        Raises SpecError.
        """
        data = info.data[ROLE]
        paths, rows = data.samples["train"], self._rows(data)
        if paths < self.folds:
            raise _mistake(
                data,
                f"has {paths} training paths, which cannot be divided into map.folds={self.folds}; use more "
                "paths, or fewer folds",
            )
        least = rows - math.ceil(paths / self.folds) * (rows // paths) if len(self.lambdas) > 1 else rows
        if 0.0 in self.lambdas and least < num_features + 1:
            raise _mistake(
                data,
                f"gives {least} rows to fit {num_features} features and an intercept: with lambda = 0 there "
                f"must be at least {num_features + 1}. Use more paths, positive map.lambdas, or {fewer}",
            )
        size = 8 * (rows * num_features if self._dual(data, num_features) else self.folds * num_features**2)
        if size > MEMORY:
            raise _mistake(
                data,
                f"and {num_features} features make a regression of {size / 2**30:.1f} GiB, more than "
                f"{MEMORY >> 30} GiB. Use {fewer}, or a larger map.every (rows: {rows})",
            )

    def drivers(self, info: DataInfo) -> int:
        """Entries of the path at one time."""
        return _width(info.data[ROLE], self.input)

    def components(self, info: DataInfo) -> int:
        """Entries of the state at one time."""
        return _width(info.data[ROLE], self.output)

    def readout(self, info: DataInfo, lift: nn.Module, num_features: int) -> PathReadout:
        """The model with that lift, its readout still zero."""
        sizes = {"drivers": self.drivers(info), "components": self.components(info)}
        return PathReadout(lift, features=num_features, **sizes)

    def regress(self, model: PathReadout, run: Run) -> None:
        """Find the scale of the path and the readout of the features, block by block of the data.

        Each worker takes its share of every block's paths; all that is kept are sums over blocks and
        workers, so that the number of workers does not matter but for rounding.
        """
        model.to(run.device)
        with torch.no_grad():
            self.fit_scale(model.scaler, run)
            data, features = run.info.data[ROLE], len(model.weight)
            fit = self._dual_fit if self._dual(data, features) else self._fit
            readout, lam = fit(model, run)
            model.weight.copy_(readout.weight)
            model.bias.copy_(readout.bias)
            model.lam.fill_(lam)

    def fit_scale(self, scaler: Scaler, run: Run) -> None:
        """Of a driver the root mean square of X_t - X_0 over paths and times, of time the paths' length.

        A driver that does not move keeps the scale 1.
        """
        scaler.to(run.device)
        data = run.info.data[ROLE]
        state = run.state(squares=torch.zeros(self.drivers(run.info), dtype=torch.float64, device=run.device))
        for step in run.steps(run.data[ROLE].num_blocks("train"), state=state, name="scale"):
            _, _, path, _ = self._block(run, "train", step)
            state.squares = state.squares + (path - path[:, :1]).square().mean(1).sum(0)
        sizes = (state.squares / data.samples["train"]).sqrt()
        scaler.scale[0] = data.times[-1] - data.times[0]
        scaler.scale[1:] = torch.where(sizes > 0, sizes, 1.0)

    def pairs(self, run: Run, *, batch: int) -> Pairs:
        """The training split in memory, in batches."""
        return Pairs(*self._read(run, "train"), batch=batch)

    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        """The test split: `nmse` over all times, `nmse_end` at the last one, `rmse`.

        Of a readout of features also their number, the lambda, and the seconds that the features of 20
        paths take.
        """
        model.to(run.device).eval()
        times, path, state = self._read(run, "test")
        with torch.no_grad():
            prediction = torch.cat([model(*piece) for piece in _pieces(model, times, path)])
        by_time = nmse(prediction, state, keep_time=True)
        metrics = {
            "nmse": float(nmse(prediction, state)),
            "nmse_end": float(nmse(prediction[:, -1:], state[:, -1:])),
            "rmse": float((prediction - state).square().mean().sqrt()),
        }
        if isinstance(model, PathReadout):
            metrics["num_features"] = float(len(model.weight))
            metrics["lambda"] = float(model.lam)
            metrics["feature_seconds"] = _feature_seconds(model, times, path)
        curve = [
            (float(t), float(error))
            for t, error in zip(times[0], by_time, strict=True)
            if math.isfinite(float(error))
        ]
        run.figure("paths", _paths_figure(times[0], state, prediction, run.info.data[ROLE], self.output))
        run.figure("error-over-time", _error_figure(curve))
        return Evaluation(metrics=metrics, curves={"nmse_by_time": curve})

    def operation(self, info: DataInfo) -> Operation:
        """The served map: the state along any path of the same drivers, at its own times."""
        data = info.data[ROLE]
        batch, points = Dim(name="batch"), Dim(name="time", minimum=2)
        driver = Dim(name="driver", size=self.drivers(info))
        component = Dim(name="component", size=self.components(info))
        path, state = data.variables[self.input], data.variables[self.output]
        return Operation(
            summary=f"{state.long_name} along a {path.long_name}",
            inputs={
                "time": ArraySpec(
                    dims=(batch, points),
                    dtype="float64",
                    long_name="time",
                    increasing=True,
                    trained_range=((data.times[0], data.times[-1]),),
                ),
                self.input: ArraySpec(
                    dims=(batch, points, driver),
                    dtype="float64",
                    units=path.units,
                    long_name=path.long_name,
                ),
            },
            outputs={
                self.output: ArraySpec(
                    dims=(batch, points, component),
                    dtype="float64",
                    units=state.units,
                    long_name=state.long_name,
                )
            },
        )

    def answer(self, model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The operation. Raises InputError where the path is too wild."""
        times, path = inputs["time"].double(), inputs[self.input].double()
        state = model(times, path)
        if not torch.isfinite(state).all():
            raise InputError(_overflow(model, state, times, 0))
        return {self.output: state}

    def _fit(self, model: PathReadout, run: Run) -> tuple[Readout, float]:
        size = len(model.weight) + len(model.bias)
        state = run.state(
            count=torch.zeros(self.folds, dtype=torch.float64, device=run.device),
            mean=torch.zeros(self.folds, size, dtype=torch.float64, device=run.device),
            products=torch.zeros(self.folds, size, size, dtype=torch.float64, device=run.device),
        )
        for step in run.steps(run.data[ROLE].num_blocks("train"), state=state, name="regression"):
            numbers, times, path, target = self._block(run, "train", step, share=True)
            rows = self._rows_of(model, numbers, times, path, target)
            for fold in range(self.folds):
                mine = rows[numbers % self.folds == fold].flatten(0, 1)
                block = _over_workers(run, Moments.of(mine))
                kept = Moments(state.count[fold], state.mean[fold], state.products[fold])
                kept = Moments.merged([kept, block])
                state.count[fold], state.mean[fold] = kept.count, kept.mean
                state.products[fold] = kept.products
        folds = [Moments(*parts) for parts in zip(state.count, state.mean, state.products, strict=True)]
        return validated_ridge(folds, len(model.weight), self.lambdas)

    def _dual_fit(self, model: PathReadout, run: Run) -> tuple[Readout, float]:
        """More features than rows: all rows are held, on every worker."""
        times, path, target = self._read(run, "train")
        numbers = torch.arange(len(path), device=run.device)
        rows = self._rows_of(model, numbers, times, path, target)
        folds = (numbers % self.folds)[:, None].expand(rows.shape[:2]).flatten()
        features, targets = torch.split(rows.flatten(0, 1), [len(model.weight), len(model.bias)], 1)
        return validated_dual_ridge(features, targets, folds, self.lambdas)

    def _rows_of(
        self, model: PathReadout, numbers: Tensor, times: Tensor, path: Tensor, target: Tensor
    ) -> Tensor:
        """Features and targets (paths, rows of one path, features + components)."""
        pieces = []
        first = 0
        for piece_times, piece in _pieces(model, times, path):
            features = model.features(piece_times, piece)
            if not torch.isfinite(features).all():
                raise NonFiniteError(_overflow(model, features, piece_times, int(numbers[first])))
            pieces.append(features[:, :: self.every])
            first += len(piece)
        targets = target[:, :: self.every]
        if not pieces:  # fewer paths in the block than workers
            return target.new_zeros(0, targets.shape[1], len(model.weight) + targets.shape[2])
        return torch.cat([torch.cat(pieces), targets], -1)

    def _block(
        self, run: Run, split: str, number: int, *, share: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Numbers (paths,), times, path and state of one block, or of this worker's share of it."""
        first, values = run.data[ROLE].block(split, number, self.input, self.output)
        every = slice(run.rank, None, run.world_size) if share else slice(None)
        path, state = (
            torch.from_numpy(values[name][every]).to(run.device, torch.float64)
            for name in (self.input, self.output)
        )
        numbers = torch.arange(first, first + len(values[self.input]), device=run.device)[every]
        return numbers, self._times(run, len(path)), path, state

    def _read(self, run: Run, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Times, path and state of a whole split."""
        path, state = (
            torch.from_numpy(run.data[ROLE].read(split, name)).to(run.device, torch.float64)
            for name in (self.input, self.output)
        )
        return self._times(run, len(path)), path, state

    def _times(self, run: Run, batch: int) -> Tensor:
        times = torch.tensor(run.info.data[ROLE].times, dtype=torch.float64, device=run.device)
        return times.expand(batch, -1)

    def _rows(self, data: DatasetInfo) -> int:
        return data.samples["train"] * len(data.times[:: self.every])

    def _dual(self, data: DatasetInfo, num_features: int) -> bool:
        return num_features > self._rows(data)


class Pairs:
    """Paths and states in memory, in batches of random paths: a function of the seed and the step."""

    def __init__(self, times: Tensor, path: Tensor, state: Tensor, *, batch: int) -> None:
        self.times, self.path, self.state, self.batch = times, path, state, batch
        flat = state.flatten(0, 1)
        self.mean, std = flat.mean(0), flat.std(0)
        self.std = torch.where(std > 0, std, 1.0)

    def at(self, step: int, run: Run) -> tuple[Tensor, Tensor, Tensor]:
        """This worker's share of the batch: times, path and state of (batch / workers) paths."""
        drawn = torch.randint(len(self.path), (self.batch,), generator=run.generator("batch", step))
        chosen = run.share(drawn).to(self.path.device)
        return self.times[chosen], self.path[chosen], self.state[chosen]

    def whole(self, run: Run) -> tuple[Tensor, Tensor, Tensor]:
        """This worker's share of all paths."""
        return run.share(self.times), run.share(self.path), run.share(self.state)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Terms:
        """Mean square error, each component in units of its standard deviation."""
        times, path, state = batch
        return {"mean_square": ((model(times, path) - state) / self.std).square().mean()}


def nmse(prediction: Tensor, reference: Tensor, *, keep_time: bool = False) -> Tensor:
    """Mean square error over the variance across paths, (paths, time, component) -> () or (time,).

    Of every component that varies, error and variance are averaged over the times first; the mean over
    components is taken of their quotients. 1 is what the mean over the paths scores. With `keep_time`
    the times are not averaged: undefined (nan) where no path differs, as at the start.
    """
    error = (prediction - reference).square().mean(0)
    variance = (reference - reference.mean(0)).square().mean(0)
    if not keep_time:
        error, variance = error.mean(0), variance.mean(0)
    varies = variance > 1e-12 * reference.square().mean()
    ratio = torch.where(varies, error / variance, torch.nan).nanmean(-1)
    if not keep_time and bool(ratio.isnan()):
        raise DataError("no component of the state differs between the paths: there is nothing to learn")
    return ratio


def _over_workers(run: Run, moments: Moments) -> Moments:
    """Of the rows of all workers together."""
    if run.world_size == 1:
        return moments
    size = run.world_size
    first = run.comm.all_reduce(torch.cat([moments.count[None], moments.count * moments.mean])) * size
    count, mean = first[0], first[1:] / first[0].clamp(min=1)
    shift = moments.mean - mean
    products = moments.products + moments.count * shift[:, None] * shift
    return Moments(count, mean, run.comm.all_reduce(products) * size)


def _pieces(model: nn.Module, times: Tensor, path: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some paths at a time, so that their features fit in `BLOCK` bytes."""
    width = len(model.weight) if isinstance(model, PathReadout) else WIDTH
    size = max(1, BLOCK // (8 * width * path.shape[1]))
    for start in range(0, len(path), size):
        yield times[start : start + size], path[start : start + size]


def _overflow(model: nn.Module, values: Tensor, times: Tensor, first: int) -> str:
    sample, number = torch.nonzero(~torch.isfinite(values).all(-1))[0].tolist()
    cure = getattr(getattr(model, "lift", None), "cure", "use a path of smaller increments")
    return f"path {first + sample}: the features overflow at time {float(times[sample, number]):g}; {cure}"


def _feature_seconds(model: PathReadout, times: Tensor, path: Tensor) -> float:
    """Median of three, after one that does not count."""

    def once() -> float:
        began = clock.perf_counter()
        for piece in _pieces(model, times[:TIMED], path[:TIMED]):
            model.features(*piece)
        if path.is_cuda:
            torch.cuda.synchronize(path.device)
        return clock.perf_counter() - began

    with torch.no_grad():
        once()
        return statistics.median(once() for _ in range(3))


def _width(data: DatasetInfo, name: str) -> int:
    variable = data.variables[name]
    dim = variable.dims[1]
    return variable.sizes[dim] if dim in variable.sizes else data.axes[dim].num_points


def _mistake(data: DatasetInfo, text: str) -> SpecError:
    return SpecError(f"dataset {data.recipe!r} {text}", mistakes=[text])


def _paths_figure(times: Tensor, state: Tensor, prediction: Tensor, data: DatasetInfo, output: str) -> Figure:
    """The paths of smallest, middling and largest error, and the reference's band over all paths."""
    errors = (prediction - state).square().mean((1, 2))
    order = errors.argsort()
    numbers = [int(order[round(place * (len(order) - 1))]) for place in (0.0, 0.5, 0.95, 1.0)]
    words = ("smallest error", "median", "95 of 100", "largest error")
    t = times.cpu().numpy()
    reference, answer = state.cpu().numpy(), prediction.cpu().numpy()
    rows = min(state.shape[-1], 3)
    figure = empty((3.4 * len(numbers), 2.6 * rows + 0.4))
    axes = figure.subplots(rows, len(numbers), sharex=True, sharey="row", squeeze=False)
    label = f"{data.variables[output].long_name} ({data.variables[output].units})"
    for row in range(rows):
        low, high = np.quantile(reference[..., row], (0.05, 0.95), axis=0)
        for column, (number, word) in enumerate(zip(numbers, words, strict=True)):
            panel = axes[row, column]
            panel.fill_between(
                t, low, high, color=figures.MUTED, alpha=0.25, linewidth=0, label="90 % of the paths"
            )
            panel.plot(
                t, reference[number, :, row], color=figures.REFERENCE, linewidth=1.6, label="reference"
            )
            panel.plot(
                t, answer[number, :, row], color=figures.PREDICTION, linewidth=1.3, linestyle="--",
                label="prediction",
            )  # fmt: skip
            panel.spines[["top", "right"]].set_visible(False)
            if row == 0:
                panel.set_title(f"path {number}: {word}", fontsize=10)
            if row == rows - 1:
                panel.set_xlabel("time")
        axes[row, 0].set_ylabel(label if rows == 1 else f"component {row}", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _error_figure(curve: Sequence[tuple[float, float]]) -> Figure:
    """The normalised error against time."""
    figure = empty((5.5, 3.6))
    axes = figure.subplots()
    points = [(t, error) for t, error in curve if error > 0]
    axes.plot([t for t, _ in points], [error for _, error in points], color=figures.REFERENCE, linewidth=1.8)
    axes.set_yscale("log")
    axes.set(xlabel="time", ylabel="mean square error / variance", title="Error over time, test paths")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
