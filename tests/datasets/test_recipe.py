from __future__ import annotations

import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dlde.datasets.recipe import CHUNK_BYTES, Recipe
from dlde.errors import SpecError, UnknownNameError
from dlde.files import yaml_files
from dlde.spec import parse_assignments

Heat = Callable[..., Recipe]

YAML = """
description: for tests
problem: {name: heat, diffusivity: 0.1}
num_points: [32]
times: {start: 0, stop: 1, count: 3}
samples: {train: 4}
presets:
  fine: {num_points: [64], problem.diffusivity: 0.2}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "warm.yaml"
    path.write_text(YAML)
    return path


def test_file_then_preset_then_overrides(file: Path) -> None:
    recipe = Recipe.load(str(file), preset="fine", overrides={"problem.diffusivity": 0.3, "samples.test": 2})
    assert recipe.name == "warm"
    assert recipe.num_points == (64,)
    assert recipe.times == (0.0, 0.5, 1.0)
    assert recipe.problem.diffusivity == 0.3  # type: ignore[attr-defined]
    assert recipe.samples == {"train": 4, "test": 2}
    assert Recipe.parse(recipe.dump(), source="dump") == recipe


def test_command_names_the_recipe_as_it_was_loaded(file: Path, tmp_path: Path) -> None:
    overrides = {"times": [0, 0.25], "problem.diffusivity": 1e-3, "description": "two words"}
    recipe = Recipe.load(str(file), preset="fine", overrides=overrides)
    words = shlex.split(recipe.command(tmp_path))
    assert words[:4] == ["dlde", "data", "generate", str(file)]
    assert words[-2:] == ["--root", str(tmp_path)]
    sets = [word for before, word in pairwise(words) if before == "--set"]
    again = Recipe.load(str(file), preset="fine", overrides=parse_assignments(sets))
    assert again == recipe


def test_identity_leaves_out_counts_name_and_description(heat: Heat) -> None:
    same = [heat(), heat(samples={"valid": 1}), heat(name="other"), heat(description="words")]
    assert len({recipe.digest for recipe in same}) == 1
    assert heat().store("/r").name == f"heat-{heat().digest[:12]}.zarr"


@pytest.mark.parametrize(
    "change",
    [
        {"problem": {"name": "slab", "diffusivity": 0.02}},
        {"num_points": [64]},
        {"times": [0.0, 1.0]},
        {"seed": 1},
        {"solver": {"dt": 0.01}},
        {"storage": {"part": 4}},
        {"storage": {"part": 8, "dtype": "float64"}},
        {"storage": {"part": 8, "compression": "none"}},
    ],
    ids=str,
)
def test_identity_covers_what_values_and_layout_depend_on(heat: Heat, change: dict[str, Any]) -> None:
    assert heat(**change).digest != heat().digest


def test_identity_covers_the_solvers_version(heat: Heat, monkeypatch: pytest.MonkeyPatch) -> None:
    before = heat().digest
    monkeypatch.setattr(type(heat().problem), "version", "2")
    assert heat().digest != before


@pytest.mark.parametrize(
    ("num_points", "part", "chunk"), [(1024, 20, 20), (8192, 20, 2), (10**6, 20, 1), (32, 7, 7)]
)
def test_chunk_is_computed(heat: Heat, num_points: int, part: int, chunk: int) -> None:
    recipe = heat(num_points=[num_points], times={"stop": 1, "count": 21}, storage={"part": part})
    assert recipe.chunk("u") == chunk
    assert part % chunk == 0
    assert chunk == 1 or chunk * 21 * num_points * 4 <= CHUNK_BYTES


def test_all_mistakes_at_once(file: Path) -> None:
    file.write_text(YAML.replace("num_points", "num_point").replace("train: 4", "train: 0, parts: 3"))
    overrides = {"storage.compression": "zip", "times.count": 1, "problem.difusivity": 1}
    with pytest.raises(SpecError) as error:
        Recipe.load(str(file), overrides=overrides)
    for line in (
        "num_points: field required",
        "num_point: unknown key; did you mean 'num_points'?",
        "samples.train: input should be greater than 0, got 0",
        "is a folder of the store",
        "storage.compression: input should be 'lz4' or 'none', got 'zip'",
        "times.count: input should be greater than or equal to 2, got 1",
        "problem.difusivity: unknown key; did you mean 'diffusivity'?",
    ):
        assert line in error.value.message
    assert len(error.value.mistakes) == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_points": [32, 32]}, "heat has one spatial axis"),
        ({"times": [0.0, 0.5, 0.5]}, "times: must increase"),
        ({"times": [-1.0, 0.5]}, "times: must not be negative"),
        ({"times": []}, "times: tuple should have at least 1 item"),
        ({"samples": {}}, "samples: dictionary should have at least 1 item"),
        ({"name": "../up"}, "name: string should match pattern"),
        ({"problem": "heet"}, "unknown problem 'heet'; did you mean 'heat'"),
        ({"problem": "talk"}, "problem: has no reference solver"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0"),
    ],
)
def test_mistakes(heat: Heat, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        heat(**fields)


def test_unknown_preset_and_a_name_in_the_file(file: Path) -> None:
    with pytest.raises(UnknownNameError, match="has no preset 'fin'; did you mean 'fine'"):
        Recipe.load(str(file), preset="fin")
    file.write_text(YAML + "name: else\n")
    with pytest.raises(SpecError, match="a recipe is named by its file"):
        Recipe.load(str(file))


@pytest.mark.parametrize("name", sorted(yaml_files("data")))
def test_shipped_recipes_and_presets_are_valid(name: str) -> None:
    import yaml

    raw = yaml.safe_load(yaml_files("data")[name].read_text())
    for preset in (None, *raw.get("presets", {})):
        assert Recipe.load(name, preset=preset).name == name


def test_published_settings() -> None:
    paper = Recipe.load("burgers-1d-grf", preset="paper")
    assert paper.problem.viscosity == 0.1  # type: ignore[attr-defined]
    assert (paper.num_points, paper.samples) == ((8192,), {"train": 1000, "test": 200})
    hard = Recipe.load("burgers-1d-grf", preset="hard").problem
    assert hard.viscosity == 1e-3  # type: ignore[attr-defined]
    condition = hard.initial_condition  # type: ignore[attr-defined]
    assert (condition.exponent, condition.tau, condition.sigma) == (2.5, 7.0, 49.0)
