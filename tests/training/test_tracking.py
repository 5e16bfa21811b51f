"""MLflow holds each step once and all of them, however the training went."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dlde.pipeline import Pipeline
from dlde.registry.registry import client
from dlde.study.trials import run_all, trials_of
from dlde.training import job as jobs
from dlde.training import tracking
from tests.conftest import tiny
from tests.processes import DEADLINE, curve, has_rows, started, wait_for
from tests.study.conftest import STUDY

Dlde = Callable[..., tuple[int, Any, str]]


def tracked(root: Path, experiment: str = "neural-operator") -> list[Any]:
    api = client(root)
    return list(api.search_runs([api.get_experiment_by_name(experiment).experiment_id]))


def steps(root: Path, run: str, metric: str) -> list[int]:
    return sorted(point.step for point in client(root).get_metric_history(run, metric))


def test_a_run_is_there_whole(dlde: Dlde, tmp_path: Path) -> None:
    wanted = 2000  # long enough for the tracker to look at the machine
    code, document, stderr = dlde("train", "neural-operator", *tiny(f"method.descent.steps={wanted}"))
    assert code == 0, stderr
    (run,) = tracked(tmp_path)
    folder = tmp_path / "runs" / document["run"]
    api, name = client(tmp_path), run.info.run_id
    assert run.info.status == "FINISHED"
    assert steps(tmp_path, name, "fit/relative_l2") == list(range(1, wanted + 1))
    kept = {int(row["step"]): row["relative_l2"] for row in curve(tmp_path, document["run"])}
    sent = {point.step: point.value for point in api.get_metric_history(name, "fit/relative_l2")}
    assert sent == kept
    rows = (folder / "system.jsonl").read_text().splitlines()
    assert rows
    for metric in ("cpu_percent", "memory_used_bytes", "process_memory_bytes"):
        assert steps(tmp_path, name, f"system/{metric}") == list(range(1, len(rows) + 1))
    assert run.data.metrics["test/relative_l2"] == pytest.approx(document["metrics"]["relative_l2"])
    assert run.data.params["method.descent.steps"] == str(wanted)
    assert run.data.params["data.solutions.problem.name"] == "burgers"
    code_version = jobs.code_version()
    assert {key: run.data.tags[f"dlde.code.{key}"] for key in code_version} == {
        key: str(value) for key, value in code_version.items()
    }
    assert run.data.tags["dlde.workers"] == "1"
    environment = {
        key.removeprefix("dlde.environment.") for key in run.data.tags if key.startswith("dlde.environment.")
    }
    assert environment == set(jobs.environment())
    assert run.data.tags["dlde.data.solutions"] == jobs.content_digests(folder)["solutions"]
    figures = {Path(item.path).name for item in api.list_artifacts(name, "figures")}
    assert figures == {path.name for path in (folder / "figures").glob("*.png")} != set()
    (tmp_path / "fetched").mkdir()

    def fetched(path: str) -> str:
        return Path(api.download_artifacts(name, path, str(tmp_path / "fetched"))).read_text()

    pipeline = Pipeline.parse(yaml.safe_load(fetched("pipeline.yaml")), source="artifact")
    assert pipeline.job.run == document["run"]
    assert fetched("curves/fit.jsonl") == (folder / "curves" / "fit.jsonl").read_text()


def test_a_killed_run_goes_on_as_the_same_and_each_step_is_there_once(dlde: Dlde, tmp_path: Path) -> None:
    arguments = ("train", "neural-operator", *tiny("method.descent.steps=600"))
    with started(tmp_path, *arguments) as process:
        wait_for(lambda: has_rows(tmp_path, 15), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/job.json"))

    def status() -> Any:
        path = folder / "tracking.json"
        return json.loads(path.read_text()).get("status") if path.exists() else None

    until = time.monotonic() + DEADLINE
    while status() != "KILLED":  # the tracker outlives the training and says so
        assert time.monotonic() < until
        time.sleep(0.1)
    (run,) = tracked(tmp_path)
    assert run.info.status == "KILLED"
    assert run.data.tags["dlde.reason"] == "the process was killed"
    sent = steps(tmp_path, run.info.run_id, "fit/relative_l2")
    assert sent == list(range(1, len(sent) + 1))
    assert 15 <= len(sent) < 600
    code, _, stderr = dlde(*arguments)
    assert code == 0, stderr
    (again,) = tracked(tmp_path)
    assert again.info.run_id == run.info.run_id
    assert again.info.status == "FINISHED"
    assert steps(tmp_path, run.info.run_id, "fit/relative_l2") == list(range(1, 601))
    code, _, stderr = dlde(*arguments, "--fresh")
    assert code == 0, stderr
    both = tracked(tmp_path)
    assert len(both) == 2
    for one in both:
        assert one.info.status == "FINISHED"
        assert steps(tmp_path, one.info.run_id, "fit/relative_l2") == list(range(1, 601))


def test_a_failed_run_says_why(dlde: Dlde, tmp_path: Path) -> None:
    wrong = ("method.descent.rate=1e30", "method.descent.warmup=0.0")
    code, document, _ = dlde("train", "neural-operator", *tiny(*wrong))
    assert (code, document["error"]["type"]) == (1, "NonFiniteError")
    (run,) = tracked(tmp_path)
    assert run.info.status == "FAILED"
    assert run.data.tags["dlde.reason"] == document["error"]["message"]


def run_folder(root: Path, rows: int) -> Path:
    folder = root / "runs" / "made-by-hand"
    (folder / "curves").mkdir(parents=True)
    content = {"run": folder.name, "job": {"seed": 0}, "code": {"dlde": "0"}, "started": 1.7e9}
    (folder / "job.json").write_text(json.dumps(content))
    write_rows(folder, 1, rows)
    return folder


def write_rows(folder: Path, first: int, last: int) -> None:
    with (folder / "curves" / "fit.jsonl").open("a") as file:
        for step in range(first, last + 1):
            file.write(json.dumps({"step": step, "seconds": step / 100, "loss": 1 / step}) + "\n")


def test_of_many_rows_every_kth_is_sent_and_the_file_is_complete(tmp_path: Path) -> None:
    many = 2 * tracking.ROWS + 1
    folder = run_folder(tmp_path, many)
    run = tracking.sync(tmp_path, folder, name="many", status="RUNNING")
    sent = steps(tmp_path, run, "fit/loss")
    assert sent == [*range(3, many + 1, 3), *([many] if many % 3 else [])]
    write_rows(folder, many + 1, many + 7)
    with (folder / "curves" / "fit.jsonl").open("a") as file:
        file.write('{"step": ')  # a row that is being written
    assert tracking.sync(tmp_path, folder, name="many") == run
    assert steps(tmp_path, run, "fit/loss") == [*sent, *range(many + 1, many + 8)]
    (folder / "model").mkdir()
    (folder / "model" / "model.json").write_text("{}")
    tracking.sync(tmp_path, folder, name="many")
    assert client(tmp_path).get_run(run).info.status == "FINISHED"
    local = client(tmp_path).download_artifacts(run, "curves/fit.jsonl", str(tmp_path))
    assert Path(local).read_text() == (folder / "curves" / "fit.jsonl").read_text()


def test_what_was_in_flight_or_forgotten_makes_no_second_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, 30)
    run = tracking.sync(tmp_path, folder, name="twice")
    (folder / "tracking.json").unlink()
    assert tracking.sync(tmp_path, folder, name="twice") == run
    assert sorted(set(steps(tmp_path, run, "fit/loss"))) == list(range(1, 31))
    assert len(tracked(tmp_path, "twice")) == 1


def test_trials_of_a_study_are_children_of_one_run(tmp_path: Path) -> None:
    (tmp_path / "small-study.yaml").write_text(STUDY)
    trials = [one for one in trials_of(str(tmp_path / "small-study.yaml")) if one.variant == "fno"]
    outcomes = run_all(trials, tmp_path)
    runs = tracked(tmp_path, "small-study")
    (above,) = (run for run in runs if "dlde.trials_of" in run.data.tags)
    below = [run for run in runs if run is not above]
    assert {run.data.tags["mlflow.parentRunId"] for run in below} == {above.info.run_id}
    assert {run.data.tags["dlde.run"] for run in below} == {outcome.run for outcome in outcomes}
    assert len(below) == len(outcomes) == 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    run_all(trials, tmp_path)
    assert len(tracked(tmp_path, "small-study")) == 3
