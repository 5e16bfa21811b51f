"""The truncated signature as a method: what is exactly linear in it, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dlde.errors import SpecError
from dlde.methods.truncated_signature import TruncatedSignature
from dlde.tasks.path_map import PathMap
from tests.fake_paths import info_of, run_over, walks


def second_order(t: Tensor, w: Tensor) -> Tensor:
    """(W^2, integral of W dt by the trapezoidal rule): both are entries of the second level."""
    area = torch.cat([0 * w[:, :1], ((w[:, 1:] + w[:, :-1]) / 2 * t.diff()[:, None]).cumsum(1)], 1)
    return torch.cat([w.square(), area], -1)


@pytest.mark.parametrize(("order", "exact"), [(1, False), (2, True), (3, True)])
def test_a_map_of_order_two_is_exact_from_order_two(tmp_path: Path, order: int, exact: bool) -> None:
    data = walks(30, state=second_order)
    method = TruncatedSignature(order=order, map=PathMap(lambdas=(0.0,)))
    method.check(info_of(data))
    model = method.train(run_over(data, tmp_path))
    error = method.evaluate(model, run_over(data, tmp_path / "evaluation")).metrics["nmse"]
    assert (error < 1e-12) == exact


def test_it_is_rebuilt_from_its_weights_and_served(tmp_path: Path) -> None:
    data = walks(drivers=2)
    method = TruncatedSignature(order=2)
    model = method.train(run_over(data, tmp_path))
    rebuilt = method.build(info_of(data))
    rebuilt.load_state_dict(model.state_dict())
    given = {"time": torch.tensor([[0.0, 0.5, 0.7]]).double(), "control": torch.ones(1, 3, 2).double()}
    method.operations(info_of(data))["predict"].check(given)
    assert torch.equal(method.predict(rebuilt, **given)["state"], model(*given.values()))


def test_too_many_features_are_refused_with_their_number() -> None:
    with pytest.raises(
        SpecError, match=r"and 265719 features make .* GiB.*an order lower than method.order=11"
    ):
        TruncatedSignature(order=11, map=PathMap(every=1)).check(info_of(walks(1000, steps=5, drivers=2)))
