"""The convolutional baseline: as many weights as the operator it is compared with, and fair."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlde.errors import GridError, SpecError
from dlde.method import Descent
from dlde.methods.fcn import FCN, ConvolutionalNetwork
from dlde.methods.fno import FNO
from dlde.tasks.field_map import FieldMap
from tests.fakes import FakeRun, axis, waves

DILATIONS = (1, 2, 4, 8, 4, 2)


def network(*boundaries: Any, dilations: tuple[int, ...] = (1, 2)) -> ConvolutionalNetwork:
    torch.manual_seed(0)
    axes = tuple(axis(16, boundary) for boundary in boundaries)
    return ConvolutionalNetwork(axes, width=6, kernel=3, dilations=dilations)


def test_it_has_as_many_weights_and_epochs_as_the_operator() -> None:
    info = FakeRun(waves(128)).info
    dilated = FCN(width=48, kernel=5, dilations=DILATIONS)
    weights = [sum(p.numel() for p in method.build(info).parameters()) for method in (FNO(), FCN(), dilated)]
    assert all(0.8 < fcn / weights[0] < 1.2 for fcn in weights[1:])
    assert (FCN().descent.steps, FCN().descent.batch) == (FNO().descent.steps, FNO().descent.batch)
    assert FCN().map == FNO().map


@pytest.mark.parametrize(
    ("method", "seen"),
    [(FCN(), 97), (FCN(width=48, kernel=5, dilations=DILATIONS), 128)],
    ids=["plain", "dilated"],
)
def test_how_much_of_the_training_grid_a_point_sees(method: FCN, seen: int) -> None:
    """The gradient of one output reaches so many inputs."""
    torch.manual_seed(0)
    u = torch.randn(1, 128, 1, requires_grad=True)
    method.build(FakeRun(waves(128)).info)(u)[0, 0].sum().backward()
    assert u.grad is not None
    assert int((u.grad != 0).sum()) == seen


@pytest.mark.parametrize("points", [(8,), (9, 12)], ids=str)
def test_a_periodic_network_commutes_with_shifts(points: tuple[int, ...]) -> None:
    model = network(*["periodic"] * len(points)).double()
    u = torch.randn(2, *points, 1, dtype=torch.float64)
    axes = tuple(range(1, len(points) + 1))
    shift = [3] * len(points)
    torch.testing.assert_close(model(u.roll(shift, axes)), model(u).roll(shift, axes), rtol=0, atol=1e-13)


def test_walls_are_continued_by_their_values() -> None:
    """A constant field stays constant, also at the walls."""
    out = network("wall", "wall")(torch.full((1, 9, 7, 1), 0.3))
    torch.testing.assert_close(out, out[:, :1, :1].expand_as(out))


def test_axes_are_not_mixed_up() -> None:
    """A field that varies along x alone, with x periodic, gives the same on every line of y."""
    u = torch.randn(1, 10, 1, 1).expand(1, 10, 7, 1)
    out = network("periodic", "wall")(u)
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out))
    torch.testing.assert_close(network("periodic", "wall")(u.roll(3, 1)), out.roll(3, 1))


def test_what_does_not_fit_is_refused() -> None:
    info = FakeRun(waves(64)).info
    with pytest.raises(GridError, match=r"reach 64 points to either side need at least 64 .* grid has 16"):
        FCN(dilations=(1, 16), map=FieldMap(num_points=16)).check(info)
    with pytest.raises(GridError, match="at least 2 points per axis, but the grid has 9 x 1"):
        network("periodic", "periodic")(torch.zeros(1, 9, 1, 1))
    with pytest.raises(SpecError, match=r"kernel: .*must be odd"):
        FCN.parse({"kernel": 4}, source="test")


def test_it_learns_and_is_tied_to_its_grid() -> None:
    run = FakeRun(waves(128, train=64))
    method = FCN(
        width=12, kernel=3, dilations=(1, 2, 4), map=FieldMap(num_points=32),
        descent=Descent(steps=80, batch=16, rate=5e-3, schedule="cosine"),
    )  # fmt: skip
    method.check(run.info)
    torch.manual_seed(0)
    model = method.train(run)
    assert run.losses[-1] < 0.2 * run.losses[0]
    metrics = method.evaluate(model, run).metrics
    assert metrics["relative_l2_fine"] > 2 * metrics["relative_l2"]
    assert method.operations(run.info)["predict"].inputs["u"].dims[1].minimum == 4
