"""Controlled stochastic Burgers: exact answers, orders, the law of its noise, and what it refuses."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dlde.errors import GridError, InputError, NonFiniteError, SpecError
from dlde.numerics.cole_hopf import cole_hopf_periodic
from dlde.problems.controlled_burgers import ControlledBurgers

X = torch.arange(64, dtype=torch.float64) / 64


def still(problem: ControlledBurgers, count: int = 1) -> Tensor:
    return torch.zeros(count, problem.actuators, dtype=torch.float64)


def no_noise(problem: ControlledBurgers, count: int = 1, steps: int | None = None) -> Tensor:
    return torch.zeros(count, steps or problem.substeps, 2, problem.noise_modes, dtype=torch.float64)


def after(problem: ControlledBurgers, u: Tensor, decisions: int, steps: int) -> Tensor:
    """The field after some decisions of so many steps each, without noise and control."""
    for _ in range(decisions):
        u, _ = problem.step(u, still(problem, len(u)), no_noise(problem, len(u), steps))
    return u


def test_without_noise_it_is_burgers_to_first_order() -> None:
    """Against the Cole-Hopf solution at t = 0.3, before and while a shock forms."""
    problem = ControlledBurgers(num_points=128, viscosity=0.02)
    x = torch.arange(128, dtype=torch.float64)[None] / 128
    u = torch.sin(2 * math.pi * x)
    exact = cole_hopf_periodic(u, [0.3], extent=1.0, viscosity=0.02)[:, 0]
    errors = [float((after(problem, u, 15, steps) - exact).square().mean().sqrt()) for steps in (20, 40, 80)]
    assert errors[2] < 2e-4
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(order - 1) < 0.1 for order in orders)


def path(steps: int, finest: Tensor) -> Tensor:
    """The same Brownian path, its increments over coarser steps: sums, in units of their deviation."""
    return finest.unflatten(1, (steps, -1)).sum(2) / math.sqrt(finest.shape[1] / steps)


def test_with_noise_it_is_of_strong_order_one() -> None:
    """The same Brownian path in steps of dt, dt / 2 and dt / 4, against dt / 32."""
    problem = ControlledBurgers()
    episodes = range(16)
    fine = ControlledBurgers(dt=1e-3 / 32)
    ends = {}
    for steps in (20, 40, 80, 640):
        u = problem.initial(1, episodes)
        for decision in range(5):
            finest = fine.noise(1, episodes, decision)
            u, _ = problem.step(u, still(problem, 16) + 0.5, path(steps, finest))
        ends[steps] = u
    errors = [float((ends[s] - ends[640]).square().mean().sqrt()) for s in (20, 40, 80)]
    assert errors[0] < 0.01  # of fields of size 1
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(0.8 < order < 1.25 for order in orders)  # the reference is 8 times finer, not exact


def test_the_linear_law_is_exact_at_any_step() -> None:
    """Tiny noise: each mode is an Ornstein-Uhlenbeck process, its variance a sum over unit impulses."""
    problem = ControlledBurgers(viscosity=0.5, sigma=1e-7, noise_modes=3, dt=0.01)
    variance = torch.zeros(3, 2, dtype=torch.float64)
    for step in range(problem.substeps):
        for mode in range(3):
            for part in (0, 1):
                noise = no_noise(problem)
                noise[0, step, part, mode] = 1.0
                u, _ = problem.step(torch.zeros(1, 64, dtype=torch.float64), still(problem), noise)
                variance[mode, part] += 2 * u.square().mean() / problem.sigma**2
    rate = 0.5 * (2 * math.pi * np.arange(1, 4)) ** 2
    exact = (1 - np.exp(-2 * rate * problem.interval)) / (2 * rate) / 3
    np.testing.assert_allclose(variance, np.stack([exact, exact], 1), rtol=1e-6)


def test_noise_is_a_brownian_motion_of_variance_sigma_squared_t_everywhere() -> None:
    problem = ControlledBurgers(viscosity=1e-12, sigma=1e-7)
    episodes = range(3000)
    noise = problem.noise(3, episodes, 0)
    u, _ = problem.step(torch.zeros(3000, 64, dtype=torch.float64), still(problem, 3000), noise)
    variance = u.square().mean(0) / (problem.sigma**2 * problem.interval)
    np.testing.assert_allclose(variance, 1.0, atol=0.11)  # 4.3 deviations of the mean of 3000 squares
    assert abs(float(variance.mean()) - 1) < 0.03


def test_a_force_drives_a_small_field_as_the_heat_equation() -> None:
    problem = ControlledBurgers(viscosity=0.3)
    control = 1e-7 * torch.cos(2 * math.pi * torch.arange(8, dtype=torch.float64) / 8)[None]
    u = torch.zeros(1, 64, dtype=torch.float64)
    for _ in range(10):
        u, _ = problem.step(u, control, no_noise(problem))
    force = torch.fft.rfft((control @ problem.shapes)[0], norm="forward")
    rate = 0.3 * (2 * math.pi * torch.arange(33)) ** 2
    t = 10 * problem.interval
    exact = force * torch.where(rate > 0, -torch.expm1(-rate * t) / rate.clamp(min=1e-300), t)
    torch.testing.assert_close(torch.fft.rfft(u[0], norm="forward")[:22], exact[:22], rtol=1e-6, atol=1e-16)


def test_without_force_the_mean_is_kept() -> None:
    problem = ControlledBurgers()
    u = problem.initial(0, range(4)) + 0.3
    after_, _ = problem.step(u, still(problem, 4), problem.noise(0, range(4), 0))
    torch.testing.assert_close(after_.mean(1), u.mean(1), rtol=0, atol=1e-13)


def test_a_shift_by_one_actuator_is_a_symmetry() -> None:
    problem = ControlledBurgers()
    u, control = problem.initial(0, range(2)), torch.randn(2, 8, dtype=torch.float64)
    there, reward = problem.step(u, control, no_noise(problem, 2))
    shifted, same = problem.step(u.roll(8, 1), control.roll(1, 1), no_noise(problem, 2))
    torch.testing.assert_close(shifted, there.roll(8, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(same, reward, rtol=1e-12, atol=0)


def test_actuators_are_periodic_bumps_at_equal_distances() -> None:
    shapes = ControlledBurgers().shapes
    assert shapes.argmax(1).tolist() == [0, 8, 16, 24, 32, 40, 48, 56]
    torch.testing.assert_close(shapes[3], shapes[0].roll(24))
    distance = torch.minimum(X, 1 - X)
    torch.testing.assert_close(shapes[0], torch.exp(-0.5 * (16 * distance) ** 2), rtol=0, atol=1e-12)
    one = ControlledBurgers(actuators=1).shapes[0]  # as wide as the line: a sum over its images
    torch.testing.assert_close(one[1:], one[1:].flip(0), rtol=1e-12, atol=0)
    assert float(one.max() - one.min()) < 0.1 * float(one.mean())


def test_the_reward_is_the_price_of_field_energy_and_shocks() -> None:
    problem = ControlledBurgers(shock_price=0.01, target_modes=(0.5, 0.25))
    u, control = problem.initial(0, range(3)), torch.randn(3, 8, dtype=torch.float64)
    end, reward = problem.step(u, control, problem.noise(0, range(3), 0))
    target = 0.5 * torch.sin(2 * math.pi * X) + 0.25 * torch.sin(4 * math.pi * X)
    torch.testing.assert_close(problem.target, target)
    coefficients = torch.fft.rfft(end, norm="forward")[:, :22]
    slope = 2 * (coefficients.abs() * 2 * math.pi * torch.arange(22)).square().sum(1)
    cost = (end - target).square().mean(1) + 0.05 * control.square().mean(1) + 0.01 * slope
    torch.testing.assert_close(reward, -0.02 * cost, rtol=1e-9, atol=0)


def test_starts_and_noise_are_functions_of_seed_episode_and_decision() -> None:
    problem = ControlledBurgers()
    some, all_ = problem.initial(5, [9, 2]), problem.initial(5, range(10))
    assert some.equal(all_[[9, 2]])
    assert problem.noise(5, [9], 7).equal(problem.noise(5, range(10), 7)[9:])
    assert not problem.noise(5, [9], 7).equal(problem.noise(5, [9], 8))
    coarse = ControlledBurgers(num_points=32).initial(5, range(10))
    torch.testing.assert_close(coarse, all_[:, ::2])  # another grid shows the same instance
    energy = problem.initial(0, range(2000)).square().mean()
    assert abs(float(energy) - (1 + 1 / 4 + 1 / 9) / 2) < 0.06


def test_a_fast_field_is_computed_in_halved_steps_and_its_neighbours_are_not() -> None:
    problem = ControlledBurgers()
    u = torch.stack([30 * torch.sin(2 * math.pi * X), 0.5 * torch.sin(2 * math.pi * X)])
    noise = problem.noise(0, range(2), 0)
    together, _ = problem.step(u, still(problem, 2), noise)
    alone, _ = problem.step(u[1:], still(problem), noise[1:])
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-14)
    halved = noise[:1].repeat_interleave(4, 1) / 2  # half the deviation over a quarter of the time
    finer, _ = problem.step(u[:1], still(problem), halved)
    torch.testing.assert_close(together[:1], finer, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [1e5, float("nan")])
def test_a_field_that_blows_up_is_an_error(size: float) -> None:
    problem = ControlledBurgers()
    u = torch.stack([0 * X, size * torch.sin(2 * math.pi * X)])
    with pytest.raises(NonFiniteError, match=r"the field has blown up\. Use a smaller problem\.dt") as caught:
        problem.step(u, still(problem, 2), no_noise(problem, 2))
    assert caught.value.rows == [1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigma": -1.0}, "sigma: input should be greater than or equal to 0"),
        ({"viscosity": 0.0}, "viscosity: input should be greater than 0"),
        ({"interval": 0.0205}, "interval=0.0205 is no multiple of dt=0.001; choose dt=0.001025"),
        ({"horizon": 0.01}, "horizon=0.01 is no multiple of interval=0.02"),
        ({"actuators": 65}, "actuators=65 are more than the 64 points of the grid; use at most 64"),
        ({"noise_modes": 22}, "modes up to 22, but a grid of 64 points keeps 21; use num_points >= 67"),
        ({"num_points": 7}, "num_points: input should be greater than or equal to 8"),
        ({"viscocity": 0.1}, "did you mean 'viscosity'"),
    ],
    ids=str,
)
def test_meaningless_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        ControlledBurgers.parse(fields, source="test")


def test_wrong_shapes_and_controls_beyond_the_limit_are_refused() -> None:
    problem = ControlledBurgers()
    u = problem.initial(0, range(2))
    with pytest.raises(GridError, match=r"control \(2, 7\): expected \(episodes, 64\) and \(episodes, 8\)"):
        problem.step(u, torch.zeros(2, 7), no_noise(problem, 2))
    with pytest.raises(GridError, match=r"noise \(1, 20, 2, 8\): expected \(2, steps, 2, 8\)"):
        problem.step(u, still(problem, 2), no_noise(problem, 1))
    for size in (5.1, float("nan")):
        with pytest.raises(InputError, match="the actuators reach 5"):
            problem.step(u, still(problem, 2) + size, no_noise(problem, 2))
