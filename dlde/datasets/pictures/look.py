"""How all pictures of datasets look: sheets of panels, captions, colours."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dlde.datasets.pictures.shown import Shown, Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, FAINT = "#24292f", "#57606a", "#9aa4af"
LEFT, RIGHT, BOTTOM = 0.85, 1.4, 0.6  # margins (inches)
LINES = ("#1f4e79", "#e07b39", "#3a923a", "#8c4f9e", "#b03a48", "#c2a300", "#2a9d8f", "#6b7280")


class Sheet:
    """Panels of one size in rows and columns (inches), a caption above them, colour bars to the right."""

    def __init__(
        self,
        shown: Shown,
        rows: int,
        columns: int,
        panel: tuple[float, float],
        *,
        gaps: tuple[float, float] = (0.25, 0.35),
        left: float = LEFT,
        right: float = RIGHT,
        top: float = 0.0,
        bottom: float = BOTTOM,
    ) -> None:
        self.rows, self.columns, self.panel, self.gaps = rows, columns, panel, gaps
        inner = columns * panel[0] + (columns - 1) * gaps[0]
        self.width = max(left + inner + right, 5.0)
        caption = _caption(shown, self.width - LEFT - 0.2)
        self.left, self.right, self.top, self.bottom = left, self.width - left - inner, top, bottom
        self.above = 0.62 + 0.19 * len(caption) + 0.12
        self.height = self.above + top + rows * panel[1] + (rows - 1) * gaps[1] + bottom
        self.figure = Figure(figsize=(self.width, self.height), facecolor="white")
        FigureCanvasAgg(self.figure)
        title = f"{shown.dataset.info.recipe}, {shown.split}"
        self._text(LEFT, 0.36, title, fontsize=15, weight="bold", color=INK)
        for line, text in enumerate(caption):
            self._text(LEFT, 0.6 + 0.19 * line, text, fontsize=9.5, color=MUTED)

    @property
    def free(self) -> float:
        """Inches from the left where the margin to the right of the panels begins."""
        return self.width - self.right

    def axes(self, row: int, column: int, *, low: float = 0.0, high: float = 1.0, **how: Any) -> Any:
        """The panel there, or the part of its height between two fractions."""
        x = self.left + column * (self.panel[0] + self.gaps[0])
        y = self.bottom + (self.rows - 1 - row) * (self.panel[1] + self.gaps[1])
        axes = self.figure.add_axes(
            self._box(x, y + low * self.panel[1], self.panel[0], (high - low) * self.panel[1]), **how
        )
        tidy(axes)
        return axes

    def bar(self, image: Any, label: str, brief: str, first: int, last: int) -> None:
        """A colour bar beside the rows from `first` to `last`, labelled in brief where room is short."""
        low = self.bottom + (self.rows - 1 - last) * (self.panel[1] + self.gaps[1])
        high = self.bottom + (self.rows - 1 - first) * (self.panel[1] + self.gaps[1]) + self.panel[1]
        x = self.left + self.columns * self.panel[0] + (self.columns - 1) * self.gaps[0] + 0.2
        axes = self.figure.add_axes(self._box(x, low, 0.13, high - low))
        bar = self.figure.colorbar(image, cax=axes)
        lines = textwrap.wrap(label, max(10, int((high - low) / 0.085)))
        bar.set_label("\n".join(lines) if len(lines) <= 2 else brief, fontsize=10, color=INK)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8.5, color=FAINT, labelcolor=INK, length=3, width=0.6)

    def note(self, text: str) -> None:
        """A line under everything."""
        self._text(LEFT, self.height - 0.12, text, fontsize=8.5, color=FAINT)

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        """At inches from the left and from above."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)

    def _box(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        return x / self.width, y / self.height, width / self.width, height / self.height


def scale(values: Values) -> dict[str, Any]:
    """Colour map and limits: about zero where both signs occur, of one hue's lightness else."""
    low, high = float(values.min()), float(values.max())
    size = max(abs(low), abs(high))
    if low < 0 < high and min(-low, high) > 0.02 * size:
        return {"cmap": "RdBu_r", "vmin": -size, "vmax": size}
    if low == high:
        low, high = low - 0.5 * (size or 1.0), high + 0.5 * (size or 1.0)
    return {"cmap": "viridis", "vmin": low, "vmax": high}


def tidy(axes: Axes) -> None:
    """Thin frame and small ticks."""
    axes.tick_params(labelsize=8.5, color=FAINT, labelcolor=INK, length=3, width=0.6)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
        spine.set_linewidth(0.6)


def name(axes: Axes, x: float, text: str, *, inches: float = 0.06, **style: Any) -> None:
    """A small label above the frame."""
    height = axes.get_position().height * axes.figure.get_size_inches()[1]  # type: ignore[union-attr]
    style = {"fontsize": 8.5, "color": MUTED, **style}
    axes.text(x, 1 + inches / height, text, transform=axes.transAxes, va="baseline", **style)


def _caption(shown: Shown, width: float) -> list[str]:
    """The equation and its numbers, as lines of so many inches."""
    info = shown.dataset.info
    problem = dict(shown.dataset.recipe.dump()["problem"])
    name = problem.pop("name")
    numbers = [name if name != "recorded" else f"imported from {', '.join(problem['files'])}"]
    numbers += [f"{key.replace('_', ' ')} {text}" for key, one in problem.items() if (text := _number(one))]
    grid = " × ".join(str(axis.num_points) for axis in info.axes.values())
    count = info.samples[shown.split]
    numbers += [
        *([f"{grid} points"] if grid else []),
        *([f"{len(info.times)} times"] if len(info.times) > 1 else []),
        f"{count} sample{'s' if count > 1 else ''}",
    ]
    separator = "   ·   "
    lines, columns = [""], int(width / 0.078)
    for number in numbers:
        text = textwrap.shorten(str(number), columns, placeholder=" …")
        if lines[-1] and len(lines[-1]) + len(separator) + len(text) > columns:
            lines.append("")
        lines[-1] += (separator if lines[-1] else "") + text
    return lines


def _number(value: Any) -> str:
    """Of a parameter: its value, or the interval that it is drawn from; nothing of other fields."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping) and {"low", "high"} <= set(value):
        return f"{value['low']:g} to {value['high']:g}"
    return ""


def ends(points: Values) -> tuple[float, float]:
    """What an image of values at those points covers: half a spacing more on either side."""
    half = (points[-1] - points[0]) / max(len(points) - 1, 1) / 2
    return float(points[0] - half), float(points[-1] + half)
