"""Parabolic equations in many dimensions: exact solutions solve them, references are what they say."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dlde import catalog
from dlde.errors import SpecError
from dlde.method import DataInfo
from dlde.problem import Problem, Semilinear
from dlde.problems.allen_cahn_hd import AllenCahnHD
from dlde.problems.black_scholes_default import BlackScholesDefault
from dlde.problems.black_scholes_lending import BlackScholesLending
from dlde.problems.burgers_hd import BurgersHD
from dlde.problems.hjb_lq import HJBLQ
from dlde.problems.quadratic_gradient import QuadraticGradient
from dlde.problems.reaction_diffusion_hd import ReactionDiffusionHD

ALL = [
    HJBLQ,
    AllenCahnHD,
    BlackScholesDefault,
    BlackScholesLending,
    BurgersHD,
    QuadraticGradient,
    ReactionDiffusionHD,
]


def residual(
    problem: Semilinear, solution: Callable[[Tensor, Tensor], Tensor], drift: float, t: float, x: Tensor
) -> float:
    """u_t + 1/2 sum s_i^2 u_ii + drift x . grad u + f at one state x (dims,), by autograd."""
    x, time = x.clone().requires_grad_(), torch.tensor(t, dtype=torch.float64, requires_grad=True)
    u = solution(time, x)
    u_t, gradient = torch.autograd.grad(u, [time, x], create_graph=True)
    rows = (torch.autograd.grad(g, x, retain_graph=True, materialize_grads=True)[0] for g in gradient)
    second = torch.stack(list(rows)).diagonal()
    s = problem.diffusion(x)
    f = problem.driver(t, x, u, s * gradient)
    return float((u_t + 0.5 * (s**2 * second).sum() + drift * (x * gradient).sum() + f).detach())


def states_on_paths(problem: Semilinear, steps: int = 6) -> list[tuple[float, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    dt = problem.horizon / steps
    increments = math.sqrt(dt) * torch.randn(3, steps, problem.dims, generator=generator, dtype=torch.float64)
    start = torch.full((3, problem.dims), problem.start, dtype=torch.float64)
    paths = problem.paths(start, increments, dt)
    assert paths.shape == (3, steps + 1, problem.dims)
    assert torch.equal(paths[:, 0], start)
    return [(n * dt, path[n]) for path in paths for n in range(1, steps)]


@pytest.mark.parametrize(
    "problem",
    [
        BurgersHD(dims=7),
        BurgersHD(dims=3, horizon=0.6, start=0.4),
        QuadraticGradient(dims=7),
        QuadraticGradient(dims=2, exponent=0.7, horizon=0.5),
        ReactionDiffusionHD(dims=7),
        ReactionDiffusionHD(dims=3, offset=-0.2, start=0.3),
    ],
    ids=repr,
)
def test_closed_forms_solve_their_equation(
    problem: BurgersHD | QuadraticGradient | ReactionDiffusionHD,
) -> None:
    """To rounding: 1e-12, with terms of size one to dims."""
    for t, x in states_on_paths(problem):
        assert abs(residual(problem, problem.solution, 0.0, t, x)) < 1e-12
        assert torch.equal(problem.solution(problem.horizon, x), problem.terminal(x))
    start = torch.full((1, problem.dims), problem.start, dtype=torch.float64)
    reference = problem.reference(start)
    assert reference is not None
    assert torch.equal(reference, problem.solution(0.0, start))


@pytest.mark.parametrize("gain", [1.0, 0.4])
def test_the_control_problem_by_quadrature_solves_its_equation(gain: float) -> None:
    """In two dimensions by a product of Gauss-Hermite rules, another road than the problem's own.

    They converge slowly for 1 / (1 + q): 100 nodes reach about 1e-8, and 1e-6 in the residual.
    """
    problem = HJBLQ(dims=2, control_gain=gain, horizon=0.5)
    node, weight = torch.linalg.eigh(
        torch.diag(torch.arange(1, 100, dtype=torch.float64).sqrt(), 1)
        + torch.diag(torch.arange(1, 100, dtype=torch.float64).sqrt(), -1)
    )
    weights = weight[0].square()
    grid = torch.cartesian_prod(node, node)

    def solution(t: Tensor, x: Tensor) -> Tensor:
        ends = x + torch.sqrt(2 * (problem.horizon - t)) * grid
        mean = (torch.outer(weights, weights).flatten() * (-gain * problem.terminal(ends)).exp()).sum()
        return -mean.log() / gain

    x = torch.tensor([0.7, -0.4], dtype=torch.float64)
    reference = problem.reference(x[None])
    assert reference is not None
    assert abs(float(solution(torch.tensor(0.0), x)) - float(reference)) < 1e-7
    for t in (0.0, 0.2, 0.4):
        assert abs(residual(problem, solution, 0.0, t, x)) < 1e-5


@pytest.mark.parametrize("problem", [AllenCahnHD(dims=3), AllenCahnHD(dims=20), HJBLQ(dims=20)], ids=repr)
def test_computed_references_solve_their_equation(problem: AllenCahnHD | HJBLQ) -> None:
    """As a function of q = |x|^2 and the time to go, by central differences."""

    def u(q: float, horizon: float) -> float:
        state = torch.zeros(1, problem.dims, dtype=torch.float64)
        state[0, 0] = math.sqrt(q)
        found = problem.model_copy(update={"horizon": horizon}).reference(state)
        assert found is not None
        return float(found)

    q, step = 1.3, 1e-2
    middle, up, down = (u(q + move, problem.horizon) for move in (0.0, step, -step))
    u_q, u_qq = (up - down) / (2 * step), (up - 2 * middle + down) / step**2
    u_t = -(u(q, problem.horizon + 1e-3) - u(q, problem.horizon - 1e-3)) / 2e-3
    x = torch.zeros(problem.dims, dtype=torch.float64)
    x[0] = math.sqrt(q)
    z = problem.diffusion(x) * 2 * x * u_q
    f = float(problem.driver(0.0, x, torch.tensor(middle, dtype=torch.float64), z))
    laplacian = 4 * q * u_qq + 2 * problem.dims * u_q
    assert abs(u_t + laplacian + f) < 1e-4 * abs(laplacian)


@pytest.mark.parametrize(
    ("problem", "value"),
    [
        (HJBLQ(dims=10), 2.1570),
        (HJBLQ(dims=20), 2.9210),
        (HJBLQ(dims=50), 3.8820),
        (HJBLQ(), 4.5902),
        (AllenCahnHD(dims=1), 0.5665),
        (AllenCahnHD(dims=10), 0.3165),
        (AllenCahnHD(dims=20), 0.2064),
        (AllenCahnHD(), 0.0528),
        (BlackScholesDefault(), 57.300),
        (BlackScholesLending(), 21.299),
        (BurgersHD(), 0.5),
        (QuadraticGradient(), math.sin(1)),
        (ReactionDiffusionHD(), 1.6),
    ],
    ids=repr,
)
def test_known_values_at_the_start(problem: Semilinear, value: float) -> None:
    reference = problem.reference(torch.full((2, problem.dims), problem.start))
    assert reference is not None
    assert reference.dtype == torch.float64
    torch.testing.assert_close(reference, torch.full((2,), value, dtype=torch.float64), rtol=0, atol=6e-5)


def test_a_recalled_figure_is_given_for_its_own_state_and_parameters_only() -> None:
    for problem in (BlackScholesDefault(), BlackScholesLending()):
        assert problem.reference_kind == "recalled"
        assert problem.reference(torch.full((1, 100), 99.0)) is None
        other = problem.model_copy(update={"volatility": 0.3})
        assert other.reference(torch.full((1, 100), 100.0)) is None


def test_one_asset_without_a_jump_of_the_intensity_is_a_discounted_forward() -> None:
    """Equal intensities make f = -c y; then x exp((drift - c) (T - t)) solves the equation for g = x."""
    problem = BlackScholesDefault(dims=1, intensity_high=0.1, intensity_low=0.1, drift=0.05)
    rate = (1 - problem.recovery) * 0.1 + problem.rate

    def solution(t: Tensor, x: Tensor) -> Tensor:
        return x.sum() * ((problem.drift - rate) * (problem.horizon - t)).exp()

    for t, x in states_on_paths(problem):
        assert abs(residual(problem, solution, problem.drift, t, x)) < 1e-10
        assert torch.equal(problem.terminal(x), x[0])


def test_the_intensity_of_default_falls_linearly_between_two_values() -> None:
    problem, x = BlackScholesDefault(), torch.zeros(4, 100)
    y = torch.tensor([40.0, 50.0, 60.0, 90.0])
    f = problem.driver(0.0, x, y, x)
    torch.testing.assert_close(f, -(torch.tensor([0.2, 0.2, 0.11, 0.02]) / 3 + 0.02) * y)


def test_one_rate_for_both_is_the_formula_of_black_and_scholes() -> None:
    """One asset, lending = borrowing: a call at 120 less two at 150, whatever the drift."""
    problem = BlackScholesLending(dims=1, borrowing_rate=0.04)

    def call(t: Tensor, x: Tensor, strike: float) -> Tensor:
        left = problem.horizon - t
        deviation = problem.volatility * left.sqrt()
        high = ((x / strike).log() + 0.04 * left) / deviation + deviation / 2
        normal = torch.special.ndtr
        return x * normal(high) - strike * (-0.04 * left).exp() * normal(high - deviation)

    def solution(t: Tensor, x: Tensor) -> Tensor:
        return call(t, x[0], 120.0) - 2 * call(t, x[0], 150.0)

    for t, x in states_on_paths(problem):
        assert abs(residual(problem, solution, problem.drift, t, x)) < 1e-9
    ends = torch.tensor([[100.0], [130.0], [160.0]])
    assert problem.terminal(ends).tolist() == [0.0, 10.0, 20.0]


def test_a_hedge_on_credit_pays_the_higher_rate() -> None:
    problem, x = BlackScholesLending(dims=2), torch.full((2, 2), 100.0)
    z = torch.tensor([[1.0, 1.0], [2.0, 4.0]])  # 10 and 30 in assets
    f = problem.driver(0.0, x, torch.tensor([20.0, 20.0]), z)
    torch.testing.assert_close(f, torch.tensor([-0.8 - 0.02 * 10, -0.8 - 0.02 * 30 + 0.02 * 10]))


def test_paths_follow_their_increments() -> None:
    increments = 0.3 * torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = torch.full((5, 3), 2.0, dtype=torch.float64)
    whole = increments.sum(1)
    for problem, scale in (
        (HJBLQ(dims=3), math.sqrt(2)),
        (AllenCahnHD(dims=3), math.sqrt(2)),
        (BurgersHD(dims=3), 3.0),
        (QuadraticGradient(dims=3), 1.0),
        (ReactionDiffusionHD(dims=3), 1.0),
    ):
        torch.testing.assert_close(problem.paths(start, increments, 0.1)[:, -1], start + scale * whole)
        torch.testing.assert_close(problem.diffusion(start), torch.full_like(start, scale))
    exact = BlackScholesLending(dims=3)
    torch.testing.assert_close(
        exact.paths(start, increments, 0.1)[:, -1], start * (0.2 * whole + (0.06 - 0.02) * 0.4).exp()
    )
    euler = BlackScholesDefault(dims=3).paths(start, increments, 0.1)
    torch.testing.assert_close(euler[:, 2], euler[:, 1] * (1 + 0.02 * 0.1 + 0.2 * increments[:, 1]))
    for priced in (exact, BlackScholesDefault(dims=3)):
        torch.testing.assert_close(priced.diffusion(start), 0.2 * start)


@pytest.mark.parametrize("problem", ALL, ids=lambda cls: cls.__name__)
def test_it_is_known_by_name_and_survives_being_written_down(problem: type[Problem]) -> None:
    info = DataInfo(problem=problem(dims=4))  # type: ignore[call-arg]
    assert DataInfo.parse(info.dump(), source="info") == info
    assert len(problem.summary()) < 130


@pytest.mark.parametrize("problem", ALL, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("field", [{"dims": 0}, {"horizon": 0.0}, {"horizon": -1.0}], ids=str)
def test_no_dimension_and_no_time_are_refused(problem: type[Problem], field: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=next(iter(field)) + ": input should be greater than 0"):
        problem.parse(field, source="problem")


@pytest.mark.parametrize(
    ("problem", "fields", "message"),
    [
        (BlackScholesDefault, {"start": -100.0}, "start: input should be greater than 0, got -100"),
        (BlackScholesLending, {"start": 0.0}, "start: input should be greater than 0, got 0"),
        (BlackScholesDefault, {"value_low": 80.0}, "value_low=80 must lie below value_high=70"),
        (BlackScholesDefault, {"recovery": 1.0}, "recovery: input should be less than 1"),
        (BlackScholesLending, {"borrowing_rate": 0.01}, "borrowing_rate=0.01 is below lending_rate=0.04"),
        (QuadraticGradient, {"exponent": 1.5}, "exponent: input should be less than or equal to 1"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(
    problem: type[Problem], fields: dict[str, float], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        problem.parse(fields, source="problem")


def test_an_unknown_equation_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown problem 'hjb-lp'; did you mean 'hjb-lq'"):
        catalog.read("problem", {"name": "hjb-lp"})
