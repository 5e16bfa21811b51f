"""Poisson: the sources of its solutions, and boundary values that any network keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlde.errors import SpecError
from dlde.numerics.jets import Jet, axes, closed
from dlde.problems.poisson import Peak, Poisson, Sine

torch.set_num_threads(1)
UNIT = ((0.0, 1.0), (0.0, 1.0))
PROBLEMS = {
    "peak": Poisson(),
    "flat peak": Poisson(solution=Peak(sharpness=2.0)),
    "sharp peak": Poisson(solution=Peak(sharpness=1000.0, center=(0.1, -0.3))),
    "sine": Poisson(domain=UNIT, solution=Sine(waves=4)),
    "cut sine": Poisson(domain=((0.1, 1.0), (0.0, 0.7)), solution=Sine()),
}
each = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def draw(problem: Poisson, count: int = 40) -> torch.Tensor:
    low, high = torch.tensor(problem.domain, dtype=torch.float64).T
    return low + (high - low) * torch.rand(
        count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


@each
def test_the_chosen_solution_solves_the_equation(problem: Poisson) -> None:
    points = draw(problem)
    x = axes(points, "xy", problem.derivatives, problem.operators)
    u = problem.solution.factor(0, x["x"]) * problem.solution.factor(1, x["y"])
    torch.testing.assert_close(u.value, problem.reference(points)["u"])
    residual = problem.residual({"x": points[:, 0], "y": points[:, 1]}, {"u": u})["poisson"]
    assert residual.abs().max() < 1e-13


@each
def test_all_four_sides_keep_their_values_whatever_the_network(problem: Poisson) -> None:
    (x0, x1), (y0, y1) = problem.domain
    points = draw(problem)
    for column, value in ((0, x0), (0, x1), (1, y0), (1, y1)):
        side = points.clone()
        side[:, column] = value
        x = axes(side, "xy", problem.derivatives, problem.operators)
        network = Jet(1e3 * torch.randn(len(side), dtype=torch.float64), {}, x["x"].names, problem.operators)
        u = problem.constrain(x, {"u": network})["u"].value
        torch.testing.assert_close(u, problem.reference(side)["u"], rtol=0, atol=1e-12)


@each
def test_the_largest_source_is_the_unit_of_the_residual(problem: Poisson) -> None:
    grid = torch.cartesian_prod(*[torch.linspace(a, b, 401, dtype=torch.float64) for a, b in problem.domain])
    names = closed(problem.derivatives, problem.operators)
    zero = Jet(torch.zeros(len(grid), dtype=torch.float64), {}, names, problem.operators)
    residual = problem.residual({"x": grid[:, 0], "y": grid[:, 1]}, {"u": zero})["poisson"]
    assert residual.abs().max() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domain": [[0, 1], [1, 1]]}, r"domain of y is \(1, 1\): expected start < stop"),
        ({"domain": [[0, 0.5], [0, 1]]}, r"solution.center has x = 0.5, outside the domain \(0, 0.5\)"),
        ({"solution": {"kind": "peak", "sharpness": -1.0}}, "greater than 0"),
        ({"solution": {"kind": "step"}}, "step"),
    ],
)
def test_meaningless_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Poisson.parse(fields, source="test")
