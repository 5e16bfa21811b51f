"""The heat plug-in is installed, for these tests and the processes that they start."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dlde import catalog
from dlde.datasets.recipe import Recipe

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="session", autouse=True)
def plugin() -> Iterator[None]:
    before = os.environ.get("PYTHONPATH")
    sys.path.append(str(PLUGIN))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PLUGIN), *([before] if before else [])])
    catalog.places.cache_clear()
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


HEAT: dict[str, Any] = {
    "problem": {"name": "slab"},
    "num_points": [32],
    "times": {"stop": 1.0, "count": 3},
    "samples": {"train": 20, "test": 5},
    "storage": {"part": 8},
}


@pytest.fixture
def heat() -> Callable[..., Recipe]:
    """A small recipe; keywords replace its fields."""

    def make(**fields: Any) -> Recipe:
        return Recipe.parse({"name": "slab", **HEAT, **fields}, source="test")

    return make
