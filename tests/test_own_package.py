"""A package of a user's own: found by its entry points, and taken through the whole path."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import environment

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "examples" / "own_method"


def test_the_tutorial_shows_the_very_files() -> None:
    text = (REPOSITORY / "docs" / "own-method.md").read_text()
    shown = [path for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml", ".yaml")]
    assert len(shown) == 6
    for path in shown:
        assert path.read_text().strip() in text, path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the package in it, and the record that an installer leaves."""
    folder = tmp_path_factory.mktemp("user") / "own_method"
    shutil.copytree(EXAMPLE, folder)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    record = folder / "site" / f"own_method-{project['version']}.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = project["entry-points"].items()
    text = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in groups
    )
    (record / "entry_points.txt").write_text(text)
    return folder


def dlde(place: Path, *arguments: str) -> Any:
    paths = [str(place), str(place / "site"), os.environ.get("PYTHONPATH", "")]
    settings = environment(place / "root", PYTHONPATH=os.pathsep.join(filter(None, paths)))
    done = subprocess.run(
        [sys.executable, "-m", "dlde", *arguments, "--json"], env=settings, cwd=place, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_is_listed_trained_registered_and_answers(place: Path) -> None:
    assert "multiplier" in dlde(place, "list", "methods")["methods"]
    assert "diffusion" in dlde(place, "list", "problems")["problems"]
    assert dlde(place, "show", "multiplier")["pipeline"]["method"]["modes"] == 8
    done = dlde(place, "run", "multiplier")
    assert done["model"] == "multiplier/1"
    assert done["metrics"]["relative_l2"] < 0.01
    assert [model["name"] for model in dlde(place, "models", "list")["models"]] == ["multiplier"]
    x = np.arange(64) / 64
    np.savez(place / "in.npz", u=np.sin(2 * np.pi * x)[None, :, None])
    answer = dlde(place, "predict", "multiplier@champion", "in.npz", "out.npz")
    assert answer["outputs"] == {"u": [1, 64, 1]}
    expected = math.exp(-0.01 * (2 * math.pi) ** 2) * np.sin(2 * np.pi * x)
    np.testing.assert_allclose(np.load(place / "out.npz")["u"][0, :, 0], expected, atol=0.01)


SERVED = """
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from dlde.registry import package, registry
from dlde.serving.app import build
model = package.read(registry.resolve(Path(sys.argv[1]), "multiplier@champion"))
answer = TestClient(build(model)).post("/predict", json={"inputs": {"u": [[[1.0]] * 64]}})
assert answer.status_code == 200, answer.text
print(answer.json()["outputs"]["u"][0][0][0])
"""


def test_it_is_served(place: Path) -> None:
    """A constant stays what it is."""
    paths = [str(place), str(place / "site")]
    done = subprocess.run(
        [sys.executable, "-c", SERVED, str(place / "root")], capture_output=True, text=True, check=False,
        cwd=place, env=environment(place / "root", PYTHONPATH=os.pathsep.join([*paths, str(REPOSITORY)])),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1.0, abs=0.05)
