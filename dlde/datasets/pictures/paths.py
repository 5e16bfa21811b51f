"""Trajectories: components against time, over what all samples do, and against one another."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dlde.datasets.dataset import Dataset
from dlde.datasets.pictures import look
from dlde.datasets.pictures.look import FAINT, Sheet
from dlde.datasets.pictures.shown import Shown, Values, component, label

MOST = 1000  # samples that the bands are of
LEAST = 20  # samples without which there are no bands
COMPONENTS = 4  # of a variable, at most, that are drawn
WIDTH, HEIGHT = 3.6, 1.9  # of a panel (inches)


def paths(shown: Shown) -> Figure:
    """A row for each component, chosen samples over bands of all; beside it the phase portrait.

    The bands hold half and nine tenths of the samples; a portrait is of states of two or three components.
    """
    rows = [(name, entry) for name in shown.values for entry in range(min(_count(shown, name), COMPONENTS))]
    portrait = _portrait(shown)
    alone = portrait is None
    width = 1.9 * WIDTH if alone else 1.35 * WIDTH
    extra = 0.3 if alone else 4.6
    sheet = Sheet(shown, len(rows), 1, (width, HEIGHT if len(rows) > 1 else 1.5 * HEIGHT), gaps=(0.0, 0.16),
                  right=extra, top=0.18)  # fmt: skip
    everyone, count = _everyone(shown)
    times, first = shown.times, None
    for row, (name, entry) in enumerate(rows):
        axes = sheet.axes(row, 0, **({} if first is None else {"sharex": first}))
        first = first or axes
        if count >= LEAST:
            values = everyone[name][..., entry]
            for low, high in ((0.05, 0.95), (0.25, 0.75)):
                band = np.quantile(values, (low, high), axis=0)
                axes.fill_between(times, *band, color=FAINT, alpha=0.22, linewidth=0)
            axes.plot(times, np.median(values, axis=0), color=FAINT, linewidth=1.4)
        for place in range(len(shown.numbers)):
            axes.plot(times, _flat(shown.values[name])[place, :, entry], color=_colour(place), linewidth=0.9)
        axes.set_xlim(times[0], times[-1])
        axes.tick_params(labelbottom=row == len(rows) - 1)
        axes.set_ylabel(_meaning(shown, name, entry), fontsize=10)
        if row == 0 and count >= LEAST:
            look.name(axes, 0.0, f"grey: median, half and nine tenths of {count} samples", color=FAINT)
        if row == len(rows) - 1:
            axes.set_xlabel(shown.time_label, fontsize=10)
    if portrait is not None:
        _draw_portrait(sheet, shown, portrait)
    return sheet.figure


def _flat(values: Values) -> Values:
    """(sample, time, *components) with one last axis."""
    return values.reshape(*values.shape[:2], -1)


def _count(shown: Shown, name: str) -> int:
    return _flat(shown.values[name]).shape[-1]


def _meaning(shown: Shown, name: str, entry: int) -> str:
    variable = shown.variable(name)
    count = _count(shown, name)
    units = variable.units.split(", ")
    unit = units[entry] if len(units) == count else variable.units
    named = component(name, variable, entry)
    if count == 1 and variable.long_name != name:
        named = f"{variable.long_name} {name}"
    return label(named, unit)


def _everyone(shown: Shown) -> tuple[dict[str, Values], int]:
    """The variables of all samples, as many whole parts of them as bands need."""
    dataset: Dataset = shown.dataset
    found: dict[str, list[Values]] = {name: [] for name in shown.values}
    count = 0
    for number in range(dataset.num_blocks(shown.split)):
        if count >= MOST:
            break
        _, values = dataset.block(shown.split, number, *found)
        for name, block in values.items():
            found[name].append(_flat(block))
        count += len(block)
    return {name: np.concatenate(blocks) for name, blocks in found.items()}, count


def _portrait(shown: Shown) -> str | None:
    """The variable whose components are drawn against one another; what drives a system is none."""
    return next(
        (
            name
            for name in shown.values
            if 2 <= _count(shown, name) <= 3 and "driver" not in shown.variable(name).sizes
        ),
        None,
    )


def _draw_portrait(sheet: Sheet, shown: Shown, name: str) -> None:
    values = _flat(shown.values[name])
    size = 3.6
    x, top = sheet.left + sheet.panel[0] + 0.8, sheet.above + sheet.top
    height = min(size, sheet.height - top - sheet.bottom)
    low = sheet.height - top - height
    box = (x / sheet.width, low / sheet.height, size / sheet.width, height / sheet.height)
    names = [_meaning(shown, name, entry) for entry in range(values.shape[-1])]
    if values.shape[-1] == 2:
        axes: Any = sheet.figure.add_axes(box)
        look.tidy(axes)
        axes.set_ylabel(names[1], fontsize=10)
    else:
        import mpl_toolkits.mplot3d  # noqa: F401 (its import makes the projection known)

        axes = sheet.figure.add_axes(box, projection="3d")
        axes.set_box_aspect(None, zoom=0.88)
        axes.set_zlabel(names[2], fontsize=9)
        axes.set_ylabel(names[1], fontsize=9)
        axes.tick_params(labelsize=7.5, pad=0, labelcolor=look.INK)
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.set_pane_color((0.97, 0.975, 0.98, 1.0))
            axis.line.set_color(FAINT)
    axes.set_xlabel(names[0], fontsize=10)
    for place, path in enumerate(values):
        axes.plot(*path.T, color=_colour(place), linewidth=0.9)
        axes.plot(*path[:1].T, "o", color=_colour(place), markersize=4)
    if values.shape[-1] == 2:
        look.name(axes, 0.0, "dots: the first time", color=FAINT)


def _colour(place: int) -> str:
    return look.LINES[place % len(look.LINES)]
