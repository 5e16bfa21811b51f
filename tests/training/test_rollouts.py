"""Rollout workers: the same results for any number of them, also when one is killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from dlde import ray_session
from dlde.errors import InputError
from dlde.training.rollouts import InProcess, RayActors


def simulator() -> Callable[[Any], Any]:
    """What a method would hand over: made once on each worker, then pure."""
    weights = torch.linspace(-1, 1, 64 * 64, dtype=torch.float64).reshape(64, 64)

    def simulate(item: dict[str, Any]) -> dict[str, Any]:
        marker: Path | None = item.get("die_once")
        if marker is not None and not marker.exists():
            marker.touch()
            psutil.Process(os.getpid()).kill()
        if item.get("blows_up"):
            raise InputError("the state blew up", decision=3)
        state: Tensor = item["state"]
        for _ in range(3):
            state = torch.tanh(state @ weights)
        return {"state": state, "threads": torch.get_num_threads()}

    return simulate


def items(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [{"state": torch.randn(8, 64, generator=generator, dtype=torch.float64)} for _ in range(count)]


def test_in_process_on_one_thread_whatever_the_training_takes() -> None:
    torch.set_num_threads(2)
    workers = InProcess(simulator)
    assert [result["threads"] for result in workers.map(items(2))] == [1, 1]
    assert torch.get_num_threads() == 2
    waiting = workers.submit(items(1)[0])
    assert torch.equal(waiting()["state"], workers.map(items(1))[0]["state"])


def test_ray_actors_equal_one_process_and_outlive_a_kill(tmp_path: Path) -> None:
    expected = InProcess(simulator).map(items(5))
    with ray_session.session(num_cpus=3):
        workers = RayActors(simulator, 2)
        dying = [
            {**item, "die_once": tmp_path / "died"} if i == 1 else item for i, item in enumerate(items(5))
        ]
        for given in (items(5), dying):
            results = workers.map(given)
            assert all(torch.equal(a["state"], b["state"]) for a, b in zip(results, expected, strict=True))
            assert [result["threads"] for result in results] == [1] * 5
        assert (tmp_path / "died").exists()
        waiting = [workers.submit(item) for item in items(2)]
        assert all(torch.equal(w()["state"], e["state"]) for w, e in zip(waiting, expected, strict=False))
        with pytest.raises(InputError, match="the state blew up") as refused:
            workers.map([{"blows_up": True}])
        assert refused.value.decision == 3
