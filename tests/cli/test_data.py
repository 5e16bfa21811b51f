from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dlde.cli.data import app
from dlde.errors import DataError, DldeError, InputError, SpecError, UnknownNameError

SMALL = (
    "num_points=[64]",
    "problem.initial_condition={kind: gaussian, num_modes: 8}",
    "samples={train: 12, test: 4}",
    "times={stop: 0.5, count: 3}",
    "solver={dt: 0.01}",
    "storage.part=4",
)
RECIPE = ["burgers-1d-grf", *(part for text in SMALL for part in ("--set", text))]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`dlde data …` in this process, its storage root in a folder of the test's own."""
    monkeypatch.setenv("DLDE_ROOT", str(tmp_path))

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, list(arguments))
        if isinstance(result.exception, DldeError):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.stdout

    return run


def generate(data: Any, *more: str) -> Any:
    return json.loads(data("generate", *RECIPE, "--workers", "1", "--json", *more))


def test_generate_twice_then_inspect_and_verify(data: Any) -> None:
    first, second = generate(data), generate(data)
    assert first["samples"] == {"train": 12, "test": 4}
    assert (first["parts"], first["computed"], second["computed"]) == (4, 4, 0)
    assert Path(first["store"]).is_dir()
    assert first["recipe_digest"][:12] in first["store"]
    assert (first["repaired"], first["quarantined"]) == ({}, [])
    for target in (RECIPE, [first["store"]]):
        inspected = json.loads(data("inspect", *target, "--json"))
        verified = json.loads(data("verify", *target, "--json"))
        assert first["digest"] == second["digest"] == inspected["digest"] == verified["digest"]
        assert inspected["store"] == verified["store"] == first["store"]
        assert inspected["recipe"]["storage"]["part"] == 4
        assert inspected["statistics"]["u"]["std"] > 0
        assert (verified["whole"], verified["damage"], verified["missing"]) == (True, {}, {})


def test_for_a_person(data: Any) -> None:
    assert "12 train, 4 test; 4 of 4 parts computed" in data("generate", *RECIPE, "--workers", "1")
    assert "0 of 4 parts computed (nothing to do)" in data("generate", *RECIPE, "--workers", "1")
    text = data("inspect", *RECIPE)
    assert "grid       x: 64 points from 0 to 1, periodic" in text
    assert "viscosity 0.02" in text
    assert "all 4 parts (12 train, 4 test) are whole" in data("verify", *RECIPE)


def test_damage_is_one_document_and_exit_code_1(data: Any) -> None:
    first = generate(data)
    chunk = Path(first["store"]) / "train" / "u" / "c.1.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    verified = json.loads(data("verify", first["store"], "--json", code=1))
    assert verified["damage"] == {"train-00001": [4, 5, 6, 7]}
    assert not verified["whole"]
    text = data("verify", *RECIPE, code=1)
    assert "damaged    train-00001: samples 4-7" in text
    assert "repair it: dlde data generate burgers-1d-grf --set" in text
    repaired = generate(data)
    assert repaired["repaired"] == {"train-00001": [4, 5, 6, 7]}
    assert (repaired["computed"], repaired["digest"]) == (1, first["digest"])
    assert json.loads(data("verify", *RECIPE, "--json"))["whole"]


def test_incomplete_is_named(data: Any) -> None:
    generate(data)
    more = [*RECIPE, "--set", "samples.train=14"]
    verified = json.loads(data("verify", *more, "--json", code=1))
    assert (verified["missing"], verified["digest"]) == ({"train-00003": [12, 13]}, None)
    with pytest.raises(DataError, match=r"2 of 18 samples missing .*--set samples.train=14` completes it"):
        data("inspect", *more)


def test_plot_is_the_same_picture_twice(data: Any, tmp_path: Path) -> None:
    first = generate(data)
    printed = Path(data("plot", *RECIPE).strip())
    assert printed.is_relative_to(tmp_path / "figures")
    document = json.loads(data("plot", first["store"], "--output", str(tmp_path / "other.png"), "--json"))
    assert document["digest"] == first["digest"]
    assert Path(document["figure"]).read_bytes() == printed.read_bytes()
    assert printed.read_bytes().startswith(b"\x89PNG")
    data("plot", *RECIPE, "--split", "test", "--samples", "2", "--seed", "3")
    with pytest.raises(UnknownNameError, match="no split 'tset'; did you mean 'test'"):
        data("plot", *RECIPE, "--split", "tset")


def test_wrong_input_starts_nothing(data: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown recipe 'burgers-1d'; did you mean 'burgers-1d-grf'"):
        data("generate", "burgers-1d")
    with pytest.raises(SpecError, match=r"problem\.viscosity: input should be greater than 0, got -1"):
        data("generate", "burgers-1d-grf", "--set", "problem.viscosity=-1")
    with pytest.raises(UnknownNameError, match="no preset 'papr'; did you mean 'paper'"):
        data("generate", "burgers-1d-grf", "--preset", "papr")
    with pytest.raises(DataError, match="holds no dataset"):
        data("verify", str(tmp_path / "nowhere.zarr"))
    with pytest.raises(DataError, match="is not there yet"):
        data("verify", *RECIPE)
    store = generate(data)["store"]
    with pytest.raises(InputError, match="--set and --preset go with a recipe"):
        data("inspect", store, "--preset", "paper")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
