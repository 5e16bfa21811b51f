"""Searches: spaces that fit, every algorithm to its end, kills in between, what is left on the disk."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlde.errors import InputError, SpecError
from dlde.files import locked
from dlde.pipeline import Pipeline, Range, Search
from dlde.search import report, space
from dlde.search.trial import _freed, _logged
from dlde.search.tune import Outcome, _bound, _Journal, tune
from dlde.spec import parse_assignments
from dlde.training import job as jobs
from tests.conftest import environment, tiny
from tests.processes import children, started, wait_for

Dlde = Callable[..., tuple[int, Any, str]]
SPACE = "method.width: {choice: [4, 8]}, method.descent.rate: {log_uniform: [1e-3, 1e-1]}"
SHORT = tiny("method.descent.steps=120")


def searched(text: str) -> list[str]:
    return [*SHORT, "--set", f"search={{{text}}}"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datasets of a root."""
    root = tmp_path_factory.mktemp("data")
    subprocess.run(
        [sys.executable, "-m", "dlde", "train", "neural-operator", *tiny("method.descent.steps=1")],
        env=environment(root), check=True, capture_output=True, cwd=root,
    )  # fmt: skip
    return root / "data"


@pytest.fixture
def root(data: Path, tmp_path: Path) -> Path:
    shutil.copytree(data, tmp_path / "data")
    return tmp_path


def pipeline(search: str) -> Pipeline:
    return Pipeline.load(
        "neural-operator", overrides=parse_assignments([*SHORT[1::2], f"search={{{search}}}"])
    )


@pytest.mark.parametrize(
    ("search", "told"),
    [
        (
            "space: {method.widht: {choice: [4]}}, metric: relative_l2",
            "no field 'method.widht'.*did you mean 'width'",
        ),
        (
            "space: {method.width: {choice: [4, -1]}}, metric: relative_l2",
            r"(?s)method.width=-1.*greater than 0",
        ),
        (
            "space: {method.width: {integer: [0, 4]}}, metric: relative_l2",
            r"(?s)method.width=0.*greater than 0",
        ),
        (
            "space: {method.descent.batch: {choice: [8, 9]}}, metric: relative_l2, workers: 2",
            "9 cannot be shared",
        ),
    ],
)
def test_a_space_that_does_not_fit_is_refused(search: str, told: str) -> None:
    found = pipeline(search)
    assert found.search is not None
    with pytest.raises(SpecError, match=told):
        space.check(found, found.search)


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ("space: {}, metric: a", "name at least one field"),
        ("space: {a: {choice: [1], uniform: [0, 1]}}, metric: a", "give exactly one of"),
        ("space: {a: {log_uniform: [0.0, 1.0]}}, metric: a", "0 < low < high"),
        ("space: {a: {uniform: [2.0, 1.0]}}, metric: a", "low < high"),
        ("space: {a: {uniform: [0.0, 1.0]}}, metric: test/x", "known only when a trial has ended"),
        ("space: {a: {uniform: [0.0, 1.0]}}, metric: x, algorithm: grid", "needs a choice of values"),
        ("space: {a: {choice: [1]}}, metrik: x", "did you mean 'metric'"),
    ],
)
def test_a_search_that_cannot_be_is_refused(search: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        pipeline(search)


@given(st.integers(0, 5), st.integers(0, 200))
def test_drawn_points_lie_in_the_space_and_depend_on_seed_and_number_alone(seed: int, number: int) -> None:
    ranges = {
        "a": Range(choice=("x", [1, 2])),
        "b": Range(uniform=(-1.0, 2.0)),
        "c": Range(log_uniform=(1e-5, 1e-1)),
        "d": Range(integer=(2, 4)),
        "e": Range(log_integer=(1, 100)),
    }
    search = Search(space=ranges, metric="loss", seed=seed)
    point = space.drawn(search, number)
    assert point == space.drawn(search, number)
    assert point["a"] in ("x", [1, 2], (1, 2))
    for name in "bcde":
        low, high = ranges[name].ends
        assert low <= point[name] <= high
    assert space.from_optuna(search, space.to_optuna(search, point)) == point
    assert space.within(search, {**point, "b": 5.0, "d": 9}) == {**point, "b": 2.0, "d": 4}


def test_grid_trains_every_point_once_and_leaves_a_bounded_disk(dlde: Dlde, root: Path) -> None:
    text = (
        "space: {method.width: {choice: [4, 8]}, method.descent.rate: {choice: [1e-3, 1e-2]}}, "
        "metric: test/relative_l2, algorithm: grid, scheduler: none, keep: 1"
    )
    code, found, stderr = dlde("tune", "neural-operator", *searched(text), root=root)
    assert code == 0, stderr
    points = [(row["method.width"], row["method.descent.rate"]) for row in found["trials"]]
    assert sorted(points) == [(4, 1e-3), (4, 1e-2), (8, 1e-3), (8, 1e-2)]
    objectives = [row["objective"] for row in found["trials"]]
    assert objectives == sorted(objectives)
    assert set(found["importance"]) == {"method.width", "method.descent.rate"}
    folder = Path(found["folder"])
    table = pd.read_csv(folder / "trials.csv")
    assert list(table["objective"]) == pytest.approx(objectives)
    assert len(pd.read_parquet(folder / "trials.parquet")) == 4
    for name in ("trials.png", "importance.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    kept = [path.parent.name for path in root.glob("runs/*/model")]
    assert kept == [found["best"]["run"]]
    assert not list(root.glob("runs/*/checkpoints"))
    assert not (folder / "ray").exists()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 1_000_000
    before = {path: path.stat().st_mtime_ns for path in root.glob("runs/*/curves/*")}
    # From the beginning: equal trials are found, also those whose models are gone.
    code, again, stderr = dlde("tune", "neural-operator", *searched(text), "--fresh", "--register", root=root)
    assert code == 0, stderr
    assert sorted(row["objective"] for row in again["trials"]) == objectives
    assert again["best"]["run"] == found["best"]["run"]
    assert before == {path: path.stat().st_mtime_ns for path in root.glob("runs/*/curves/*")}
    registered = next(root.glob("mlflow/**/model.json"))
    assert json.loads(registered.read_text())["metrics"]["relative_l2"] == pytest.approx(objectives[0])
    best = Pipeline.load(str(folder / "best.yaml"))
    assert best.job.run == found["best"]["run"]
    assert jobs.is_trained(best.job.folder(root))


def test_killed_search_goes_on_and_repeats_no_finished_trial(dlde: Dlde, root: Path) -> None:
    """First a trial's process is killed, then the whole search; later it grows."""
    long = [*tiny("method.descent.steps=400"), "--set", "training.checkpoint_steps=50"]
    options = [*long, "--set", f"search={{space: {{{SPACE}}}, metric: relative_l2, trials: 4, grace: 150}}"]
    with started(root, "tune", "neural-operator", *options) as process:

        def running() -> bool:
            return bool(children(process, "ImplicitFunc")) and any(
                path.stat().st_size for path in root.glob("runs/*/curves/fit.jsonl")
            )

        wait_for(running, process)
        children(process, "ImplicitFunc")[0].kill()
        journal = next(root.glob("searches/neural-operator-*/")) / "trials.jsonl"
        wait_for(lambda: journal.is_file() and '"ended"' in journal.read_text(), process)
        process.send_signal(signal.SIGKILL)
    before = [json.loads(line) for line in journal.read_text().splitlines()]
    done = {row["outcome"]["number"]: row["outcome"] for row in before if row["kind"] == "ended"}
    stamps = {
        path: path.stat().st_mtime_ns
        for outcome in done.values() if outcome["state"] == "finished"
        for path in (root / "runs" / outcome["run"]).glob("curves/*")
    }  # fmt: skip
    assert done
    assert len(done) < 4
    code, found, stderr = dlde("tune", "neural-operator", *options, root=root)
    assert code == 0, stderr
    assert sorted(row["trial"] for row in found["trials"]) == [0, 1, 2, 3]
    by_number = {row["trial"]: row for row in found["trials"]}
    for number, outcome in done.items():
        assert by_number[number]["objective"] == outcome["objective"]
    rates = {row["method.descent.rate"] for row in found["trials"]}
    assert len(rates) == 4  # what was known is not drawn once more
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    begun = {row["number"]: row["point"] for row in before if row["kind"] == "begun"}
    for number, point in begun.items():
        assert by_number[number]["method.width"] == point["method.width"]
        assert by_number[number]["method.descent.rate"] == pytest.approx(point["method.descent.rate"])
    code, grown, stderr = dlde("tune", "neural-operator", *options, "--trials", "5", root=root)
    assert code == 0, stderr
    assert len(grown["trials"]) == 5


def test_a_population_hands_states_on_and_keeps_its_schedules(dlde: Dlde, root: Path) -> None:
    text = (
        "space: {method.descent.rate: {log_uniform: [1e-5, 1e-1]}}, metric: relative_l2, algorithm: pbt, "
        "trials: 4, perturb: 40"
    )
    options = [*tiny("method.descent.steps=200"), "--set", f"search={{{text}}}"]
    code, found, stderr = dlde("tune", "neural-operator", *options, "--register", root=root)
    assert code == 0, stderr
    assert [row["state"] for row in found["trials"]] == ["finished"] * 4
    assert all(row["step"] == 200 for row in found["trials"])
    schedules = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in Path(found["folder"]).glob("member-*/schedule.jsonl")
    ]
    assert len(schedules) == 4
    assert any(len(rows) > 1 and rows[1]["step"] >= 40 for rows in schedules)
    # A state that was handed on brings along what it went through.
    assert any(
        len(rows) > 1 and rows[0] == other[0]
        for rows in schedules
        for other in schedules
        if rows is not other
    )
    assert all(rows[0]["step"] == 0 for rows in schedules)
    assert found["schedules"][str(found["best"]["trial"])] in schedules
    assert all(1e-5 <= row["point"]["method.descent.rate"] <= 1e-1 for rows in schedules for row in rows)
    code, measured, stderr = dlde(
        "evaluate", found["model"], "--data", "solutions=" + str(next(root.glob("data/*.zarr"))), root=root
    )
    assert code == 0, stderr
    assert measured["metrics"]["relative_l2"] < 1.0


def test_distributed_trials_and_one_that_diverges(dlde: Dlde, root: Path) -> None:
    text = (
        "space: {method.descent.rate: {choice: [1e-2, 1e30]}}, metric: relative_l2, algorithm: grid, "
        "scheduler: none"
    )
    code, found, stderr = dlde("tune", "neural-operator", *searched(text), "--workers", "2", root=root)
    assert code == 0, stderr
    finished, failed = found["trials"]
    assert (finished["state"], finished["method.descent.rate"]) == ("finished", 1e-2)
    assert (failed["state"], failed["objective"]) == ("failed", None)
    assert "the loss term 'relative_l2' is" in failed["failure"]
    assert not (root / "runs" / failed["run"] / "checkpoints").exists()
    execution = json.loads((root / "runs" / finished["run"] / "execution.json").read_text())
    assert execution["workers"] == 2


def test_a_metric_that_is_never_logged_names_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "fit.jsonl").write_text('{"step": 1, "seconds": 0.1, "relative_l2": 0.5}\n')
    search = Search(space={"a": Range(uniform=(0.0, 1.0))}, metric="loss")
    with pytest.raises(InputError, match="'loss' is never logged; logged are relative_l2"):
        _logged(tmp_path, search)


def test_importance_finds_the_field_that_matters() -> None:
    search = Search(
        space={"a": Range(uniform=(0.0, 1.0)), "b": Range(choice=("x", "y"))}, metric="loss", trials=40
    )
    outcomes = [
        Outcome(number, point, "finished", point["a"] ** 2, 10, 1.0, "run")
        for number in range(40)
        for point in [space.drawn(search, number)]
    ]
    shares = report.importance(search, outcomes)
    assert shares["a"] > 0.9
    assert report.importance(search, outcomes[:3]) == {}
    figure = report.parallel(search, outcomes)
    assert len(figure.axes[0].lines) == 40 + 3


def test_only_what_the_search_trained_is_removed(tmp_path: Path) -> None:
    """Of two runs beside the best one was there before the search; a third is still being left."""
    search = Search(space={"a": Range(uniform=(0.0, 1.0))}, metric="loss", keep=1)
    journal = _Journal(tmp_path / "trials.jsonl")
    for number, (name, own) in enumerate({"best": True, "found": False, "own": True, "held": True}.items()):
        place = tmp_path / "runs" / name
        for part in ("model", "checkpoints", "curves"):
            (place / part).mkdir(parents=True)
        (place / "model" / "model.json").write_text("{}")
        (place / "curves" / "fit.jsonl").write_text(
            json.dumps({"step": 3, "seconds": 1.0, "loss": 0.5}) + "\n"
        )
        journal.end(Outcome(number, {"a": 0.5}, "finished", float(number), 3, 1.0, name, own=own))
    with locked(tmp_path / "runs" / ".locks" / "held", "run held"):
        _bound(tmp_path, search, journal)
    left = {path.parent.name for path in (tmp_path / "runs").glob("*/model")}
    assert left == {"best", "found", "held"}
    assert [path.parent.name for path in (tmp_path / "runs").glob("*/checkpoints")] == ["held"]
    _bound(tmp_path, search, journal)
    assert not (tmp_path / "runs" / "held" / "model").exists()
    assert _freed(tmp_path / "runs" / "held", search) == {"objective": 0.5, "step": 3}
    assert [one.own for one in _Journal(journal.path).ended.values()] == [True, False, True, True]


def test_a_population_cannot_change_shapes(root: Path) -> None:
    text = "space: {method.width: {choice: [4, 8]}}, metric: relative_l2, algorithm: pbt"
    with pytest.raises(SpecError, match=r"search\.space\.method\.width: a population hands its states on"):
        tune("neural-operator", root, overrides=parse_assignments(searched(text)[1::2]))


def test_a_pipeline_without_a_search_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no `search`"):
        tune("neural-operator", tmp_path, overrides={"search": None})
