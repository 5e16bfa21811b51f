from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlde.datasets import certificate
from dlde.datasets import plan as planning
from dlde.datasets.generate import FACTS, generate
from dlde.datasets.plan import Fact, Plan, Trial, forecast, plan
from dlde.datasets.recipe import Recipe
from dlde.errors import DataError, NonFiniteError
from tests.datasets.conftest import HEAT

Heat = Callable[..., Recipe]
TRIAL = Trial(
    samples=8, start_seconds=3.0, compute_seconds=10.0, write_seconds=1.0, verify_seconds=0.5,
    peak_bytes=10**6, raw_bytes=1000, stored_bytes=600, record_bytes=7,
)  # fmt: skip


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trials in this process, which is much quicker; the list gets a name for each."""
    seen: list[str] = []

    def measure(recipe: Recipe, root: Path) -> Trial:
        seen.append(recipe.name)
        told = planning._trial(recipe, root / "trial.zarr", time.time())
        shutil.rmtree(root / "trial.zarr")
        return Trial.model_validate(told)

    monkeypatch.setattr(planning, "_measure", measure)
    return seen


def test_a_trial_in_a_child_leaves_the_plan_alone(heat: Heat, tmp_path: Path) -> None:
    made = plan(heat(), tmp_path)
    trial = made.trial
    assert trial is not None
    assert trial.samples == 8
    assert trial.raw_bytes == 8 * 4 * (3 * 32 + 32)
    assert 0 < trial.stored_bytes < 2 * trial.raw_bytes
    assert min(trial.start_seconds, trial.compute_seconds, trial.verify_seconds) > 0
    assert 50e6 < trial.peak_bytes < 2e9
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{Path(made.store).stem}.json"]


def test_counts_are_those_of_the_dataset_that_is_made(
    heat: Heat, tmp_path: Path, in_process: list[str]
) -> None:
    before = plan(heat(), tmp_path)
    assert (before.parts, before.done, before.fact) == (4, 0, None)
    assert before.raw_bytes == 25 * 4 * (3 * 32 + 32)
    assert before.seconds is not None
    made = generate(heat(), tmp_path)
    files = [path for path in made.store.rglob("*") if path.is_file() and path.name != ".lock"]
    facts = [path for path in files if path.name in (FACTS, certificate.FILE)]
    assert before.files == len(files) - len(facts)
    assert before.stored_bytes == pytest.approx(made.dataset.bytes, rel=0.25)
    after = plan(heat(), tmp_path)
    assert (after.done, after.trial) == (4, before.trial)
    assert len(in_process) == 1


def test_what_is_there_counts_as_done(heat: Heat, tmp_path: Path, in_process: list[str]) -> None:
    generate(heat(), tmp_path)
    grown = plan(heat(samples={"train": 64, "test": 5}), tmp_path)
    assert (grown.parts, grown.done) == (9, 3)  # the part of samples 16 to 19 is computed again
    assert grown.trial is not None
    assert grown.seconds == forecast(grown.trial, 6, 1, found=3, parts=9)


def test_forecast() -> None:
    assert forecast(TRIAL, 4, 1, found=0, parts=4) == pytest.approx(4 * 11.5 + 4 * 0.5)
    assert forecast(TRIAL, 4, 2, found=0, parts=4) == pytest.approx(3 + 2 * 11.5 + 2)
    assert forecast(TRIAL, 5, 4, found=4, parts=9) == pytest.approx(3 + 2 * 11.5 + 0.5 + 4.5)
    assert forecast(TRIAL, 0, 2, found=4, parts=4) == pytest.approx(1.0)


def test_workers_beyond_the_cores_or_the_parts_do_not_help(
    heat: Heat, tmp_path: Path, in_process: list[str]
) -> None:
    cores = len(os.sched_getaffinity(0))
    many = plan(heat(samples={"train": 8 * 500}), tmp_path, workers=500)
    assert (many.workers, many.processes) == (500, min(cores, 500))
    if cores < 500:
        assert f"500 workers on {cores} cores: the time is that of {cores}" in many.warnings
    assert plan(heat(samples={"train": 8}), tmp_path, workers=2).processes == 1


def test_without_a_trial_an_earlier_one_counts(heat: Heat, tmp_path: Path, in_process: list[str]) -> None:
    nothing = plan(heat(), tmp_path, trial=False)
    assert (nothing.trial, nothing.seconds, nothing.stored_bytes) == (None, None, None)
    assert nothing.raw_bytes > 0
    measured = plan(heat(), tmp_path)
    assert plan(heat(), tmp_path, trial=False) == measured
    assert len(in_process) == 1
    path = next((tmp_path / "plans").glob("heat-*.json"))
    path.write_text("{")
    assert plan(heat(), tmp_path, trial=False).trial is None


def test_the_fact_beside_the_forecast(heat: Heat, tmp_path: Path, in_process: list[str]) -> None:
    made = generate(heat(), tmp_path)
    (made.store / FACTS).write_text(
        json.dumps({"seconds": 12.5, "workers": 1, "computed": 4, "peak_bytes": 10, "bytes": 20, "more": 1})
    )
    found = plan(heat(), tmp_path)
    assert found.fact == Fact(seconds=12.5, workers=1, computed=4, peak_bytes=10, bytes=20)
    assert found.trial is not None
    assert found.fact_forecast == forecast(found.trial, 4, 1, found=0, parts=4)
    assert Plan.model_validate(found.model_dump()) == found


@pytest.mark.parametrize("text", ["{", "3", "{}", '{"seconds": "long", "workers": 1, "computed": 1}'])
def test_facts_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FACTS).write_text(text)
    assert Fact.of(tmp_path) is None
    assert Fact.of(tmp_path / "nowhere") is None


def test_too_little_room_is_said(
    heat: Heat, tmp_path: Path, in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Any = type("Usage", (), {"free": 10})
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(planning, "_available_memory", lambda: 10**6)
    monkeypatch.setattr(os, "getloadavg", lambda: (1e3, 0.0, 0.0))
    disk, load, memory = plan(heat(), tmp_path).warnings
    assert "load 1000.0 on" in load
    assert "0.0 GB are free under" in disk
    assert "a smaller storage.part" in memory


def test_what_cannot_be_solved_is_found_by_the_trial(
    heat: Heat, tmp_path: Path, in_process: list[str]
) -> None:
    recipe = heat(problem={**HEAT["problem"], "fails_above": -1e9})
    with pytest.raises(NonFiniteError, match=r"[Uu]se a smaller solver\.dt"):
        plan(recipe, tmp_path)


def test_a_trial_that_is_killed_says_so(heat: Heat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, *_: Any) -> Any:
            raise planning.BrokenProcessPool

    monkeypatch.setattr(planning, "ProcessPoolExecutor", Pool)
    with pytest.raises(DataError, match=r"was killed, .*; a smaller storage\.part needs less"):
        plan(heat(), tmp_path)
    assert not any((tmp_path / "plans").iterdir())
