"""The advection of vorticity: against its definition, and its invariants."""

import numpy as np
import torch
from numpy.testing import assert_allclose

from dlde.numerics.spectral import Transform
from dlde.numerics.vorticity import VorticityAdvection

torch.set_num_threads(1)


def test_advection_is_that_of_the_equation():
    """Against -(u w_x + v w_y) by products of spectral derivatives on a grid without aliasing."""
    transform = Transform((20, 26), (1.0, 2.0))
    generator = np.random.default_rng(0)
    w = transform.forward(torch.from_numpy(generator.standard_normal((2, 20, 26))))
    w[:, 0, 0] = 0
    kx, ky = (torch.from_numpy(k) for k in transform.wavenumbers())
    advection = VorticityAdvection(transform, w)
    u, v = (transform.backward(part, (40, 52)) for part in advection.velocity(w))
    w_x, w_y = (transform.backward(1j * k * w, (40, 52)) for k in (kx, ky))
    assert_allclose(advection(w), transform.forward(-u * w_x - v * w_y), atol=1e-11)
    spin = transform.backward(1j * kx * advection.velocity(w)[1] - 1j * ky * advection.velocity(w)[0])
    assert_allclose(spin, transform.backward(w), atol=1e-11)
    assert_allclose(1j * kx * advection.velocity(w)[0] + 1j * ky * advection.velocity(w)[1], 0, atol=1e-14)


def test_advection_keeps_energy_and_enstrophy():
    """Both are invariants of the truncated flow without viscosity, too."""
    transform = Transform((32, 32), (1.0, 1.0))
    w = transform.forward(torch.from_numpy(np.random.default_rng(1).standard_normal((2, 32, 32))))
    w[:, 0, 0] = 0
    kx, ky = (torch.from_numpy(k) for k in transform.wavenumbers())
    change = transform.backward(VorticityAdvection(transform, w)(w), (64, 64))
    squared = kx**2 + ky**2
    psi = transform.backward(w / squared.clamp(min=1), (64, 64))
    for weight in (psi, transform.backward(w, (64, 64))):
        size = weight.flatten(1).norm(dim=1) * change.flatten(1).norm(dim=1)
        assert ((weight * change).sum((1, 2)).abs() < 1e-13 * size).all()
