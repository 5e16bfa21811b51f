from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dlde.cli import app
from dlde.cli.plan import duration
from dlde.datasets import plan as planning
from dlde.datasets.plan import Trial
from dlde.errors import DldeError, SpecError, UnknownNameError
from tests.cli.test_data import RECIPE

TRIAL = Trial(
    samples=20, start_seconds=3.0, compute_seconds=10.0, write_seconds=1.0, verify_seconds=0.5,
    peak_bytes=3 * 10**6, raw_bytes=1000, stored_bytes=500, record_bytes=0,
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`dlde …` in this process; what a trial finds is given."""
    monkeypatch.setenv("DLDE_ROOT", str(tmp_path))
    monkeypatch.setattr(planning, "_measure", lambda recipe, root: TRIAL)

    def call(*arguments: str) -> Any:
        result = CliRunner().invoke(app, list(arguments))
        if isinstance(result.exception, DldeError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    return call


def test_a_recipe(run: Any) -> None:
    text = run("plan", "burgers-1d-grf", "--workers", "1", "--set", "samples={train: 40}").stdout
    assert "parts     2" in text
    assert "bytes     3.4 MB; on disk about 1.7 MB" in text
    assert "one part  compute 10 s, write 1 s, verify 0.5 s" in text
    assert "memory    3.0 MB for each worker" in text
    assert "time      about 24 s with 1 worker\n" in text
    document = json.loads(
        run("plan", "burgers-1d-grf", "--workers", "1", "--set", "samples={train: 40}", "--json").stdout
    )
    assert document["total"]["raw_bytes"] == 40 * 21 * 1024 * 4
    assert document["datasets"]["burgers-1d-grf"]["seconds"] == 24.0


def test_a_pipeline_s_datasets(run: Any, tmp_path: Path) -> None:
    result = run("plan", "neural-operator", "--no-trial")
    assert "solutions: burgers-1d-grf" in result.stdout
    assert "on disk unknown without a trial" in result.stdout
    assert "a trial of one part" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"plans"}
    assert "deep-bsde needs no dataset: it learns from the equation alone" in run("plan", "deep-bsde").stdout
    assert json.loads(run("plan", "deep-bsde", "--json").stdout)["datasets"] == {}


def test_fact_and_forecast(run: Any, tmp_path: Path) -> None:
    small = [*RECIPE[1:], "--set", "samples={train: 4}"]
    store = Path(
        json.loads(run("data", "generate", "burgers-1d-grf", "--workers", "1", "--json", *small).stdout)[
            "store"
        ]
    )
    (store / "facts.json").write_text(
        json.dumps({"seconds": 15.0, "workers": 1, "computed": 1, "peak_bytes": 2 * 10**6, "bytes": 123456})
    )
    text = run("plan", "burgers-1d-grf", *small).stdout
    assert "parts     1, 1 of them done" in text
    assert "time      nothing to do" in text
    assert "it took   15 s for 1 part with 1 worker; forecast 12 s" in text
    assert "on disk   123.5 kB; forecast " in text


def test_wrong_names(run: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no recipe or pipeline 'burger-1d'; did you mean 'burgers-1d"):
        run("plan", "burger-1d")
    with pytest.raises(UnknownNameError, match=r"no such file: nowhere\.yaml"):
        run("plan", "nowhere.yaml")
    with pytest.raises(SpecError, match=r"problem\.viscosity"):
        run("plan", "burgers-1d-grf", "--set", "problem.viscosity=-1")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "0.0123 s"), (42.0, "42 s"), (720.0, "12 min"), (12600.0, "3.5 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
