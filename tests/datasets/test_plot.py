from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlde.datasets.generate import generate
from dlde.datasets.plot import plot, png
from dlde.datasets.recipe import Recipe
from dlde.errors import GridError


def test_panels_share_one_colour_scale_and_say_what_they_show(
    heat: Callable[..., Recipe], tmp_path: Path
) -> None:
    dataset = generate(heat(), tmp_path).dataset
    figure = plot(dataset, samples=4)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 4
    assert len({image.get_clim() for image in images}) == 1
    low, high = images[0].get_clim()
    assert low == -high
    labels = {axes.get_ylabel() for axes in figure.axes} | {axes.get_xlabel() for axes in figure.axes}
    assert {"temperature u (K)", "x (m)", "time"} <= labels
    assert figure.texts[0].get_text() == "heat, train"
    assert png(figure) == png(plot(dataset, samples=4)) != png(plot(dataset, samples=4, seed=1))


def test_the_first_row_of_an_image_is_the_first_stored_time(
    heat: Callable[..., Recipe], tmp_path: Path
) -> None:
    dataset = generate(heat(samples={"train": 1}), tmp_path).dataset
    u = dataset.read("train", "u")[0]
    image = np.asarray(next(axes.images[0] for axes in plot(dataset).figure.axes if axes.images).get_array())
    np.testing.assert_allclose(image[[0, -1], :-1], u[[0, -1]], atol=1e-6)


def test_one_stored_time_cannot_be_drawn(heat: Callable[..., Recipe], tmp_path: Path) -> None:
    dataset = generate(heat(times=[0.0], samples={"train": 1}), tmp_path).dataset
    with pytest.raises(GridError, match="has no variable of time and one axis to draw"):
        plot(dataset)
