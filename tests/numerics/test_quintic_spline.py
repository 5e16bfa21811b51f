"""Quintic splines in time: exact for quintics, of order 6, and scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import make_interp_spline

from dlde.errors import GridError
from dlde.numerics.quintic_spline import Spline

TIMES = np.linspace(0, 2, 57)


def values_of(spline: Spline) -> np.ndarray:
    return torch.stack([spline(t) for t in TIMES], 1).numpy()


def test_quintics_are_met_exactly() -> None:
    coefficients = np.random.default_rng(0).standard_normal((3, 6))
    places = np.linspace(0, 2, 9)
    values = np.stack([np.polyval(c, places) for c in coefficients])
    expected = np.stack([np.polyval(c, TIMES) for c in coefficients])
    np.testing.assert_allclose(values_of(Spline(torch.from_numpy(values), 2.0)), expected, atol=1e-12)


def test_it_is_the_interpolating_spline_of_scipy() -> None:
    places = np.linspace(0, 2, 12)
    values = np.random.default_rng(1).standard_normal((4, 12))
    expected = make_interp_spline(places, values.T, k=5)(TIMES).T
    np.testing.assert_allclose(values_of(Spline(torch.from_numpy(values), 2.0)), expected, atol=1e-12)


def test_the_error_falls_with_the_sixth_power_of_the_spacing() -> None:
    errors = []
    for num_points in (21, 41, 81):
        places = torch.linspace(0, 2, num_points, dtype=torch.float64)
        spline = Spline(torch.sin(3 * places)[None], 2.0)
        errors.append(np.abs(values_of(spline)[0] - np.sin(3 * TIMES)).max())
    assert np.all(np.log2(np.divide(errors[:-1], errors[1:])) > 5.5)


def test_too_few_values_are_refused() -> None:
    with pytest.raises(GridError, match=r"shape \(1, 5\): expected \(batch, num_points >= 6\)"):
        Spline(torch.zeros(1, 5), 1.0)
