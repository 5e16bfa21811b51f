"""Gaussian random fields: their spectrum, and the same instance on every grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dlde.errors import GridError
from dlde.numerics.random_fields import gaussian_field, pointwise_std, spectral_std

PAPER = {"exponent": 2.0, "tau": 5.0, "sigma": 25.0}


def draw(num_points, seed=100, extent=(1.0, 1.0), num_modes=16, **law):
    generator = np.random.default_rng(seed)
    num_points = tuple(np.atleast_1d(num_points).tolist())
    extent = extent[: len(num_points)]
    return gaussian_field(generator, num_points, extent, num_modes=num_modes, **(law or PAPER))


def test_standard_deviations_are_the_papers():
    """sqrt(2) * 25 / ((2 pi k)^2 + 25); the repository's law is sqrt(2) * 49 / (... + 49)^1.25."""
    squared = (2 * np.pi * np.arange(1, 9)) ** 2
    assert_allclose(spectral_std(squared, **PAPER), np.sqrt(2) * 25 / (squared + 25), rtol=1e-14)
    hard = spectral_std(squared, exponent=2.5, tau=7.0, sigma=49.0)
    assert_allclose(hard, np.sqrt(2) * 49 * (squared + 49) ** -1.25, rtol=1e-14)


def test_spectrum_of_many_draws():
    """Every cos and sin coefficient has the stated variance, and the two are independent."""
    generator = np.random.default_rng(100)
    fields = np.stack([gaussian_field(generator, (64,), (2.0,), num_modes=8, **PAPER) for _ in range(4000)])
    coefficients = np.fft.rfft(fields, norm="forward")
    assert np.abs(coefficients[:, [0, *range(9, 33)]]).max() < 1e-15
    cos, sin = 2 * coefficients[:, 1:9].real, -2 * coefficients[:, 1:9].imag
    std = spectral_std((2 * np.pi * np.arange(1, 9) / 2.0) ** 2, **PAPER)
    for part in (cos, sin):  # a variance of 4000 draws scatters by sqrt(2 / 4000) = 2.2 %
        assert_allclose(part.var(0), std**2, rtol=0.09)
    assert_allclose(pointwise_std((2.0,), num_modes=8, **PAPER) ** 2, (std**2).sum(), rtol=1e-14)
    assert np.abs((cos * sin).mean(0) / std**2).max() < 4 / np.sqrt(4000)


def test_covariance_of_many_draws_in_two_dimensions():
    """Equal variance at every point, and the sum of the modes' variances."""
    generator = np.random.default_rng(100)
    law = {"exponent": 2.5, "tau": 7.0, "sigma": 7.0**1.5}
    fields = np.stack(
        [gaussian_field(generator, (12, 10), (1.0, 1.0), num_modes=3, **law) for _ in range(4000)]
    )
    k = 2 * np.pi * np.arange(-3, 4)
    squared = k[:, None] ** 2 + k**2
    variance = spectral_std(squared, **law) ** 2 / 2  # half: each pair +-k is one mode
    variance[3, 3] = 0
    assert_allclose(pointwise_std((1.0, 1.0), num_modes=3, **law) ** 2, variance.sum(), rtol=1e-14)
    assert_allclose(fields.var(0), variance.sum(), rtol=0.12)
    lag = (fields * np.roll(fields, (-3, 2), (1, 2))).mean()
    phase = 2 * np.pi * (np.arange(-3, 4)[:, None] * 3 / 12 - np.arange(-3, 4) * 2 / 10)
    assert_allclose(lag, (variance * np.cos(phase)).sum(), atol=0.02 * variance.sum())
    assert np.abs(fields.mean((1, 2))).max() < 1e-15


@given(num_points=st.integers(1, 50), stride=st.integers(1, 5), num_modes=st.integers(1, 20))
@settings(deadline=None)
def test_a_finer_grid_shows_the_same_instance(num_points, stride, num_modes):
    """Also where the coarse grid cannot hold the modes; to rounding."""
    fine = draw(num_points * stride, num_modes=num_modes)
    assert_allclose(draw(num_points, num_modes=num_modes), fine[::stride], atol=1e-13)
    plane = draw((num_points, 3 * stride), num_modes=num_modes)
    finer = draw((2 * num_points, 3), num_modes=num_modes)
    assert_allclose(plane[:, ::stride], finer[::2], atol=1e-12)


def test_every_grid_leaves_the_generator_alike():
    after = []
    for num_points in (8, 64, 100):
        generator = np.random.default_rng(100)
        gaussian_field(generator, (num_points,), (1.0,), num_modes=16, **PAPER)
        after.append(generator.random())
    assert len(set(after)) == 1


def test_more_modes_add_detail_to_the_same_instance():
    few, many = draw(64, num_modes=4), draw(64, num_modes=16)
    coefficients = np.fft.rfft(many)
    coefficients[5:] = 0
    assert_allclose(np.fft.irfft(coefficients), few, atol=1e-14)


def test_refuses_axes_that_do_not_match():
    with pytest.raises(GridError, match="expected one or two axes, the same number in both"):
        gaussian_field(np.random.default_rng(100), (8, 8), (1.0,), num_modes=2, **PAPER)
