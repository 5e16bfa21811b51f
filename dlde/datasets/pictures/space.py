"""Fields in space: over time along one axis, as frames of two axes, or standing still."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dlde.datasets.pictures import look
from dlde.datasets.pictures.look import FAINT, INK, Sheet
from dlde.datasets.pictures.shown import Field, Shown, Values, fields, label

COLUMNS = 3
FRAMES = 5

# sheet, row, column, field, place of the sample, whether nothing is below
Draw = Callable[[Sheet, int, int, Field, int, bool], Any]


def space_time(shown: Shown) -> Figure:
    """The first and the last profile, and between them an image over one axis and time."""
    return _table(shown, fields(shown), (3.3, 3.2), _space_time_panel(shown), top=0.18, gaps=(0.35, 0.5))


def still(shown: Shown) -> Figure:
    """One image for each sample and field."""
    found = fields(shown)
    panel = _panel(found[0], 2.6)
    return _table(shown, found, panel, _image_panel(shown), top=0.18, gaps=(0.3, 0.4))


def profiles(shown: Shown) -> Figure:
    """Curves along one axis, of fields that do not change."""
    found = fields(shown)
    sheet = Sheet(shown, len(found), 1, (6.5, 2.2), gaps=(0.0, 0.35), right=0.3)
    for row, field in enumerate(found):
        axes = sheet.axes(row, 0)
        for place in range(len(shown.numbers)):
            colour = look.LINES[place % len(look.LINES)]
            values = field.values[place].reshape(-1, len(field.points[0]))[-1]  # of a single stored time
            axes.plot(field.points[0], values, color=colour, linewidth=1.1)
        axes.set_xlim(field.points[0][0], field.points[0][-1])
        axes.set_ylabel(field.label, fontsize=10)
        axes.tick_params(labelbottom=row == len(found) - 1)
        if row == len(found) - 1:
            axes.set_xlabel(axis_label(shown, field.axes[0]), fontsize=10)
    return sheet.figure


def frames(shown: Shown, times: Sequence[int]) -> Figure:
    """A row for each sample and field, an image for each of the chosen stored times."""
    found = fields(shown)
    panel = _panel(found[0], 2.0)
    rows = [(place, field) for place in range(len(shown.numbers)) for field in found]
    sheet = Sheet(shown, len(rows), len(times), panel, gaps=(0.28, 0.36), top=0.22)
    scales = {field.label: look.scale(field.values[:, times]) for field in found}
    units = shown.dataset.recipe.time_units
    for row, (place, field) in enumerate(rows):
        image: Any = None
        for column, time in enumerate(times):
            axes = sheet.axes(row, column)
            image = draw_image(axes, field, field.values[place, time], scales[field.label])
            last = row == len(rows) - 1
            axes.tick_params(labelbottom=last, labelleft=column == 0)
            if last:
                axes.set_xlabel(axis_label(shown, field.axes[0]), fontsize=10)
            if column == 0:
                axes.set_ylabel(axis_label(shown, field.axes[1]), fontsize=10)
                if field is found[0]:
                    look.name(axes, 0.0, shown.name(place), inches=0.07)
            if row == 0:
                look.name(axes, 0.5, time_text(shown.times[time], units), inches=0.24, ha="center", color=INK)
        if len(found) > 1:
            sheet.bar(image, field.label, field.brief, row, row)
    if len(found) == 1:
        sheet.bar(image, found[0].label, found[0].brief, 0, len(rows) - 1)
    return sheet.figure


def spread(times: Values, count: int = FRAMES) -> list[int]:
    """Stored times as evenly spread as can be, the first and the last among them."""
    wanted = np.linspace(times[0], times[-1], min(count, len(times)))
    return sorted({int(np.abs(times - time).argmin()) for time in wanted})


def time_text(time: float, units: str) -> str:
    """`t = 0.25 s`."""
    return f"t = {time:.6g}" + ("" if units == "dimensionless" else f" {units}")


def axis_label(shown: Shown, axis: str) -> str:
    """`x (m)`."""
    return label(axis, shown.axis(axis).units)


def draw_image(axes: Any, field: Field, values: Values, scaled: dict[str, Any]) -> Any:
    """An image of (x, y) values, the first axis to the right, cut off at the ends of the axes."""
    (left, right), (low, high) = (look.ends(points) for points in field.points)
    image = axes.imshow(
        values.T, origin="lower", extent=(left, right, low, high), aspect="auto",
        interpolation="bilinear", **scaled,
    )  # fmt: skip
    axes.set_xlim(field.points[0][0], field.points[0][-1])
    axes.set_ylim(field.points[1][0], field.points[1][-1])
    few_ticks(axes)
    return image


def few_ticks(axes: Any) -> None:
    """Small panels have room for few numbers."""
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(2, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2))


def _table(
    shown: Shown,
    found: list[Field],
    panel: tuple[float, float],
    draw: Draw,
    *,
    top: float,
    gaps: tuple[float, float],
) -> Figure:
    """Of one field a gallery of all samples; of several a row each, the samples side by side."""
    count = len(shown.numbers)
    columns = min(count, COLUMNS) if len(found) == 1 else count
    rows = -(-count // columns) if len(found) == 1 else len(found)
    sheet = Sheet(shown, rows, columns, panel, gaps=gaps, top=top)
    for number, field in enumerate(found):
        image: Any = None
        for place in range(count):
            row, column = divmod(place, columns) if len(found) == 1 else (number, place)
            last = place + columns >= count if len(found) == 1 else row == rows - 1
            image = draw(sheet, row, column, field, place, last)
        first, end = (0, rows - 1) if len(found) == 1 else (number, number)
        sheet.bar(image, field.label, field.brief, first, end)
    return sheet.figure


def _space_time_panel(shown: Shown) -> Draw:
    times = shown.times

    def draw(sheet: Sheet, row: int, column: int, field: Field, place: int, last: bool) -> Any:
        values, points = field.values[place], field.points[0]
        scaled = look.scale(field.values)
        profile = sheet.axes(row, column, low=0.72)
        if scaled["vmin"] < 0 < scaled["vmax"]:
            profile.axhline(0, color=FAINT, linewidth=0.5, alpha=0.6)
        profile.plot(points, values[0], color=FAINT, linewidth=1.1)
        profile.plot(points, values[-1], color=INK, linewidth=1.5)
        margin = 0.04 * (scaled["vmax"] - scaled["vmin"])
        profile.set_ylim(scaled["vmin"] - margin, scaled["vmax"] + margin)
        look.name(profile, 1.0, shown.name(place), ha="right")
        axes = sheet.axes(row, column, high=0.68, sharex=profile)
        image = axes.imshow(
            _in_between(times, values), extent=(*look.ends(points), times[0], times[-1]),
            origin="lower", aspect="auto", interpolation="bilinear", **scaled,
        )  # fmt: skip
        axes.set_xlim(points[0], points[-1])
        axes.tick_params(labelbottom=last, labelleft=column == 0)
        profile.tick_params(bottom=False, labelbottom=False, labelleft=column == 0)
        if last:
            axes.set_xlabel(axis_label(shown, field.axes[0]), fontsize=10)
        if column == 0:
            axes.set_ylabel(shown.time_label, fontsize=10)
            profile.set_ylabel(field.short, fontsize=10)
        if row == column == 0:
            units = shown.dataset.recipe.time_units
            look.name(profile, 0.0, time_text(times[0], units), color=FAINT)
            look.name(profile, 0.24, time_text(times[-1], units), color=INK, weight="bold")
        return image

    return draw


def _image_panel(shown: Shown) -> Draw:
    def draw(sheet: Sheet, row: int, column: int, field: Field, place: int, last: bool) -> Any:
        axes = sheet.axes(row, column)
        image = draw_image(axes, field, field.values[place], look.scale(field.values))
        axes.tick_params(labelbottom=last, labelleft=column == 0)
        if last:
            axes.set_xlabel(axis_label(shown, field.axes[0]), fontsize=10)
        if column == 0:
            axes.set_ylabel(axis_label(shown, field.axes[1]), fontsize=10)
        look.name(axes, 0.0, shown.name(place))
        return image

    return draw


def _panel(field: Field, height: float) -> tuple[float, float]:
    """Width and height (inches) in the proportion of the axes, within reason."""
    across, up = (points[-1] - points[0] for points in field.points)
    ratio = float(np.clip(across / up, 0.6, 2.6)) if up > 0 and across > 0 else 1.0
    return height * ratio, height


def _in_between(times: Values, field: Values, num_times: int = 240) -> Values:
    """The field at equally spaced times, linear in between the stored ones."""
    wanted = np.linspace(times[0], times[-1], num_times)
    right = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    left = right - 1
    weight = ((wanted - times[left]) / (times[right] - times[left]))[:, None]
    return np.asarray((1 - weight) * field[left] + weight * field[right])
