"""Pictures with their classes."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.figure import Figure

from dlde.datasets.pictures import look
from dlde.datasets.pictures.look import Sheet
from dlde.datasets.pictures.shown import Shown

COLUMNS = 8
SIZE = 1.15  # of a picture (inches)


def images(shown: Shown) -> Figure:
    """All chosen pictures of the first variable, each under its class; (y, x) or (y, x, channel)."""
    values = next(iter(shown.values.values()))
    values = values[..., None] if values.ndim == 3 else values
    count, height, width, channels = values.shape
    columns = min(COLUMNS, count)
    panel = (SIZE * max(1.0, width / height), SIZE * max(1.0, height / width))
    sheet = Sheet(
        shown, -(-count // columns), columns, panel, gaps=(0.14, 0.34), top=0.2, bottom=0.3, right=0.3
    )
    top = 255.0 if values.max() > 1 else 1.0
    classes = _classes(shown)
    for place in range(count):
        axes = sheet.axes(*divmod(place, columns))
        picture = values[place, ..., :3] if channels >= 3 else values[place, ..., 0]
        if values.min() < 0:  # already normalised: its own range
            axes.imshow(picture if channels < 3 else picture.mean(-1), cmap="gray", interpolation="nearest")
        else:
            axes.imshow(
                np.clip(picture / top, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
            )  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
        look.name(axes, 0.0, classes[place], inches=0.05)
    return sheet.figure


def _classes(shown: Shown) -> list[str]:
    """The class of every sample where there is one, by name where the label's meaning lists them."""
    labels = shown.parameters.get("label")
    if labels is None:
        return [f"sample {number}" for number in shown.numbers]
    meaning = shown.variable("label").long_name.partition(":")[2]
    named = dict(re.findall(r"(\d+) ([^,]+)", meaning))
    return [named.get(str(int(one)), f"class {int(one)}") for one in labels]
