"""The Fourier neural operator: its symmetries, its resolutions, its sizes, and that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dlde.claims import Table
from dlde.errors import GridError, InputError
from dlde.method import Descent
from dlde.methods import fno
from dlde.methods.fno import FNO, FourierNetwork, Projection, claim
from dlde.tasks.field_map import FieldMap
from tests.fakes import FakeDataset, FakeRun, axis, waves

SMALL = FNO(modes=6, width=12, projection=24, map=FieldMap(num_points=32))


def network(*boundaries: Any, modes: int = 4, **fields: Any) -> FourierNetwork:
    torch.manual_seed(0)
    sizes = {"width": 6, "layers": 3, "projection": 8, "padding": 0.12, **fields}
    return FourierNetwork(tuple(axis(16, boundary) for boundary in boundaries), modes=modes, **sizes)


def band_limited(points: int) -> Tensor:
    x = torch.arange(points, dtype=torch.float64) / points
    return (torch.sin(2 * np.pi * x) + 0.5 * torch.cos(6 * np.pi * x)).view(1, points, 1)


def test_the_default_has_the_published_number_of_weights() -> None:
    """Lifting 2 x 32 + 32, layers 4 (2 x 16 x 32² + 32² + 32), projection 32 x 128 + 128 and 128 + 1."""
    model = FNO().build(FakeRun(waves(128)).info)
    assert sum(p.numel() for p in model.parameters()) == 96 + 4 * 33824 + 4224 + 129


@pytest.mark.parametrize("points", [(8,), (9,), (64,), (101,)], ids=str)
def test_any_grid_with_enough_points(points: tuple[int, ...]) -> None:
    assert network("periodic")(torch.randn(2, *points, 1)).shape == (2, *points, 1)


@pytest.mark.parametrize("points", [(8, 8), (9, 30), (17, 11)], ids=str)
@pytest.mark.parametrize(
    "boundaries", [("periodic", "periodic"), ("wall", "periodic"), ("wall", "wall")], ids=str
)
def test_any_plane_with_enough_points(boundaries: tuple[str, str], points: tuple[int, int]) -> None:
    out = network(*boundaries)(torch.randn(2, *points, 1))
    assert out.shape == (2, *points, 1)
    assert torch.isfinite(out).all()


def test_without_coordinates_a_periodic_network_commutes_with_shifts() -> None:
    model = network("periodic").double()
    with torch.no_grad():
        model.lifting.weight[:, 1:] = 0
    u = torch.randn(2, 24, 1, dtype=torch.float64)
    torch.testing.assert_close(model(u.roll(5, 1)), model(u).roll(5, 1), rtol=0, atol=1e-12)


def test_refining_the_grid_of_a_band_limited_input_hardly_changes_the_answer() -> None:
    """Not exactly: gelu and the coordinate's jump make modes that a coarse grid folds back."""
    model = network("periodic").double()
    change = [
        (model(band_limited(n)) - model(band_limited(512))[:, :: 512 // n]).abs().max() for n in (32, 64, 128)
    ]
    assert change[2] < 1e-2 * model(band_limited(512)).abs().max()
    assert change[0] > 1.5 * change[1] > 2 * change[2]


def test_coordinates_leave_out_the_periodic_end() -> None:
    grid = network("periodic", "wall").coordinates(torch.zeros(1, 4, 5, 1))
    torch.testing.assert_close(grid[:, 0, 0], torch.tensor([0, 0.25, 0.5, 0.75]))
    torch.testing.assert_close(grid[0, :, 1], torch.tensor([0, 0.25, 0.5, 0.75, 1]))


def test_padding_makes_a_domain_of_one_length_at_every_resolution() -> None:
    model = network("wall", padding=0.125)
    for n in (33, 65, 257):
        *_, added = model.paddings((n,))
        assert (n + added) / (n - 1) == 1.125
    assert network("wall").paddings((85,)) == [0, 0, 0, 0, 0, 9]  # as in the paper's Darcy code
    assert network("wall", "periodic").paddings((85, 40)) == [0, 0, 0, 0, 0, 0, 0, 9]


def test_gradients_reach_every_weight() -> None:
    model = network("periodic", "wall")
    model(torch.randn(2, 9, 9, 1)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_the_projection_in_blocks_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fno, "BLOCK", 4)
    torch.manual_seed(0)
    projection = Projection(3, 5).double()
    v = torch.randn(3, 7, 3, dtype=torch.float64, requires_grad=True)  # 21 rows: five blocks and a rest
    plain = torch.nn.Sequential(*projection)
    given = [v, *projection.parameters()]
    seen = torch.randn(3, 7, 1, dtype=torch.float64)
    torch.testing.assert_close(projection(v), plain(v), rtol=0, atol=1e-14)
    for one, other in zip(
        torch.autograd.grad((projection(v) * seen).sum(), given),
        torch.autograd.grad((plain(v) * seen).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(projection(v), plain(v), rtol=0, atol=1e-14)


@pytest.mark.parametrize("boundary", ["periodic", "wall"])
def test_the_network_in_bfloat16(boundary: str) -> None:
    model, u = network(boundary, boundary), torch.randn(2, 12, 13, 1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(u)
    exact = model(u)
    assert (rounded.float() - exact).norm() < 2e-2 * exact.norm()
    rounded.float().square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_too_coarse_a_grid_is_refused_when_built_and_when_asked() -> None:
    info = FakeRun(waves(64)).info
    with pytest.raises(GridError, match="modes=20 needs at least 40 points per axis, but the grid has 32"):
        FNO(modes=20, map=FieldMap(num_points=32)).check(info)
    with pytest.raises(GridError, match="modes=4 needs at least 8 points"):
        network("periodic")(torch.zeros(1, 7, 1))
    with pytest.raises(InputError, match=r"expected \(batch, x >= 12, channel = 1\): x is 11"):
        SMALL.operations(info)["predict"].check({"u": torch.zeros(1, 11, 1)})


def test_three_dimensions_are_refused() -> None:
    fields = {"u": np.ones((2, 2, 8, 8, 8))}
    data = FakeDataset({"train": fields, "test": fields}, {n: axis(8) for n in "xyz"}, (0.0, 1.0))
    with pytest.raises(GridError, match="one and two dimensions, but the data have 3"):
        FNO(modes=2, map=FieldMap()).check(FakeRun(data).info)


def test_it_learns_transport_and_keeps_its_error_on_a_finer_grid() -> None:
    run = FakeRun(waves(128, train=64))
    method = SMALL.model_copy(update={"descent": Descent(steps=300, batch=16, rate=5e-3, schedule="cosine")})
    method.check(run.info)
    torch.manual_seed(0)
    model = method.train(run)
    assert run.losses[-1] < 0.1 * run.losses[0]
    metrics = method.evaluate(model, run).metrics
    assert metrics["relative_l2"] < 0.15
    assert metrics["relative_l2_fine"] < 1.15 * metrics["relative_l2"]
    u = torch.from_numpy(run.data["solutions"].splits["test"]["u"][:, 0, :, None])
    assert method.predict(model, u=u)["u"].shape == u.shape


def test_it_learns_in_two_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.nn.functional.interpolate(
        torch.randn(24, 1, 4, 4, generator=generator), size=16, mode="bicubic"
    )
    fields = {"u": torch.stack([u[:, 0], u[:, 0].flip(1)], 1).numpy()}
    data = FakeDataset(
        {"train": fields, "test": fields}, {"x": axis(16, "wall"), "y": axis(16, "wall")}, (0.0, 1.0)
    )
    run = FakeRun(data)
    method = FNO(
        modes=4, width=8, projection=16, map=FieldMap(), descent=Descent(steps=60, batch=8, rate=1e-2)
    )
    torch.manual_seed(0)
    method.train(run)
    assert run.losses[-1] < 0.6 * run.losses[0]


def rows(**errors: tuple[float, float]) -> Table:
    return Table(
        tuple(
            {"variant": variant, "seed": seed, "metric": metric, "value": value}
            for variant, values in errors.items()
            for metric, value in zip(("relative_l2", "relative_l2_fine"), values, strict=True)
            for seed in (0, 1, 2)
        )
    )


@pytest.mark.parametrize(
    ("fno", "fcn", "dilated", "held"),
    [
        ((0.02, 0.022), (0.1, 0.3), (0.03, 1.0), [True, True, True, True, True]),
        ((0.05, 0.05), (0.09, 0.3), (0.03, 1.0), [False, False, False, True, True]),
        ((0.02, 0.03), (0.1, 0.15), (0.02, 1.0), [True, True, True, False, False]),
    ],
)
def test_the_claim(
    fno: tuple[float, float], fcn: tuple[float, float], dilated: tuple[float, float], held: list[bool]
) -> None:
    checks = claim(rows(**{"fno": fno, "fcn": fcn, "fcn-dilated": dilated}))
    assert [check.holds for check in checks] == held
    assert all(check.seeds == (0, 1, 2) for check in checks)
    assert claim.variants == ("fno", "fcn", "fcn-dilated")
