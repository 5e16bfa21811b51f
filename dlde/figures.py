"""Pictures of how a predicted field compares with its reference. No global state of matplotlib."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

SHOWN = 400  # points of a curve
COLOURS = ("#1f4e79", "#e07b39", "#3a923a", "#8c4f9e", "#b03a48", "#6b7280", "#c2a300", "#2a9d8f")
INK, MUTED, REFERENCE, PREDICTION, TRAINED = "#333333", "#b0b0b0", "#1f4e79", "#e07b39", "#3a923a"


def empty(size: tuple[float, float]) -> Figure:
    """A figure of that many inches, to be filled; loads matplotlib, which takes half a second."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def samples(
    grid: Sequence[Array],
    inputs: Tensor,
    references: Tensor,
    predictions: Tensor,
    errors: Tensor,
    *,
    names: tuple[str, str],
) -> Figure:
    """The samples of smallest, median and largest relative error (sample,); fields (sample, *space, 1)."""
    order = errors.argsort()
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    titles = [f"{word}: sample {i}, relative error {errors[i]:.2g}" for word, i in chosen.items()]

    def of(field: Tensor) -> list[Array]:
        return [field[i, ..., 0].double().cpu().numpy() for i in chosen.values()]

    draw = _lines if len(grid) == 1 else _images
    return draw(grid, of(inputs), of(references), of(predictions), titles, names)


def histogram(errors: Tensor) -> Figure:
    """How many samples have which relative error (sample,)."""
    values = errors.detach().double().cpu().numpy()
    figure = empty((5.5, 3.6))
    axes = figure.subplots()
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (0.5, 2.0)
    bins = np.geomspace(low / 1.001, high * 1.001, 24)
    axes.hist(values, bins.tolist(), color=REFERENCE, alpha=0.85, edgecolor="white", linewidth=0.5)
    axes.axvline(values.mean(), color=PREDICTION, linewidth=1.8, label=f"mean {values.mean():.3g}")
    axes.axvline(
        float(np.median(values)),
        color=INK,
        linewidth=1.2,
        linestyle="--",
        label=f"median {np.median(values):.3g}",
    )
    axes.set_xscale("log")
    axes.set(xlabel="relative L2 error", ylabel="test samples", title=f"Error of {len(values)} test samples")
    axes.legend(frameon=False)
    return _plain(figure)


def resolutions(curve: Sequence[tuple[float, float]], *, trained: int) -> Figure:
    """Mean relative error against the number of points per axis; `trained` is where weights were found."""
    points, errors = np.array(curve).T
    figure = empty((5.5, 3.6))
    axes = figure.subplots()
    axes.axvline(trained, color=TRAINED, linewidth=1.2, linestyle="--", label=f"trained at {trained} points")
    axes.plot(points, errors, marker="o", color=REFERENCE, linewidth=1.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(points, [f"{n:g}" for n in points])
    axes.set(
        xlabel="points per axis",
        title="The same weights at other resolutions",
        ylabel="mean relative L2 error",
    )
    _bare_minor_ticks(axes)
    axes.set_ylim(0, 1.25 * errors.max())
    axes.legend(frameon=False)
    return _plain(figure)


def losses(phases: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Every loss term of every phase that has one against its step; rows hold `step`, `seconds`, terms."""
    phases = {phase: rows for phase, rows in phases.items() if any(len(row) > 2 for row in rows)}
    figure = empty((5.5 * len(phases), 3.6))
    for axes, (phase, rows) in zip(
        figure.subplots(1, len(phases), squeeze=False)[0], phases.items(), strict=True
    ):
        names = dict.fromkeys(key for row in rows for key in row if key not in ("step", "seconds"))
        for name in names:
            curve = np.array([(row["step"], row[name]) for row in rows if name in row])
            width = max(1, len(curve) // 100)
            smooth = np.convolve(curve[:, 1], np.ones(width) / width, "valid")
            (line,) = axes.plot(curve[:, 0], curve[:, 1], linewidth=0.6, alpha=0.35)
            axes.plot(curve[width - 1 :, 0], smooth, color=line.get_color(), linewidth=1.8, label=name)
        if all(row[name] > 0 for row in rows for name in names if name in row):
            axes.set_yscale("log")
        axes.set(xlabel="step", ylabel="loss", title=f"Training, phase {phase}")
        axes.legend(frameon=False)
    return _plain(figure)


@dataclass(frozen=True)
class Panel:
    """One picture of a study: for each variant the points (place, value) of every seed."""

    lines: Mapping[str, Sequence[Sequence[tuple[Any, float]]]]
    horizontal: str  # what a place is; "" for names
    vertical: str
    level: float | None = None  # a line to compare with
    title: str = ""


def study(panels: Sequence[Panel]) -> Figure:
    """Panels side by side: curves as lines, numbers as lines through the seeds' mean, names as columns."""
    figure = empty((5.2 * len(panels), 4.0))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        places = [place for seeds in panel.lines.values() for points in seeds for place, _ in points]
        numeric = all(isinstance(place, (int, float)) for place in places)
        if panel.horizontal in ("step", "seconds", "at"):
            _curves(axes, panel)
        elif numeric:
            _dots(axes, panel, {place: float(place) for place in places}, spread=0.0, line="-")
            if places and min(places) > 0 and max(places) >= 8 * min(places):
                axes.set_xscale("log", base=2)
            axes.set_xticks(sorted(set(places)), [f"{tick:g}" for tick in sorted(set(places))])
            _bare_minor_ticks(axes)
        else:
            names = list(dict.fromkeys(map(str, places)))
            spread = 0.0 if names == list(panel.lines) else 0.6  # one column each needs no room beside
            _dots(axes, panel, {name: float(i) for i, name in enumerate(names)}, spread=spread, line="none")
            axes.set_xticks(range(len(names)), names, rotation=20 if len(names) > 3 else 0)
            axes.set_xlim(-0.6, len(names) - 0.4)
        if panel.level is not None:
            axes.axhline(panel.level, color=INK, linewidth=0.9, linestyle="--")
        values = [value for seeds in panel.lines.values() for points in seeds for _, value in points]
        if values and min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
        axes.set(xlabel=panel.horizontal, ylabel=panel.vertical, title=panel.title)
        if len(panel.lines) > 1 and list(map(str, dict.fromkeys(places))) != list(panel.lines):
            axes.legend(frameon=False, fontsize=8)
    return _plain(figure)


def _curves(axes: Axes, panel: Panel) -> None:
    for colour, (variant, seeds) in zip(itertools.cycle(COLOURS), panel.lines.items(), strict=False):
        for number, points in enumerate(seeds):
            x, y = zip(*points[:: max(1, len(points) // SHOWN)], strict=True)
            axes.plot(x, y, color=colour, linewidth=0.9, alpha=0.75, label=None if number else variant)


def _dots(axes: Axes, panel: Panel, positions: Mapping[Any, float], *, spread: float, line: str) -> None:
    """A dot for every seed and their mean, the variants of one place side by side within `spread`."""
    for number, (colour, (variant, seeds)) in enumerate(
        zip(itertools.cycle(COLOURS), panel.lines.items(), strict=False)
    ):
        shift = spread * ((number + 0.5) / len(panel.lines) - 0.5)
        columns: dict[float, list[float]] = {}
        for points in seeds:
            for place, value in points:
                columns.setdefault(positions[place] + shift, []).append(value)
        dots = [(x, value) for x, column in columns.items() for value in column]
        axes.plot(*zip(*dots, strict=True), "o", color=colour, alpha=0.55, markersize=4, markeredgewidth=0)
        axes.plot(
            list(columns),
            [float(np.mean(column)) for column in columns.values()],
            linestyle=line,
            marker="" if line == "-" else "_",
            markersize=14,
            color=colour,
            linewidth=1.4,
            label=variant,
        )


def as_svg(figure: Figure) -> str:
    """The figure as text; the same figure gives the same bytes."""
    buffer = io.StringIO()
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "dlde", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _lines(
    grid: Sequence[Array],
    inputs: list[Array],
    references: list[Array],
    predictions: list[Array],
    titles: list[str],
    names: tuple[str, str],
) -> Figure:
    """Fields above, their error below."""
    figure = empty((4.2 * len(titles), 4.6))
    rows = figure.subplots(2, len(titles), sharex=True, squeeze=False, height_ratios=[3, 1])
    largest = max(
        np.abs(prediction - reference).max()
        for prediction, reference in zip(predictions, references, strict=True)
    )
    for column, title in enumerate(titles):
        above, below = rows[0, column], rows[1, column]
        above.plot(grid[0], inputs[column], color=MUTED, linewidth=1.2, label=f"input: {names[0]}")
        above.plot(
            grid[0], references[column], color=REFERENCE, linewidth=2.2, label=f"reference: {names[1]}"
        )
        above.plot(
            grid[0], predictions[column], color=PREDICTION, linewidth=1.6, linestyle="--", label="prediction"
        )
        above.set_title(title, fontsize=10)
        below.axhline(0, color=MUTED, linewidth=0.8)
        below.plot(grid[0], predictions[column] - references[column], color=PREDICTION, linewidth=1.2)
        below.set_ylim(-1.1 * largest - 1e-300, 1.1 * largest + 1e-300)
        below.set_xlabel("x")
    rows[1, 0].set_ylabel("error")
    handles, labels = rows[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return _plain(figure)


def _images(
    grid: Sequence[Array],
    inputs: list[Array],
    references: list[Array],
    predictions: list[Array],
    titles: list[str],
    names: tuple[str, str],
) -> Figure:
    """One row for each sample: input, reference, prediction, error; the first axis points right."""
    figure = empty((12.5, 2.9 * len(titles)))
    parts = figure.subfigures(len(titles), 1, squeeze=False)[:, 0]
    extent = (grid[0][0], grid[0][-1], grid[1][0], grid[1][-1])
    for row, (part, title) in enumerate(zip(parts, titles, strict=True)):
        part.suptitle(title, fontsize=10)
        error = predictions[row] - references[row]
        shared = {"vmin": references[row].min(), "vmax": references[row].max()}
        size = np.abs(error).max()
        panels: list[tuple[str, Array, str, dict[str, float]]] = [
            (f"input: {names[0]}", inputs[row], "viridis", {}),
            (f"reference: {names[1]}", references[row], "viridis", shared),
            ("prediction", predictions[row], "viridis", shared),
            ("error", error, "RdBu_r", {"vmin": -size, "vmax": size}),
        ]
        for axes, (name, values, colours, limits) in zip(part.subplots(1, 4), panels, strict=True):
            image = axes.imshow(values.T, origin="lower", extent=extent, cmap=colours, **limits)
            part.colorbar(image, ax=axes, shrink=0.8)
            axes.set_title(name, fontsize=9)
            axes.set_xticks(extent[:2], [f"{end:.3g}" for end in extent[:2]])
            axes.set_yticks(extent[2:], [f"{end:.3g}" for end in extent[2:]])
    return figure


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        _tidy(axes)
    return figure


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)


def _bare_minor_ticks(axes: Axes) -> None:
    from matplotlib.ticker import NullFormatter

    axes.xaxis.set_minor_formatter(NullFormatter())
