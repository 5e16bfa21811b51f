"""Fields that move: one frame for every stored time, as a GIF or, with ffmpeg, as an MP4."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dlde.datasets.pictures import look
from dlde.datasets.pictures.shown import Shown, fields
from dlde.datasets.pictures.space import _panel, axis_label, draw_image, time_text
from dlde.errors import InputError

SECONDS = 6.0  # that a run takes, within what can be seen
DPI = 110
FORMATS = (".gif", ".mp4")


def check_format(suffix: str) -> None:
    """Before anything is read. Raises InputError where this machine cannot write it."""
    if suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise InputError(
            "an .mp4 needs ffmpeg, which is not on this machine's PATH; install it, or write a .gif, which "
            "needs nothing"
        )


def animation(shown: Shown, suffix: str) -> bytes:
    """The chosen samples side by side, a row for each field, all stored times one after another.

    A colour means the same in every frame. Raises InputError, as `check_format` does.
    """
    check_format(suffix)
    found = fields(shown)
    count, times = len(shown.numbers), shown.times
    one_dimension = len(found[0].axes) == 1
    panel = (3.4, 2.2) if one_dimension else _panel(found[0], 2.6)
    sheet = look.Sheet(shown, len(found), count, panel, gaps=(0.3, 0.4), top=0.18)
    moving: list[tuple[Any, Any]] = []  # what is drawn, and its values by time
    for row, field in enumerate(found):
        scaled = look.scale(field.values)
        artist: Any = None
        for place in range(count):
            axes = sheet.axes(row, place)
            values = field.values[place]
            if one_dimension:
                axes.plot(field.points[0], values[0], color=look.FAINT, linewidth=1.0)
                (artist,) = axes.plot(field.points[0], values[0], color=look.INK, linewidth=1.5)
                margin = 0.04 * (scaled["vmax"] - scaled["vmin"])
                axes.set_xlim(field.points[0][0], field.points[0][-1])
                axes.set_ylim(scaled["vmin"] - margin, scaled["vmax"] + margin)
            else:
                artist = draw_image(axes, field, values[0], scaled)
            moving.append((artist, values))
            last = row == len(found) - 1
            axes.tick_params(labelbottom=last, labelleft=place == 0)
            if last:
                axes.set_xlabel(axis_label(shown, field.axes[0]), fontsize=10)
            if place == 0:
                upward = field.label if one_dimension else axis_label(shown, field.axes[1])
                axes.set_ylabel(upward, fontsize=10)
            if row == 0:
                look.name(axes, 0.0, shown.name(place))
        if not one_dimension:
            sheet.bar(artist, field.label, field.brief, row, row)
    clock = sheet.figure.text(
        1 - 0.3 / sheet.width, 1 - 0.36 / sheet.height, "", fontsize=12, ha="right", color=look.INK
    )
    units = shown.dataset.recipe.time_units
    rate = float(np.clip(len(times) / SECONDS, 2, 25))

    def draw(time: int) -> None:
        clock.set_text(time_text(times[time], units))
        for artist, values in moving:
            if one_dimension:
                artist.set_ydata(values[time])
            else:
                artist.set_data(values[time].T)

    return _gif(sheet, draw, len(times), rate) if suffix == ".gif" else _mp4(sheet, draw, len(times), rate)


def _gif(sheet: look.Sheet, draw: Any, count: int, rate: float) -> bytes:
    from PIL import Image

    pictures = []
    for time in range(count):
        draw(time)
        buffer = io.BytesIO()
        sheet.figure.savefig(buffer, format="png", dpi=DPI)
        pictures.append(Image.open(buffer).convert("RGB").quantize(colors=255, dither=Image.Dither.NONE))
    file = io.BytesIO()
    duration = [round(1000 / rate)] * (count - 1) + [1500]  # rests at the end
    pictures[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=duration,
        loop=0,
        optimize=False,
    )
    return file.getvalue()


def _mp4(sheet: look.Sheet, draw: Any, count: int, rate: float) -> bytes:
    from matplotlib.animation import FFMpegWriter

    writer = FFMpegWriter(fps=round(rate), codec="libx264", extra_args=["-pix_fmt", "yuv420p", "-vf", _EVEN])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        with writer.saving(sheet.figure, str(path), DPI):
            for time in range(count):
                draw(time)
                writer.grab_frame()
        return path.read_bytes()


_EVEN = "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white"  # the codec wants even sizes
