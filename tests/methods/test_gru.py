"""The recurrent network: shapes, causality, scaling, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from dlde.method import Descent
from dlde.methods.gru import GRU, RecurrentNetwork
from tests.fake_paths import info_of, run_over, walks

SMALL = GRU(hidden=8, descent=Descent(steps=60, batch=16, rate=2e-2))


def network(**fields: int) -> RecurrentNetwork:
    torch.manual_seed(0)
    return RecurrentNetwork(**{"drivers": 2, "components": 3, "hidden": 5, "gain": 4.0, **fields})


def paths(points: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    t = torch.linspace(0, 1, points, dtype=torch.float64).expand(2, -1)
    return t, torch.stack([t.sin(), (3 * t).cos()], -1)


def test_every_time_knows_only_the_path_before_it_and_not_where_it_began() -> None:
    model, (t, x) = network(), paths()
    answer = model(t, x)
    assert answer.shape == (2, 7, 3)
    assert answer.dtype == torch.float64
    later = x.clone()
    later[:, 5:] += 1.0
    torch.testing.assert_close(model(t, later)[:, :5], answer[:, :5])
    assert not torch.allclose(model(t, later)[:, 5], answer[:, 5])
    torch.testing.assert_close(model(t, x + 3), answer, rtol=0, atol=1e-6)


def test_the_answer_is_in_the_states_units() -> None:
    model, (t, x) = network(), paths()
    before = model(t, x)
    model.mean.fill_(10.0)
    model.std.fill_(2.0)
    torch.testing.assert_close(model(t, x), 10 + 2 * before)


def test_it_learns_and_is_rebuilt_from_its_weights(tmp_path: Path) -> None:
    data = walks(40)
    SMALL.check(info_of(data))
    run = run_over(data, tmp_path)
    model = SMALL.train(run)
    rows = [json.loads(row) for row in (tmp_path / "curves" / "fit.jsonl").read_text().splitlines()]
    assert rows[-1]["mean_square"] < 0.5 * rows[0]["mean_square"]
    metrics = SMALL.evaluate(model, run).metrics
    assert metrics["nmse"] < 0.7
    assert "num_features" not in metrics
    rebuilt = SMALL.build(info_of(data))
    rebuilt.load_state_dict(model.state_dict())
    given = {"time": torch.tensor([[0.0, 0.5, 0.7]]).double(), "control": torch.ones(1, 3, 1).double()}
    SMALL.operations(info_of(data))["predict"].check(given)
    with torch.no_grad():
        assert torch.equal(SMALL.predict(rebuilt, **given)["state"], model(*given.values()))
