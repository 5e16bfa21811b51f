"""`dlde data import|export` as a user types them: the tutorial's commands, on published sets."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from dlde import cli, pipeline
from dlde.datasets.recipe import Recipe
from dlde.errors import DldeError, GridError, InputError
from dlde.training.run import EngineRun
from tests.conftest import PUBLISHED

REPOSITORY = Path(__file__).parents[2]
FEW = "--set method.descent.steps=2 --set method.width=4 --set method.layers=1 --set method.projection=8"

Dlde = Callable[[str], str]


@pytest.fixture
def dlde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dlde:
    """The command line in this process, in a folder of the test's own; trainings are not tracked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLDE_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(pipeline, "Walk", functools.partial(pipeline.Walk, tracked=False))

    def run(command: str) -> str:
        program, *arguments = shlex.split(command)
        assert program == "dlde"
        result = CliRunner().invoke(cli.app, arguments)
        if isinstance(result.exception, DldeError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def commands() -> list[str]:
    text = (REPOSITORY / "docs" / "own-data.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def published_sets(folder: Path) -> None:
    """The tutorial's files; where a published one is not at hand, one of the same form stands in."""
    generator = np.random.default_rng(0)
    x = np.linspace(0, 1, 40, dtype="f4")  # both ends, on a periodic interval
    waves = np.cos(2 * np.pi * (x - x[:, None] - generator.random((1000, 1, 1)))).astype("f4")
    waves[:, :, -1] = waves[:, :, 0]
    history = generator.standard_normal((800, 17, 16))
    forms: dict[str, dict[str, np.ndarray[Any, Any]]] = {
        "darcy16_train.npz": {
            "x": generator.random((1000, 16, 16)) < 0.5,
            "y": generator.random((1000, 16, 16), dtype="f4"),
        },
        "burgers16_train.npz": {"x": history[:, 0], "y": history, "visc": np.full((1, 1), 0.01)},
        "advection_ic2_train.npz": {
            "x": np.broadcast_to(x, (40, 40)),
            "t": np.broadcast_to(x[:, None], (40, 40)),
            "u": waves,
        },
    }
    for name, arrays in forms.items():
        published = PUBLISHED / "operators" / name
        if published.is_file():
            shutil.copy(published, folder)
        else:
            np.savez(folder / name, **arrays)


def test_the_tutorial(dlde: Dlde, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published_sets(tmp_path)
    # half of the time, and tested elsewhere
    monkeypatch.setattr(EngineRun, "figure", lambda *arguments: None)
    with pytest.raises(GridError, match="its last point repeats its first in every sample"):
        dlde(
            "dlde data import advection_ic2_train.npz --name advection --dims u=sample,time,x "
            "--coordinate x=x:periodic"
        )
    printed = {
        command: dlde(f"{command} {FEW}" if " train " in command else command) for command in commands()
    }
    trained = [text for command, text in printed.items() if " train " in command]
    assert len(trained) == 3
    assert all("relative_l2" in text for text in trained)
    darcy = np.load(tmp_path / "darcy16_train.npz")
    document = json.loads(dlde("dlde data inspect darcy16 --json"))
    assert document["samples"] == {"train": 800, "test": 200}
    assert document["statistics"]["u"]["mean"] == pytest.approx(float(darcy["y"][:800].mean(dtype=float)))
    names = ("advection", "advection-again")
    first, again = (json.loads(dlde(f"dlde data inspect {name} --json"))["digest"] for name in names)
    assert first == again


def test_import_speaks_to_people_and_programs(dlde: Dlde, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", u=np.arange(50.0).reshape(5, 10), x=np.arange(10) / 10)
    text = dlde("dlde data import a.npz --name mine --coordinate x=x:periodic --units u=K")
    assert "mine: 4 train, 1 test; 2 of 2 parts imported" in text
    assert "field      u  sample x  K" in text
    assert "axis       x  10 points from 0 to 1, periodic" in text
    assert "found" in dlde("dlde data import a.npz --name mine --coordinate x=x:periodic --units u=K")
    command = Recipe.load("mine").command(tmp_path / "root")
    assert command == "dlde data import a.npz --name mine --coordinate x=x:periodic --units u=K"
    document = json.loads(dlde(f"{command} --json"))
    assert (document["computed"], document["recipe"]) == (0, "data/mine.yaml")
    assert "nothing to do" in dlde("dlde data generate mine")
    assert "imported from a.npz" in (Path(document["store"]) / "zarr.json").read_text()
    with pytest.raises(InputError, match="there is another recipe 'mine'"):
        dlde("dlde data import a.npz --name mine")
    files = json.loads(dlde("dlde data export mine --format npz --output out --split test --json"))["files"]
    assert files == {"test": "out/test.npz"}
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "test.npz")["u"], [np.arange(40.0, 50.0)])


def test_the_help_says_how(dlde: Dlde) -> None:
    listed: Any = dlde("dlde data --help")
    assert "import" in listed
    assert "export" in listed
    assert "--coordinate" in dlde("dlde data import --help")
