"""Cole-Hopf solutions against closed forms, an independent quadrature, and one another."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from dlde.errors import InputError
from dlde.numerics.cole_hopf import cole_hopf, cole_hopf_periodic

torch.set_num_threads(1)


def sine_grid(num_points=64):
    """-sin(pi x) on [-1, 1), as a batch of one."""
    x = torch.linspace(-1, 1, num_points + 1, dtype=torch.float64)[:-1]
    return x, -torch.sin(torch.pi * x)[None]


def on_the_line(x, t, viscosity, **options):
    return cole_hopf(
        x,
        t,
        velocity=lambda y: -torch.sin(torch.pi * y),
        potential=lambda y: torch.cos(torch.pi * y) / torch.pi,
        speed=1.0,
        viscosity=viscosity,
        **options,
    )


def test_gauss_hermite_quadrature_agrees_on_the_shock():
    """The formula of Basdevant et al. with 100 nodes, at viscosity 0.01 / pi."""
    nu, t = 0.01 / np.pi, 0.5
    z, weight = np.polynomial.hermite.hermgauss(100)
    x, u0 = sine_grid(256)
    y = x.numpy()[:, None] - 2 * np.sqrt(nu * t) * z
    density = weight * np.exp(-np.cos(np.pi * y) / (2 * np.pi * nu))
    expected = -(density * np.sin(np.pi * y)).sum(1) / density.sum(1)
    assert_allclose(on_the_line(x, t, nu), expected, atol=1e-10)
    assert_allclose(cole_hopf_periodic(u0, (t,), extent=2.0, viscosity=nu)[0, 0], expected, atol=1e-10)


@pytest.mark.parametrize("viscosity", [1.0, 0.05, 1e-3, 1e-4])
@pytest.mark.parametrize("t", [0.01, 0.7])
def test_the_line_and_the_period_agree(viscosity, t):
    """At viscosity 1e-4 the weights span exp(3000), and still nothing overflows."""
    x, u0 = sine_grid()
    periodic = cole_hopf_periodic(u0, (t,), extent=2.0, viscosity=viscosity)[0, 0]
    assert_allclose(periodic, on_the_line(x, t, viscosity), atol=1e-9)


def test_a_closed_form_with_a_mean_flow():
    """u = c - 2 nu theta_x / theta with theta = 1 + a exp(-nu k^2 t) cos k (x - c t)."""
    nu, a, c, t, k = 0.03, 0.6, 0.7, 0.4, 2 * np.pi
    x = torch.arange(200, dtype=torch.float64) / 200

    def solution(t):
        s, decay = k * (x - c * t), a * np.exp(-nu * k**2 * t)
        return c + 2 * nu * k * decay * torch.sin(s) / (1 + decay * torch.cos(s))

    initial = torch.stack([solution(0.0), solution(0.0) - c])
    u = cole_hopf_periodic(initial, (0.0, t), extent=1.0, viscosity=nu)
    assert torch.equal(u[:, 0], initial)
    assert_allclose(u[0, 1], solution(t), atol=1e-12)


def test_galilean_invariance_with_different_means_in_one_batch():
    """A mean of 1.5 carries the solution once round the period 2 in the time 4 / 3."""
    _, u0 = sine_grid(63)
    u = cole_hopf_periodic(torch.cat([u0, u0 + 1.5]), (4 / 3,), extent=2.0, viscosity=0.02)[:, 0]
    assert_allclose(u[1], u[0] + 1.5, atol=1e-11)


def test_travelling_wave_on_the_line():
    """u = c - a tanh(a (x - c t) / (2 nu)) moves unchanged."""
    nu, a, c, t = 0.05, 0.8, 0.3, 0.9
    x = torch.linspace(-1, 1, 41)

    def wave(x):
        return c - a * torch.tanh(a * x / (2 * nu))

    def potential(x):
        s = a * x / (2 * nu)
        return c * x - 2 * nu * (torch.logaddexp(s, -s))

    u = cole_hopf(x, t, velocity=wave, potential=potential, speed=1.1, viscosity=nu)
    assert u.dtype == torch.float64
    assert_allclose(u, wave(x.double() - c * t), atol=1e-9)


def test_rest_stays_at_rest():
    u = cole_hopf_periodic(torch.zeros(2, 16), (0.0, 1.0), extent=1.0, viscosity=0.1)
    assert torch.equal(u, torch.zeros(2, 2, 16, dtype=torch.float64))


def test_small_times_are_not_mistaken_for_agreement():
    """Where the kernel is narrower than the grid, nodes on the points alone would agree on u0."""
    x, u0 = sine_grid(32)
    t, nu = 1e-4, 0.01
    u = cole_hopf_periodic(u0, (t,), extent=2.0, viscosity=nu)[0, 0]
    rate = -u0[0] * -torch.pi * torch.cos(torch.pi * x) - nu * torch.pi**2 * u0[0]
    assert_allclose(u, u0[0] + t * rate, atol=2e-7)  # t^2 u_tt / 2


def test_too_few_nodes_are_refused():
    x, u0 = sine_grid()
    with pytest.raises(InputError, match="1024 nodes reach too few to begin with, not the tolerance"):
        cole_hopf_periodic(u0, (1e-6,), extent=2.0, viscosity=0.01, max_nodes=1024)
    with pytest.raises(InputError, match=r"128 nodes reach an error of .* Use a larger viscosity") as caught:
        cole_hopf_periodic(u0, (1.0,), extent=2.0, viscosity=1e-3, max_nodes=128)
    assert caught.value.viscosity == 1e-3
    assert caught.value.error > 1e-9
    with pytest.raises(InputError, match="128 nodes reach"):
        on_the_line(x, 1.0, 1e-3, max_nodes=128)
    with pytest.raises(InputError, match="viscosity > 0 and time > 0, got 0 and 1"):
        on_the_line(x, 1.0, 0.0)
    with pytest.raises(InputError, match=r"got 0\.1 and -1"):
        cole_hopf_periodic(u0, (-1.0,), extent=2.0, viscosity=0.1)
