"""Ray Train workers: the mathematics of one process, a killed worker, an error of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from dlde.registry import package
from tests.conftest import tiny
from tests.processes import DEADLINE, children, curve, has_rows, started, wait_for

Dlde = Callable[..., tuple[int, Any, str]]


def test_two_ray_workers_survive_a_killed_one_and_agree_with_one_process(dlde: Dlde, tmp_path: Path) -> None:
    """The mean over halves rounds otherwise than the mean over the whole, and Adam amplifies it."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    steps = "method.descent.steps=300"
    code, one, _ = dlde("train", "neural-operator", *tiny(steps), root=tmp_path / "one")
    assert code == 0
    with started(
        tmp_path / "two", "train", "neural-operator", *tiny(steps), "--workers", "2", "--json"
    ) as process:
        wait_for(lambda: has_rows(tmp_path / "two", 15), process)
        workers = children(process, "RayTrainWorker")
        assert len(workers) == 2
        workers[1].kill()
        output, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
    two = json.loads(output)
    assert two["run"] == one["run"]
    losses = [[row["relative_l2"] for row in curve(tmp_path / name, one["run"])] for name in ("one", "two")]
    assert len(losses[1]) == 300
    np.testing.assert_allclose(losses[1][:50], losses[0][:50], rtol=1e-4)
    assert np.mean(losses[1][-20:]) == pytest.approx(np.mean(losses[0][-20:]), rel=0.02)
    assert two["metrics"]["relative_l2"] == pytest.approx(one["metrics"]["relative_l2"], rel=0.02)


def test_non_finite_loss_in_workers_is_one_clean_error(dlde: Dlde) -> None:
    wrong = ("method.descent.rate=1e30", "method.descent.warmup=0.0")
    code, document, stderr = dlde("train", "neural-operator", *tiny(*wrong), "--workers", "2")
    assert code == 1
    assert document["error"]["type"] == "NonFiniteError"
    assert "the loss term 'relative_l2'" in document["error"]["message"]
    assert "Traceback" not in stderr


def test_rollout_workers_on_ray_give_the_bits_of_one_process_also_when_one_is_killed(
    dlde: Dlde, tmp_path: Path
) -> None:
    method = (
        "{name: ddpg, width: 16, layers: 2, batch: 32, decisions: 4800, warmup: 480, feedback: {paths: 2}}"
    )
    sets = ("--set", f"method={method}", "--set", "seed=100")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    code, one, stderr = dlde("train", "spde-control", *sets, root=tmp_path / "one")
    assert code == 0, stderr
    more = ("--set", "training.rollout_workers=2", "--json")
    with started(tmp_path / "two", "train", "spde-control", *sets, *more) as process:

        def actors() -> list[psutil.Process]:
            return children(process, "ray::_Actor")

        def simulating() -> bool:
            curves = (tmp_path / "two").glob("runs/*/curves/*.jsonl")
            return len(actors()) == 2 and any(path.stat().st_size for path in curves)

        wait_for(simulating, process)
        actors()[0].kill()
        output, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
    two = json.loads(output)
    assert two["run"] == one["run"]
    assert two["metrics"] == one["metrics"]
    weights = [package.read(Path(run["model"])).module.state_dict() for run in (one, two)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
