"""Trajectories: components against time, over what all samples do, and against one another."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dlde.datasets.dataset import Dataset
from dlde.datasets.pictures import look
from dlde.datasets.pictures.look import FAINT, Sheet
from dlde.datasets.pictures.shown import Shown, Values, component, label

MOST = 1000  # samples that the bands are of
LEAST = 20  # samples without which there are no bands
COMPONENTS = 4  # of a variable, at most, that are drawn


def paths(shown: Shown) -> Figure:
    """A column for each variable, a row for each component: chosen samples over bands of all.

    The bands hold half and nine tenths of the samples. Beside them the phase portrait of the first variable
    of two or three components.
    """
    portrait = _portrait(shown)
    entries = {name: range(min(_count(shown, name), COMPONENTS)) for name in shown.values}
    rows, columns = max(map(len, entries.values())), len(entries)
    width = 4.4 if columns > 1 else 6.8 if portrait is None else 4.9
    right = 0.3 if portrait is None else 5.1
    height = 1.9 if rows > 1 else 2.8
    sheet = Sheet(shown, rows, columns, (width, height), gaps=(0.75, 0.16), right=right, top=0.18)
    everyone, count = _everyone(shown)
    for column, name in enumerate(entries):
        for row in entries[name]:
            axes = sheet.axes(row, column)
            _draw(axes, shown, name, row, everyone[name] if count >= LEAST else None)
            last = row == entries[name][-1]
            axes.tick_params(labelbottom=last)
            if last:
                axes.set_xlabel(shown.time_label, fontsize=10)
            if row == column == 0 and count >= LEAST:
                look.name(axes, 0.0, f"grey: median, half and nine tenths of {count} samples", color=FAINT)
            elif row == 0 and column > 0:
                look.name(axes, 0.0, shown.variable(name).long_name, color=FAINT)
            if row == 0 and _count(shown, name) > COMPONENTS:
                text = f"the first {COMPONENTS} of {_count(shown, name)}"
                look.name(axes, 1.0, text, color=FAINT, ha="right")
    if portrait is not None:
        _draw_portrait(sheet, shown, portrait)
    return sheet.figure


def _draw(axes: Any, shown: Shown, name: str, entry: int, everyone: Values | None) -> None:
    times = shown.times
    if everyone is not None:
        for low, high in ((0.05, 0.95), (0.25, 0.75)):
            band = np.quantile(everyone[..., entry], (low, high), axis=0)
            axes.fill_between(times, *band, color=FAINT, alpha=0.22, linewidth=0)
        axes.plot(times, np.median(everyone[..., entry], axis=0), color=FAINT, linewidth=1.4)
    for place, path in enumerate(_flat(shown.values[name])):
        axes.plot(times, path[:, entry], color=_colour(place), linewidth=0.9)
    axes.set_xlim(times[0], times[-1])
    axes.set_ylabel(_meaning(shown, name, entry), fontsize=10)


def _flat(values: Values) -> Values:
    """(sample, time, *components) with one last axis."""
    return values.reshape(*values.shape[:2], -1)


def _count(shown: Shown, name: str) -> int:
    return int(np.prod(shown.values[name].shape[2:]))


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
    planar = values.shape[-1] == 2
    size, x = (3.9, sheet.free + 0.85) if planar else (4.7, sheet.free + 0.15)
    top = sheet.above + sheet.top
    room = sheet.height - top - sheet.bottom
    size = min(size, room)
    low = sheet.height - top - size - (0 if planar else (room - size) / 2)
    box = (x / sheet.width, low / sheet.height, size / sheet.width, size / sheet.height)
    names = [_meaning(shown, name, entry) for entry in range(values.shape[-1])]
    if planar:
        axes: Any = sheet.figure.add_axes(box)
        look.tidy(axes)
        axes.set_ylabel(names[1], fontsize=10)
    else:
        axes = sheet.figure.add_axes(box, projection="3d")
        axes.set_box_aspect(None, zoom=0.88)
        axes.set_zlabel(names[2], fontsize=9)
        axes.set_ylabel(names[1], fontsize=9)
        axes.tick_params(labelsize=7.5, pad=0, labelcolor=look.INK)
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.set_pane_color((0.97, 0.975, 0.98, 1.0))
            axis.line.set_color(FAINT)
            axis.set_major_locator(MaxNLocator(5))
            axis._axinfo["grid"].update(color="#e1e4e8", linewidth=0.6)  # 3-D axes have no public way
    axes.set_xlabel(names[0], fontsize=10)
    for place, path in enumerate(values):
        axes.plot(*path.T, color=_colour(place), linewidth=0.9)
        axes.plot(*path[:1].T, "o", color=_colour(place), markersize=4)
    if planar:
        look.name(axes, 0.0, "dots: the first time", color=FAINT)


def _colour(place: int) -> str:
    return look.LINES[place % len(look.LINES)]
