"""Pipelines as files: names, presets, variants and overrides; what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlde.errors import SpecError, UnknownNameError
from dlde.pipeline import Pipeline
from dlde.spec import parse_assignments
from tests.conftest import TINY


def load(*sets: str, **options: str) -> Pipeline:
    return Pipeline.load("neural-operator", overrides=parse_assignments(sets), **options)  # type: ignore[arg-type]


def test_dump_is_enough_to_load_again() -> None:
    pipeline = load(*TINY)
    again = Pipeline.parse(pipeline.dump(), source="x")
    assert again == pipeline
    assert again.job.digest == pipeline.job.digest


@pytest.mark.parametrize("preset", [None, "paper"])
@pytest.mark.parametrize("variant", [None, "fno", "fcn", "fcn-dilated"])
def test_every_preset_and_variant_loads(preset: str | None, variant: str | None) -> None:
    pipeline = Pipeline.load("neural-operator", preset=preset, variant=variant)
    assert pipeline.dump()["method"]["name"] == (variant or "fno").partition("-")[0]
    assert pipeline.model_name == "neural-operator" + ("" if variant in (None, "fno") else f"-{variant}")
    pipeline.job.check(workers=2)


def test_run_is_named_by_its_mathematics_alone() -> None:
    base = load(*TINY).job.run
    for same in (
        "training.workers=2",
        "training.checkpoint_steps=3",
        "study.seeds=[5]",
        "registration.alias=best",
    ):
        assert load(*TINY, same).job.run == base
    for other in (
        "seed=1",
        "method.width=9",
        "data.solutions.samples.train=41",
        "data.solutions.problem.viscosity=0.03",
    ):
        assert load(*TINY, other).job.run != base


def test_override_of_data_reaches_the_recipe_with_its_preset(tmp_path: Path) -> None:
    recipe = load("data.solutions.preset=paper", "data.solutions.samples.test=7").data["solutions"]
    assert recipe.samples == {"train": 1000, "test": 7}
    assert "--preset paper --set samples.test=7" in recipe.command(tmp_path)


def test_what_is_named_wrongly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="has no variant 'fnc'; did you mean 'fno' or 'fcn'"):
        load(variant="fnc")
    with pytest.raises(UnknownNameError, match="has no preset 'papr'; did you mean 'paper'"):
        load(preset="papr")
    with pytest.raises(SpecError, match="no data in the role 'solution'; did you mean 'solutions'"):
        load("data.solution.seed=1")
    with pytest.raises(SpecError, match=r"unknown keys \['sets'\]; known: recipe, preset, set"):
        load("data.solutions={recipe: burgers-1d-grf, sets: {}}")
    own = tmp_path / "own.yaml"
    own.write_text("method: {name: fno}\nstudy: {variants: {fno: {}}}\n")
    with pytest.raises(SpecError, match=r"needs study\.variants\.fcn, study\.variants\.fcn-dilated"):
        Pipeline.load(str(own))
    own.write_text("method: {name: fno}\ndata: {fields: burgers-1d-grf}\n")
    with pytest.raises(
        SpecError, match=r"reads data in the roles \['solutions'\], but the pipeline gives \['fields'\]"
    ):
        Pipeline.load(str(own)).job.check(1)
