"""A first look at a dataset: some of its samples in space and time, or along time."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dlde.datasets.dataset import Dataset
from dlde.errors import GridError

INK, FAINT = "#24292f", "#9aa4af"
COLUMNS = 3


def plot(dataset: Dataset, split: str = "train", samples: int = 6, seed: int = 0) -> Figure:
    """Random samples of a split: the first and the last profile, and between them space and time.

    All share one colour scale, symmetric about zero. Where there is no axis, trajectories (`_paths`).
    Raises GridError where no variable depends on time and one more dimension.
    """
    info = dataset.info
    drawable = [name for name, variable in info.variables.items() if len(variable.dims) == 2]
    if not drawable or info.variables[drawable[0]].dims[0] != "time" or len(info.times) < 2:
        raise GridError(f"dataset {info.recipe!r} has no variable of time and one axis to draw")
    if not info.axes:
        return _paths(dataset, split, drawable, samples, seed)
    name = drawable[0]
    variable = info.variables[name]
    axis_name = variable.dims[1]
    axis = info.axes[axis_name]
    count = min(samples, info.samples.get(split, samples))
    every = next((n for n in (16, 8, 4, 2) if axis.num_points % n == 0 and axis.num_points // n >= 512), 1)
    every = every if axis.boundary == "periodic" else 1
    stored = dataset.read(split, name, every=every)
    chosen = np.sort(np.random.default_rng(seed).choice(len(stored), count, replace=False))
    values, points = stored[chosen], axis.points[::every]
    if axis.boundary == "periodic":  # close the interval
        values, points = np.concatenate([values, values[..., :1]], -1), np.append(points, axis.stop)
    limit = float(np.abs(values).max()) or 1.0

    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.5 * columns + 1.5, 3.4 * rows + 1.0), facecolor="white")
    FigureCanvasAgg(figure)
    width, height = figure.get_size_inches()
    outer = figure.add_gridspec(
        rows, columns, left=0.75 / width, right=1 - 1.15 / width, bottom=0.6 / height, top=1 - 1.0 / height,
        wspace=0.14, hspace=0.19,
    )  # fmt: skip
    image = None
    for place, (number, field) in enumerate(zip(chosen, values, strict=True)):
        row, column = divmod(place, columns)
        inner = outer[row, column].subgridspec(2, 1, height_ratios=(1, 2.4), hspace=0.06)
        profile = figure.add_subplot(inner[0])
        _draw_profiles(profile, points, field, limit)
        _name(profile, 1.0, f"sample {number}", color=FAINT, ha="right")
        field_axes = figure.add_subplot(inner[1], sharex=profile)
        image = field_axes.imshow(
            _in_between(info.times, field), extent=(points[0], points[-1], info.times[0], info.times[-1]),
            origin="lower", aspect="auto", interpolation="bilinear", cmap="RdBu_r", vmin=-limit, vmax=limit,
        )  # fmt: skip
        _tidy(field_axes)
        last_row = place + columns >= count
        field_axes.tick_params(labelbottom=last_row, labelleft=column == 0)
        profile.tick_params(bottom=False, labelbottom=False, labelleft=column == 0)
        if last_row:
            field_axes.set_xlabel(_label(axis_name, axis.units), fontsize=10)
        if column == 0:
            field_axes.set_ylabel("time", fontsize=10)
            profile.set_ylabel(name, fontsize=10, rotation=0, va="center", labelpad=8)
        if place == 0:
            _name(profile, 0.0, f"time {info.times[0]:g}", color=FAINT)
            _name(profile, 0.2, f"time {info.times[-1]:g}", color=INK, weight="bold")
    assert image is not None
    bar = figure.colorbar(
        image, cax=figure.add_axes((1 - 0.9 / width, 0.6 / height, 0.14 / width, 1 - 1.6 / height))
    )
    bar.set_label(_label(f"{variable.long_name} {name}", variable.units), fontsize=10, color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8.5, color=FAINT, labelcolor=INK)
    _caption(figure, dataset, split)
    return figure


def _paths(dataset: Dataset, split: str, names: list[str], samples: int, seed: int) -> Figure:
    """Random samples against time over bands that hold half and nine tenths of all samples.

    One row for each variable, one column for each of its first three entries.
    """
    info = dataset.info
    times = np.asarray(info.times)
    stored = {name: dataset.read(split, name) for name in names}
    count = min(samples, info.samples[split])
    chosen = np.sort(np.random.default_rng(seed).choice(info.samples[split], count, replace=False))
    columns = min(COLUMNS, max(values.shape[2] for values in stored.values()))
    figure = Figure(figsize=(4.2 * columns + 2.4, 2.6 * len(names) + 1.6), facecolor="white")
    FigureCanvasAgg(figure)
    width, height = figure.get_size_inches()
    panels = figure.subplots(
        len(names), columns, sharex=True, sharey="row", squeeze=False,
        gridspec_kw={
            "left": 0.75 / width, "right": 1 - 1.0 / width, "bottom": 0.6 / height, "top": 1 - 1.0 / height,
            "wspace": 0.08, "hspace": 0.14,
        },
    )  # fmt: skip
    for row, (name, values) in zip(panels, stored.items(), strict=True):
        variable = info.variables[name]
        for entry, axes in enumerate(row):
            _tidy(axes)
            if entry >= values.shape[2]:
                axes.set_visible(False)
                continue
            for low, high in ((0.05, 0.95), (0.25, 0.75)):
                band = np.quantile(values[..., entry], (low, high), axis=0)
                axes.fill_between(times, *band, color=FAINT, alpha=0.22, linewidth=0)
            axes.plot(times, np.median(values[..., entry], axis=0), color=FAINT, linewidth=1.4)
            for number in chosen:
                axes.plot(times, values[number, :, entry], linewidth=0.9)
            axes.set_xlim(times[0], times[-1])
            if values.shape[2] > 1:
                _name(axes, 1.0, f"{variable.dims[1]} {entry} of {values.shape[2]}", color=FAINT, ha="right")
        row[0].set_ylabel(_label(f"{variable.long_name} {name}", variable.units), fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("time", fontsize=10)
    _name(panels[0, 0], 0.0, "median, half and nine tenths of all samples", color=FAINT)
    _caption(figure, dataset, split)
    return figure


def png(figure: Figure) -> bytes:
    """The picture as a file; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _in_between(times: tuple[float, ...], field: NDArray[Any], num_times: int = 240) -> NDArray[Any]:
    """The field at equally spaced times, linear in between the stored ones."""
    wanted = np.linspace(times[0], times[-1], num_times)
    right = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    left = right - 1
    before, after = np.asarray(times)[left], np.asarray(times)[right]
    weight = ((wanted - before) / (after - before))[:, None]
    return np.asarray((1 - weight) * field[left] + weight * field[right])


def _draw_profiles(axes: Any, points: NDArray[Any], field: NDArray[Any], limit: float) -> None:
    axes.axhline(0, color=FAINT, linewidth=0.5, alpha=0.6)
    axes.plot(points, field[0], color=FAINT, linewidth=1.1)
    axes.plot(points, field[-1], color=INK, linewidth=1.5)
    axes.set_xlim(points[0], points[-1])
    axes.set_ylim(-1.08 * limit, 1.08 * limit)
    _tidy(axes)


def _name(axes: Any, x: float, text: str, **style: Any) -> None:
    """A small label above the frame."""
    axes.text(x, 1.06, text, transform=axes.transAxes, fontsize=8.5, va="baseline", **style)


def _tidy(axes: Any) -> None:
    axes.tick_params(labelsize=8.5, color=FAINT, labelcolor=INK, length=3, width=0.6)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
        spine.set_linewidth(0.6)


def _label(name: str, units: str) -> str:
    return f"{name} ({units})"


def _caption(figure: Figure, dataset: Dataset, split: str) -> None:
    """What is shown: recipe and split above, equation and its numbers below."""
    width, height = figure.get_size_inches()
    left = 0.75 / width
    problem = dict(dataset.recipe.dump()["problem"])
    numbers = [problem.pop("name")]
    numbers += [f"{key} {value:g}" for key, value in problem.items() if isinstance(value, float)]
    grid = " × ".join(str(axis.num_points) for axis in dataset.info.axes.values())
    numbers += [
        *([f"{grid} points"] if grid else []),
        f"{len(dataset.info.times)} times",
        f"{dataset.info.samples[split]} samples",
    ]
    title = f"{dataset.info.recipe}, {split}"
    figure.text(left, 1 - 0.36 / height, title, fontsize=15, weight="bold", color=INK)
    figure.text(left, 1 - 0.6 / height, "   ·   ".join(numbers), fontsize=9.5, color="#57606a")
