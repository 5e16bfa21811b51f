"""Trials: which there are, that finished ones are found, that a failing one stops no other."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest
import torch

from dlde.errors import SpecError, TrainingError
from dlde.pipeline import Watch
from dlde.study.reproduce import reproduce
from dlde.study.trials import Trial, run_all, trials_of
from dlde.training import job as jobs
from tests.processes import DEADLINE, started, wait_for

AXES = """
  axes:
    width: {field: method.width, values: [4, 8], variants: [fno]}
    data:
      settings:
        smooth: {data.solutions.problem.viscosity: 0.1}
        rough: {data.solutions.problem.viscosity: 0.01, study.seeds: [100, 101, 102]}
"""


def of(trials: list[Trial], variant: str) -> list[Trial]:
    return [trial for trial in trials if trial.variant == variant]


def test_axes_belong_to_variants_and_settings_carry_their_own_seeds(study: Path) -> None:
    study.write_text(study.read_text().replace("  figures:", AXES.strip("\n") + "\n  figures:"))
    trials = trials_of(str(study))
    assert [(t.seed, *t.point.values()) for t in of(trials, "fno")] == [
        (100, 4, "smooth"), (100, 4, "rough"), (100, 8, "smooth"), (100, 8, "rough"),
        (101, 4, "smooth"), (101, 4, "rough"), (101, 8, "smooth"), (101, 8, "rough"),
        (102, 4, "rough"), (102, 8, "rough"),
    ]  # fmt: skip
    assert {tuple(t.point) for t in of(trials, "fcn")} == {("data",)}
    widths = {t.point["width"]: t.pipeline.method.width for t in of(trials, "fno")}  # type: ignore[attr-defined]
    assert widths == {4: 4, 8: 8}
    rough = [t for t in trials if t.point["data"] == "rough"]
    assert {t.pipeline.data["solutions"].problem.viscosity for t in rough} == {0.01}  # type: ignore[attr-defined]
    assert {t.alone for t in of(trials, "fcn-dilated")} == {True}
    assert {t.alone for t in of(trials, "fno")} == {False}
    assert [t.pictures for t in of(trials, "fno")] == [True] * 4 + [False] * 6
    assert of(trials, "fno")[1].name == "fno, width 4, data rough, seed 100"


def test_seeds_of_data_and_of_training(study: Path) -> None:
    def seeds(vary: str) -> list[tuple[int, int]]:
        trials = trials_of(str(study), overrides={"study.vary": vary.split()})
        return [(t.pipeline.seed, t.pipeline.data["solutions"].seed) for t in of(trials, "fno")]

    assert seeds("training") == [(100, 0), (101, 0)]
    assert seeds("data") == [(0, 100), (0, 101)]
    assert seeds("training data") == [(100, 100), (101, 101)]


def test_what_a_study_says_wrongly_is_refused(study: Path) -> None:
    text = study.read_text()
    for wrong, message in (
        ("{field: method.width}", "give either field and values, or settings"),
        ("{field: method.width, values: [4], settings: {a: {}}}", "give either field and values"),
        ("{field: method.width, values: [4], variants: [cnn]}", r"belongs to unknown variants \['cnn'\]"),
    ):
        study.write_text(text.replace("  figures:", f"  axes: {{width: {wrong}}}\n  figures:"))
        with pytest.raises(SpecError, match=message):
            trials_of(str(study))
    study.write_text(text.replace("fcn-dilated:", "dilated:"))
    with pytest.raises(SpecError, match=r"needs study\.variants\.fcn-dilated"):
        trials_of(str(study))
    study.write_text("method: {name: fno}\ndata: {solutions: burgers-1d-grf}\n")
    with pytest.raises(SpecError, match="has no study"):
        reproduce(str(study), study.parent)


def test_a_failing_trial_stops_no_other_and_finished_ones_are_found(study: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    trials = trials_of(str(study), seeds=(100,))
    diverging = trials_of(str(study), seeds=(100,), overrides={"method.descent.rate": 1e30})
    said: list[str] = []
    watch = Watch(say=said.append)
    with pytest.raises(
        TrainingError, match=r"1 of 4 trials failed, the first: fno, seed 100: .*not finite|inf|nan"
    ):
        run_all([diverging[0], *trials], tmp_path / "root", watch=watch)
    assert said[0].startswith("trial fno, seed 100 failed")
    outcomes = run_all(trials, tmp_path / "root", watch=watch)
    assert [outcome.state for outcome in outcomes] == ["found"] * 3
    assert len(said) == 1


def test_a_trial_that_measures_time_is_trained_alone(study: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    (trial,) = of(trials_of(str(study), seeds=(100,)), "fcn-dilated")
    together = Trial(
        trial.variant, trial.point, trial.seed,
        trial.pipeline.model_copy(update={"study": trial.study.model_copy(update={"exclusive": False})}),
    )  # fmt: skip
    root, said = tmp_path / "root", list[str]()
    assert [o.execution["alone"] for o in run_all([together], root)] == [False]
    (first,) = run_all([trial], root, watch=Watch(say=said.append))
    assert (first.state, first.execution["alone"]) == ("done", True)
    assert said == [f"run {first.run} was not trained alone: once more, to measure its time"]
    (second,) = run_all([trial], root)
    assert second.state == "found"
    assert second.seconds == first.seconds > 0
    (third,) = run_all([together], root)
    assert (third.state, third.rows) == ("found", first.rows)


def test_trials_on_ray_survive_a_killed_worker_and_equal_those_in_process(
    study: Path, tmp_path: Path
) -> None:
    """On one thread each: to the bit."""
    torch.set_num_threads(1)
    more = ["--set", "method.descent.steps=200", "--set", "training.checkpoint_steps=20", "--seeds", "100"]
    with started(
        tmp_path, "reproduce", str(study), "--workers", "2", "--json", "--root", "ray", *more
    ) as process:
        wait_for(lambda: bool(list(tmp_path.glob("ray/runs/*/checkpoints/fit/step-*.pt"))), process)
        tasks = [
            child for child in psutil.Process(process.pid).children(recursive=True)
            if "ray::" in (child.cmdline() or [""])[0] and "_task" in child.cmdline()[0]
        ]  # fmt: skip
        assert tasks
        for task in tasks:
            task.kill()
        output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 3, "so few steps cannot hold the claim"
    document = json.loads(output)
    overrides = {"method.descent.steps": 200, "training.checkpoint_steps": 20}
    here = reproduce(str(study), tmp_path / "here", overrides=overrides, seeds=(100,))
    assert document["runs"] == list(here.runs)

    def measured(rows: object) -> list[object]:
        return [row for row in rows if row["metric"] != "train_seconds" and "step" not in row]  # type: ignore[attr-defined]

    assert measured(document["table"]) == measured(here.table.rows)


def test_a_killed_study_goes_on_where_it_was(study: Path, tmp_path: Path) -> None:
    with started(tmp_path, "reproduce", str(study), "--root", "root") as process:
        wait_for(lambda: len(list(tmp_path.glob("root/runs/*/evaluation.json"))) >= 2, process)
        process.kill()
        process.wait()
    finished = {
        path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("root/runs/*/evaluation.json")
    }
    began = time.time_ns()
    torch.set_num_threads(1)
    result = reproduce(str(study), tmp_path / "root")
    assert {o.run for o in result.outcomes if o.state == "found"} >= set(finished)
    for run, written in finished.items():
        assert (tmp_path / "root" / "runs" / run / "evaluation.json").stat().st_mtime_ns == written < began
    assert len(result.outcomes) == 6
    assert all(jobs.is_trained(tmp_path / "root" / "runs" / run) for run in result.runs)
