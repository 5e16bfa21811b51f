"""Datasets without spatial axes: dimensions of their own, blocks, and digests that stay as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dlde.datasets.dataset import Dataset, content_digest
from dlde.datasets.generate import generate
from dlde.datasets.plot import plot, png
from dlde.datasets.recipe import Recipe
from dlde.errors import DamagedDataError, GridError, UnknownNameError
from dlde.files import yaml_files
from dlde.spec import digest_of

RECIPE: dict[str, Any] = {
    "name": "paths",
    "problem": {"name": "ornstein-uhlenbeck", "dims": 2, "path": {"steps": 100}},
    "num_points": [],
    "times": {"stop": 1.0, "count": 5},
    "samples": {"train": 10, "test": 3},
    "solver": {"dt": 0.01},
    "storage": {"part": 4},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return generate(Recipe.parse(RECIPE, source="test"), tmp_path_factory.mktemp("root")).dataset


def test_dimensions_without_an_axis_are_stored_and_read(dataset: Dataset) -> None:
    assert dataset.recipe.shape("state") == (5, 2)
    assert dataset.read("train", "control").shape == (10, 5, 2)
    assert dataset.read("test", "state", time=-1).shape == (3, 2)
    assert dataset.info.axes == {}
    assert dataset.info.variables["state"].sizes == {"component": 2}
    with xr.open_zarr(dataset.store, group="train") as opened:
        assert opened["control"].dims == ("sample", "time", "driver")
        np.testing.assert_array_equal(opened["control"].values, dataset.read("train", "control"))
    assert dataset.verify().whole


def test_the_same_sample_in_any_store(dataset: Dataset, tmp_path: Path) -> None:
    other = generate(
        Recipe.parse({**RECIPE, "samples": {"train": 3}, "storage": {"part": 2}}, source="test"), tmp_path
    )
    np.testing.assert_allclose(
        other.dataset.read("train", "state"), dataset.read("train", "state")[:3], rtol=1e-6
    )


def test_blocks_hold_every_sample_once(dataset: Dataset) -> None:
    blocks = [dataset.block("train", number, "state", "control") for number in range(3)]
    assert dataset.num_blocks("train") == 3
    assert [first for first, _ in blocks] == [0, 4, 8]
    for name in ("state", "control"):
        joined = np.concatenate([values[name] for _, values in blocks])
        np.testing.assert_array_equal(joined, dataset.read("train", name))
    with pytest.raises(UnknownNameError, match="no split 'trian'; did you mean 'train'"):
        dataset.num_blocks("trian")
    with pytest.raises(UnknownNameError, match="no variable 'stat'; did you mean 'state'"):
        dataset.block("train", 0, "stat")


def test_a_damaged_block_is_never_read(tmp_path: Path) -> None:
    dataset = generate(Recipe.parse(RECIPE, source="test"), tmp_path).dataset
    chunk = dataset.store / "train" / "state" / "c.1.0.0"
    content = bytearray(chunk.read_bytes())
    content[3] ^= 1
    chunk.write_bytes(content)
    dataset.block("train", 0, "state")
    with pytest.raises(DamagedDataError, match="part train-00001: samples 4-7"):
        dataset.block("train", 1, "state")


def test_a_digest_from_before_there_were_such_dimensions_is_still_valid() -> None:
    recipe = Recipe.load("burgers-1d-grf")
    before = {
        "splits": {"train": [0, digest_of([])], "test": [0, digest_of([])]},
        "variables": {"u": {"dims": ["time", "x"], "units": "dimensionless", "long_name": "velocity"}},
        "axes": {name: axis.dump() for name, axis in recipe.axes.items()},
        "times": list(recipe.times),
    }
    assert content_digest(recipe, {}) == digest_of(before)


def test_a_picture_of_paths(dataset: Dataset) -> None:
    figure = plot(dataset, samples=4)
    lines = [len(axes.lines) for axes in figure.axes]
    assert lines == [4] * 4 + [8]  # four samples of each entry of both variables; with their starts
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["state 0", "state 1", "control 0", "control 1", "state 1"]
    assert png(figure) == png(plot(dataset, samples=4)) != png(plot(dataset, samples=4, seed=1))


def test_one_time_cannot_be_drawn(tmp_path: Path) -> None:
    recipe = Recipe.parse({**RECIPE, "times": [1.0], "samples": {"train": 1}}, source="test")
    with pytest.raises(GridError, match="has no variable to draw"):
        plot(generate(recipe, tmp_path).dataset)


@pytest.mark.parametrize("name", [name for name in yaml_files("data") if name.startswith("sde-")])
def test_the_recipes_solve_ten_steps_between_stored_times(name: str) -> None:
    recipe = Recipe.load(name)
    assert len(recipe.times) == 101
    assert recipe.samples == {"train": 400, "test": 200}
    assert (recipe.times[1] - recipe.times[0]) / recipe.solver.dt == pytest.approx(10)
    assert recipe.variables.keys() == {"state", "control"}
