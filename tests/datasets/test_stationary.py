"""A dataset of a stationary problem: its variables have no time; one time stands in its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from dlde.datasets.generate import generate
from dlde.datasets.recipe import Recipe
from dlde.errors import SpecError

RECIPE: dict[str, Any] = {
    "name": "media",
    "problem": {"name": "darcy"},
    "num_points": [17, 21],
    "times": [0.0],
    "samples": {"train": 5, "test": 2},
    "storage": {"part": 4},
}


def test_fields_without_a_time_are_stored_and_read(tmp_path: Path) -> None:
    dataset = generate(Recipe.parse(RECIPE, source="test"), tmp_path).dataset
    assert dataset.recipe.shape("a") == dataset.recipe.shape("u") == (17, 21)
    a, u = dataset.read("train", "a"), dataset.read("train", "u")
    assert a.shape == u.shape == (5, 17, 21)
    assert set(np.unique(a)) == {3, 12}
    solvable, recipe = dataset.recipe.solvable, dataset.recipe
    given = {"a": torch.from_numpy(a).double()}
    again = solvable.solve(given, recipe.axes, recipe.times, recipe.solver)["u"]
    np.testing.assert_allclose(u, again, rtol=1e-5, atol=1e-9)
    with xr.open_zarr(dataset.store, group="train") as opened:
        assert opened["u"].dims == ("sample", "x", "y")
        assert opened["a"].attrs["long_name"] == "coefficient"
    assert dataset.verify().whole
    assert dataset.info.statistics["u"].rms > 0


def test_other_times_are_refused() -> None:
    with pytest.raises(SpecError, match=r"darcy is stationary, but times=\(0.0, 1.0\); use times: \[0.0\]"):
        Recipe.parse({**RECIPE, "times": [0.0, 1.0]}, source="test")
