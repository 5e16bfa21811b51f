"""Stable steps, differences in time, and the size of a defect."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from dlde.numerics.differences import time_derivative
from dlde.numerics.evolution import (
    largest_stable_step,
    refined_to,
    relative_size,
    rounding,
    stencil,
)
from dlde.numerics.spectral import Stepper


@pytest.mark.parametrize(("rate", "limit"), [(-2.0, 2.785 / 2), (3j, 2**1.5 / 3)])
def test_the_largest_stable_step_is_that_of_runge_kutta(rate, limit):
    """Its ends on the real and the imaginary axis, to the tenth in which steps are tried."""
    stepper = Stepper(np.zeros(1), lambda v: v)
    found = largest_stable_step(stepper, np.array([rate]), 100.0)
    assert limit / 1.1 < found <= 1.001 * limit
    assert largest_stable_step(stepper, np.array([rate]), 0.5 * limit) == 0.5 * limit


def test_decay_inside_the_factor_allows_larger_steps():
    free = largest_stable_step(Stepper(np.zeros(1), lambda v: v), np.array([3j]), 100.0)
    held = largest_stable_step(Stepper(np.array([-3.0]), lambda v: v), np.array([3j]), 100.0)
    assert held > 1.5 * free


def test_time_derivative_is_of_order_four():
    errors = []
    for dt in (0.2, 0.1):
        times, delta = stencil((0.0, 1.0, 2.0), dt)
        assert delta == dt / 2
        t = torch.tensor(times, dtype=torch.float64)
        middle, slope = time_derivative(torch.sin(t)[None, :, None], delta)
        assert_allclose(middle[0, :, 0], np.sin([1.0, 2.0]), atol=1e-15)
        errors.append((slope[0, :, 0] - torch.cos(torch.tensor([1.0, 2.0]).double())).abs().max())
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.02)


def test_stencils_of_close_times_do_not_overlap():
    times, delta = stencil((0.0, 0.1, 0.2), 1.0)
    assert delta == pytest.approx(0.0125)
    assert np.diff([0.0, *times]).min() > 0
    assert stencil((0.0,), 1.0)[0] == []
    many, _ = stencil(np.linspace(0, 10, 101).tolist(), 0.01)
    assert_allclose(many[2::5], np.arange(8) * 1.3 + 0.1)


def test_relative_size_is_the_worst_time_of_each_sample():
    defect = torch.tensor([[[0.1, 0.1], [0.3, 0.3]], [[0.0, 0.0], [0.0, 0.0]]])
    term = torch.ones(2, 2, 2)
    assert_allclose(relative_size(defect, [term, -2 * term]), [0.15, 0.0], rtol=1e-6)
    assert_allclose(relative_size(0 * defect, [0 * term]), [0.0, 0.0])
    noise = rounding(1e6 * term, 0.1, "float32")
    assert relative_size(defect, [0 * term, noise]).max() < 1e-3


def test_refined_to_interpolates_every_axis_that_is_too_coarse():
    def wave(nx, ny):
        x, y = np.arange(nx)[:, None] / nx, np.arange(ny) / ny
        return torch.from_numpy(np.cos(2 * np.pi * (2 * x + y)))[None]

    assert_allclose(refined_to(wave(8, 30), (12, 20)), wave(12, 30), atol=1e-14)
