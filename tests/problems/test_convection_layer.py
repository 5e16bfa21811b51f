"""The convection layer: its closed form against the equation, and its built-in conditions."""

from __future__ import annotations

import pytest
import torch

from dlde.errors import SpecError
from dlde.numerics.jets import Jet, axes
from dlde.problems.convection_layer import ConvectionLayer

torch.set_num_threads(1)


@pytest.mark.parametrize("diffusivity", [1.0, 0.1, 0.02, 0.005])
def test_the_closed_form_solves_the_equation(diffusivity: float) -> None:
    """Second-order differences of it leave a residual that falls by four as the spacing is halved."""
    problem = ConvectionLayer(diffusivity=diffusivity)
    x = torch.linspace(0.05, 0.95, 50, dtype=torch.float64)
    errors = []
    for h in (0.02 * diffusivity, 0.01 * diffusivity):
        left, middle, right = (problem.reference((x + k * h)[:, None])["u"] for k in (-1, 0, 1))
        x_, xx = (right - left) / (2 * h), (right - 2 * middle + left) / h**2
        parts = {"x": x_, "xx": xx, "transport": x_ - diffusivity * xx}
        u = Jet(middle, parts, ("x", "xx", "transport"), problem.operators)
        errors.append(problem.residual({"x": x}, {"u": u})["convection"].abs().max())
    assert errors[0] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("diffusivity", [1e3, 0.02, 1e-4])
def test_the_closed_form_neither_cancels_nor_overflows(diffusivity: float) -> None:
    """For large diffusivity x (1 - x) / (2 diffusivity), for small x outside the layer."""
    u = ConvectionLayer(diffusivity=diffusivity).reference(torch.tensor([[0.0], [0.5], [1.0]]))["u"]
    limit = 1 / (8 * diffusivity) if diffusivity > 1 else 0.5
    torch.testing.assert_close(u, torch.tensor([0, limit, 0], dtype=torch.float64), rtol=1e-5, atol=1e-15)


def test_conditions_hold_whatever_the_network() -> None:
    x = axes(torch.tensor([[0.0], [1.0]], dtype=torch.float64), "x", ("xx",))
    network = Jet(torch.tensor([3.0, -7.0], dtype=torch.float64), {}, x["x"].names)
    assert ConvectionLayer().constrain(x, {"u": network})["u"].value.abs().max() == 0


def test_a_diffusivity_that_is_not_positive_is_refused() -> None:
    with pytest.raises(SpecError, match="diffusivity: input should be greater than 0"):
        ConvectionLayer.parse({"diffusivity": 0.0}, source="test")
