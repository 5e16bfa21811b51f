"""Spectral stepping against exact solutions, observed orders, and independence of the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dlde.errors import GridError, InputError
from dlde.numerics.cole_hopf import cole_hopf_periodic
from dlde.numerics.spectral import Stepper, Transform, derivative, resample

torch.set_num_threads(1)
SCHEMES = ("if-rk4", "etdrk4")


def points(num_points, extent=1.0):
    return extent * torch.arange(num_points, dtype=torch.float64) / num_points


def random_field(batch, num_points, num_modes, seed=100):
    """Trigonometric polynomials whose coefficients fall like 1 / k^2."""
    generator = np.random.default_rng(seed)
    k = np.arange(1, num_modes + 1)[:, None]
    phase = 2 * np.pi * k * np.arange(num_points) / num_points
    cos, sin = generator.standard_normal((2, batch, num_modes)) / k[:, 0] ** 2
    return torch.from_numpy(cos @ np.cos(phase) + sin @ np.sin(phase))


def burgers(num_points, viscosity, scheme, extent=1.0):
    transform = Transform((num_points,), (extent,))
    (k,) = transform.wavenumbers()

    def advection(v):
        flux = torch.from_numpy(-0.5j * k).to(v)
        return flux * transform.forward(transform.backward(v) ** 2)

    return transform, Stepper(-viscosity * k**2, advection, scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_heat_equation_is_exact_for_any_step(scheme):
    transform = Transform((32,), (1.0,))
    (k,) = transform.wavenumbers()
    stepper = Stepper(-0.1 * k**2, torch.zeros_like, scheme)
    u0 = torch.sin(2 * torch.pi * 3 * points(32))[None]
    times = (0.0, 0.05, 0.3)
    u = transform.backward(stepper.solve(transform.forward(u0), times, dt=1.0))
    for index, t in enumerate(times):
        assert_allclose(u[:, index], u0 * np.exp(-0.1 * (6 * np.pi) ** 2 * t), atol=1e-14)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_advection_is_exact_for_any_step(scheme):
    transform = Transform((32,), (2.0,))
    (k,) = transform.wavenumbers()
    stepper = Stepper(-1j * 0.7 * k, torch.zeros_like, scheme)
    x = points(32, 2.0)
    u = transform.backward(stepper.solve(transform.forward(torch.sin(torch.pi * x)[None]), (0.9,), 0.4))
    assert_allclose(u[0, 0], torch.sin(torch.pi * (x - 0.63)), atol=1e-14)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_order_four_in_the_time_step(scheme):
    u0 = random_field(4, 256, 8)
    transform, stepper = burgers(256, 0.02, scheme)
    exact = cole_hopf_periodic(u0, (0.3,), extent=1.0, viscosity=0.02, tolerance=1e-12)
    errors = [
        (transform.backward(stepper.solve(transform.forward(u0), (0.3,), 0.3 / steps)) - exact).norm()
        for steps in (80, 160, 320)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert_allclose(orders, 4, atol=0.35)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_korteweg_de_vries_soliton(scheme):
    """u_t + 6 u u_x + u_xxx = 0 moves 2 q^2 sech^2(q (x - 4 q^2 t)) unchanged; a complex symbol."""
    transform = Transform((256,), (40.0,))
    (k,) = transform.wavenumbers()
    flux = torch.from_numpy(-3j * k)
    stepper = Stepper(1j * k**3, lambda v: flux * transform.forward(transform.backward(v) ** 2), scheme)
    x = points(256, 40.0)

    def soliton(t):
        return 0.5 / torch.cosh(0.5 * (x - 20 - t)) ** 2

    u = transform.backward(stepper.solve(transform.forward(soliton(0.0)[None]), (2.0,), 5e-3))
    assert_allclose(u[0, 0], soliton(2.0), atol=2e-7)  # 3e-8 is cut off by the period


@pytest.mark.parametrize("scheme", SCHEMES)
def test_taylor_green_vortex(scheme):
    """2-D vorticity: the vortex is a steady flow but for its decay exp(-2 nu k^2 t)."""
    transform = Transform((24, 32), (1.0, 1.0))
    kx, ky = transform.wavenumbers()
    laplacian = -(kx**2 + ky**2)
    inverse = np.divide(1, laplacian, out=np.zeros_like(laplacian), where=laplacian != 0)
    factors = [torch.from_numpy(f) for f in (-1j * ky * inverse, 1j * kx * inverse, 1j * kx, 1j * ky)]

    def advection(w):
        u, v, w_x, w_y = (transform.backward(factor * w) for factor in factors)
        return -transform.forward(u * w_x + v * w_y)

    x, y = np.meshgrid(np.arange(24) / 24, np.arange(32) / 32, indexing="ij")
    w0 = torch.from_numpy(np.cos(2 * np.pi * x) * np.cos(2 * np.pi * y))[None]
    stepper = Stepper(0.01 * laplacian, advection, scheme)
    w = transform.backward(stepper.solve(transform.forward(w0), (1.0,), 0.05))
    assert_allclose(w[:, 0], w0 * np.exp(-2 * 0.01 * (2 * np.pi) ** 2), atol=1e-13)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_single_precision_agrees(scheme):
    u0 = random_field(4, 128, 8)
    transform, stepper = burgers(128, 0.02, scheme)
    double = transform.backward(stepper.solve(transform.forward(u0), (0.5,), 1e-2))
    single = transform.backward(stepper.solve(transform.forward(u0.float()), (0.5,), 1e-2))
    assert single.dtype == torch.float32
    assert (single - double).norm() < 1e-5 * double.norm()  # 50 steps of 6e-8 each, and the FFTs'


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_sample_does_not_depend_on_its_batch(scheme, dtype):
    """To the bit: alone, beside others, and beside one that is not finite."""
    u0 = random_field(300, 128, 8).to(dtype)  # more than one cache block
    transform, stepper = burgers(128, 0.02, scheme)
    v0 = transform.forward(u0)
    together = stepper.solve(v0, (0.1,), 1e-2)
    for sample in (0, 7, 299):
        assert torch.equal(stepper.solve(v0[sample : sample + 1], (0.1,), 1e-2)[0], together[sample])
    v0[1] = torch.nan
    poisoned = stepper.solve(v0, (0.1,), 1e-2)
    assert poisoned[1].isnan().all()
    assert torch.equal(poisoned[[0, *range(2, 300)]], together[[0, *range(2, 300)]])


def test_solving_leaves_its_input_as_it_was():
    transform, stepper = burgers(64, 0.02, "if-rk4")
    v0 = transform.forward(random_field(2, 64, 8))
    before = v0.clone()
    stepper.solve(v0, (0.0, 0.1), 1e-2)
    assert torch.equal(v0, before)


def test_stored_times_are_met_by_shorter_steps():
    """Two intervals that are no multiples of dt: the end differs by the time-stepping error only."""
    transform, stepper = burgers(64, 0.02, "if-rk4")
    v0 = transform.forward(random_field(2, 64, 8))
    times = (0.0, 0.1234, 0.2)
    states = stepper.solve(v0, times, 2e-3)
    assert torch.equal(states[:, 0], v0)
    assert_allclose(states[:, 2], stepper.solve(v0, (0.2,), 2e-3)[:, 0], atol=1e-7)


@given(
    num_points=st.integers(4, 40), finer=st.integers(0, 40), rows=st.integers(0, 40), dealias=st.booleans()
)
@settings(deadline=None)
def test_transform_round_trip(num_points, finer, rows, dealias):
    """Forward undoes backward, on its own grid and a finer one, in 1-D and (rows > 0) 2-D."""
    shape = (num_points,) if rows < 4 else (rows, num_points)
    transform = Transform(shape, (1.0,) * len(shape), dealias=dealias)
    fine = tuple(n + finer for n in shape)
    field = transform.backward(
        transform.forward(torch.from_numpy(np.random.default_rng(100).random(fine))[None])
    )
    assert field.shape == (1, *shape)
    v = transform.forward(field)
    assert v.shape == (1, *transform.modes)
    assert_allclose(transform.backward(v), field, atol=1e-14)
    assert_allclose(transform.forward(transform.backward(v, fine)), v, atol=1e-14)


@given(num_modes=st.integers(1, 20), old=st.integers(3, 60), new=st.integers(1, 90))
@settings(deadline=None)
def test_resample_gives_the_values_of_the_polynomial(num_modes, old, new):
    num_modes = min(num_modes, (old - 1) // 2)
    field = random_field(2, old, num_modes)
    assert_allclose(resample(field, new), random_field(2, new, num_modes), atol=1e-13)


def test_resample_shares_the_highest_mode_of_an_even_grid():
    field = torch.cos(torch.pi * torch.arange(8.0, dtype=torch.float64))
    assert_allclose(
        resample(field, 16), torch.cos(torch.pi * torch.arange(16.0, dtype=torch.float64) / 2), atol=1e-14
    )


def test_backward_on_a_coarse_grid_takes_values():
    transform = Transform((64,), (1.0,))
    u = random_field(3, 64, 20)
    assert_allclose(transform.backward(transform.forward(u), (16,)), u[:, ::4], atol=1e-14)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_sample_may_have_its_own_symbol(scheme):
    """As if solved alone with that viscosity, also in more than one cache block."""
    u0 = random_field(300, 128, 8)
    viscosity = torch.linspace(0.01, 0.1, 300, dtype=torch.float64)
    transform, alike = burgers(128, 0.02, scheme)
    (k,) = transform.wavenumbers()
    v0 = transform.forward(u0)
    linear = -viscosity[:, None] * torch.from_numpy(k) ** 2
    together = Stepper(linear, alike.nonlinear, scheme).solve(v0, (0.1,), 1e-2)
    for sample in (0, 7, 299):
        _, alone = burgers(128, float(viscosity[sample]), scheme)
        assert_allclose(alone.solve(v0[sample : sample + 1], (0.1,), 1e-2)[0], together[sample], atol=1e-15)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_time_and_data_of_the_samples(scheme):
    """v_t = -v + a cos t has the solution exp(-t) (v0 - a / 2) + a (cos t + sin t) / 2; order 4."""
    a = torch.linspace(1, 2, 300, dtype=torch.float64)
    v0 = torch.zeros(300, 200, dtype=torch.complex128)

    def force(v, time, a):
        return torch.zeros_like(v).add_(a[:, None], alpha=np.cos(time))

    errors = []
    for steps in (4, 8, 16):
        v = Stepper(-np.ones(200), force, scheme, data=(a,)).solve(v0, (0.5, 1.0), 1 / steps)[:, 1]
        exact = a / 2 * (np.cos(1) + np.sin(1) - np.exp(-1))
        errors.append(float((v - exact[:, None]).abs().max()))
    assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 4, atol=0.4)
    assert errors[-1] < 1e-6


def test_complex_fields_and_higher_degrees():
    """A round trip of complex modes; a product of three fields is exact below its cut."""
    transform = Transform((17,), (1.0,), degree=3, real=False)
    assert transform.cuts == (4,)
    v = torch.randn(2, 9, dtype=torch.complex128, generator=torch.Generator().manual_seed(100))
    assert_allclose(transform.forward(transform.backward(v)), v, atol=1e-14)
    fine = Transform((64,), (1.0,), degree=3, real=False)
    cubes = [t.forward(t.backward(_padded(v, t.cuts[0])) ** 3)[:, :5] for t in (transform, fine)]
    assert_allclose(cubes[0], cubes[1], atol=1e-13)
    plane = Transform((12, 10), (1.0, 2.0), real=False)
    assert plane.modes == (7, 7)
    w = torch.randn(2, 7, 7, dtype=torch.complex128, generator=torch.Generator().manual_seed(100))
    assert_allclose(plane.forward(plane.backward(w, (20, 21))), w, atol=1e-14)


def _padded(v, cut):
    """The modes -4..4 among -cut..cut."""
    return torch.cat([v[:, :5], v.new_zeros(len(v), 2 * (cut - 4)), v[:, 5:]], dim=1)


@pytest.mark.parametrize("num_points", [31, 32])
def test_derivative_and_resampling_along_any_axis(num_points):
    u = random_field(3, num_points, 6)
    k = 2 * torch.pi / 0.5
    x = points(num_points, 0.5)
    assert_allclose(derivative(torch.sin(3 * k * x)[None], 0.5)[0], 3 * k * torch.cos(3 * k * x), atol=1e-12)
    assert_allclose(derivative(u[:, :, None], 2.0, 1)[..., 0], derivative(u, 2.0), atol=1e-14)
    assert_allclose(resample(u[:, :, None], 50, 1)[..., 0], resample(u, 50), atol=1e-15)
    highest = torch.cos(torch.pi * torch.arange(8.0, dtype=torch.float64))
    assert_allclose(derivative(highest, 1.0), 0, atol=1e-14)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_amplification_is_that_of_a_step(scheme):
    linear, rate = -np.linspace(0, 5, 7), 1j * np.linspace(0, 3, 7)
    stepper = Stepper(linear, lambda v: torch.from_numpy(rate) * v, scheme)
    v0 = torch.ones(1, 7, dtype=torch.complex128)
    assert_allclose(stepper.amplification(rate, 0.4), stepper.solve(v0, (0.4,), 1.0)[0, 0].abs(), rtol=1e-13)
    limit = 2 * np.sqrt(2)  # of Runge-Kutta 4 on the imaginary axis
    still = Stepper(np.zeros(2), torch.zeros_like)
    assert_allclose(still.amplification(1j * np.array([limit * 0.99, limit]), 1.0) <= 1 + 1e-12, True)
    assert (still.amplification(1j * np.array([1.01 * limit] * 2), 1.0) > 1).all()


def test_refusals():
    with pytest.raises(GridError, match="expected one or two axes"):
        Transform((8, 8, 8), (1.0, 1.0, 1.0))
    with pytest.raises(GridError, match="keeps no mode but the mean; use at least 4 points"):
        Transform((3,), (1.0,))
    transform, stepper = burgers(64, 0.02, "if-rk4")
    with pytest.raises(GridError, match=r"\(32,\) points cannot fill modes up to \(21,\)"):
        transform.forward(torch.zeros(1, 32))
    v0 = transform.forward(torch.zeros(1, 64))
    for times in ((), (-0.1,), (0.2, 0.1), (0.1, 0.1)):
        with pytest.raises(GridError, match="times must increase"):
            stepper.solve(v0, times, 1e-2)
    with pytest.raises(GridError, match="dt must be positive, got 0"):
        stepper.solve(v0, (0.1,), 0.0)
    with pytest.raises(GridError, match=r"modes \(5,\), but the linear symbol \(22,\)"):
        stepper.solve(v0[:, :5], (0.1,), 1e-2)
    with pytest.raises(GridError, match=r"v0 has 1 samples, but their data \[2\]"):
        Stepper(np.zeros(22), torch.zeros_like, data=(torch.zeros(2),)).solve(v0, (0.1,), 1e-2)
    with pytest.raises(InputError, match="unknown scheme 'rk4'; known: if-rk4, etdrk4"):
        Stepper(np.zeros(3), torch.zeros_like, "rk4")
