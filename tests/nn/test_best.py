"""The best weights: kept, restored, and resumed by a training that is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dlde.method import Descent
from dlde.nn.best import Best
from dlde.training.run import Execution
from tests.training import loops


def test_the_lowest_value_s_weights_come_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    best = Best(model, patience=2)
    for weight, value, goes_on in (
        (1.0, 3.0, True),
        (2.0, 1.0, True),
        (3.0, 2.0, True),
        (4.0, float("nan"), False),
    ):
        nn.init.constant_(model.weight, weight)
        assert best.see(value) is goes_on
    best.restore()
    assert model.weight.item() == 2.0
    assert best.value == 1.0


def train(folder: Path, *, die_at: int | None = None) -> tuple[torch.Tensor, float]:
    run = loops.run_in(folder, execution=Execution(checkpoint_steps=4))
    model = loops.network()
    best = Best(model, patience=5)
    x, y = loops.batch(torch.Generator().manual_seed(9))

    def after(done: int) -> None:
        if done == die_at:
            raise KeyboardInterrupt
        with torch.no_grad():  # a value that first falls, then rises
            value = float((model(x) - y).square().mean()) + 0.05 * max(done - 12, 0)
        if not best.see(value):
            run.stop()

    run.fit(model, loops.batch, loops.loss, Descent(steps=60, batch=8), keep={"best": best}, after=after)
    run.close()
    best.restore()
    return model[0].weight.detach(), best.value  # type: ignore[union-attr]


def test_early_stopping_resumes_to_the_bit(tmp_path: Path) -> None:
    weights, value = train(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", die_at=11)
    again, same = train(tmp_path / "b")
    found, found_value = train(tmp_path / "b")
    assert value == same == found_value
    assert torch.equal(weights, again)
    assert torch.equal(weights, found)
