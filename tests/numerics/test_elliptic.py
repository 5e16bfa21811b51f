"""Transforms, interpolation, finite volumes and multigrid, each against an exact answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from dlde.numerics.elliptic import (
    balance,
    between_walls,
    diagonal,
    element_balance,
    interpolated,
    mean_in_cells,
    network,
    second_derivative,
    second_difference,
    sine_transform,
    solve_directly,
    solve_poisson,
    wall_field,
)
from dlde.numerics.multigrid import Multigrid, conjugate_gradients, solve_by_multigrid

torch.set_num_threads(1)


def nodes(nx, ny):
    return torch.meshgrid(*(torch.linspace(0, 1, n, dtype=torch.float64) for n in (nx, ny)), indexing="ij")


def media(count, shape, seed=0, sigma=12.0):
    """Log-normal, contrast of about 1e3 at sigma 12."""
    generator = np.random.default_rng(seed)
    fields = [
        wall_field(generator, shape, (1, 1), exponent=2, tau=3, sigma=sigma, num_modes=16, zero="slope")
        for _ in range(count)
    ]
    return torch.from_numpy(np.exp(np.stack(fields)))


def white(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def test_sine_transform_is_its_own_inverse():
    field = white(3, 6, 9)
    i, j = np.arange(1, 7), np.arange(1, 10)
    by_hand = np.einsum(
        "ki,bij,jl->bkl", np.sin(np.pi * np.outer(i, i) / 7), field, np.sin(np.pi * np.outer(j, j) / 10)
    )
    np.testing.assert_allclose(sine_transform(field), by_hand, atol=1e-13)
    torch.testing.assert_close(sine_transform(sine_transform(field)), field * 70 / 4)


def test_poisson_inverts_both_laplacians():
    u = white(2, 12, 8)
    links = network(torch.ones(2, 14, 10, dtype=torch.float64), (13, 9))
    source = balance(links, pad(u, (1, 1, 1, 1))) * 13 * 9
    torch.testing.assert_close(
        solve_poisson(source, (second_difference(13, 1.0), second_difference(9, 1.0))), u
    )
    x, y = nodes(14, 10)
    wave = (torch.sin(3 * torch.pi * x) * torch.sin(torch.pi * y))[None, 1:-1, 1:-1]
    exact = solve_poisson(10 * torch.pi**2 * wave, (second_derivative(13, 1.0), second_derivative(9, 1.0)))
    torch.testing.assert_close(exact, wave)


def test_sines_are_interpolated_exactly_and_polynomials_by_splines():
    (x, y), (fine_x, fine_y) = nodes(12, 15), nodes(40, 9)
    wave, finer = (
        torch.sin(7 * torch.pi * a) * torch.sin(2 * torch.pi * b) for a, b in ((x, y), (fine_x, fine_y))
    )
    torch.testing.assert_close(between_walls(wave[None], (40, 9))[0], finer, rtol=0, atol=1e-13)
    quintic, wanted = (a**5 - 2 * b**4 * a + 1 for a, b in ((x, y), (fine_x, fine_y)))
    torch.testing.assert_close(interpolated(quintic[None], (40, 9))[0], wanted, rtol=0, atol=1e-12)
    assert torch.equal(interpolated(wave[None], (12, 8))[0], wave[:, ::2])


@pytest.mark.parametrize("zero", ["value", "slope"])
def test_fields_with_walls(zero):
    """What vanishes there, the covariance's trace, and the same instance on a finer grid."""
    law = {"exponent": 2.0, "tau": 3.0, "sigma": 2.0, "num_modes": 8, "zero": zero}
    coarse = wall_field(np.random.default_rng(3), (33, 17), (2.0, 1.0), **law)
    fine = wall_field(np.random.default_rng(3), (65, 65), (2.0, 1.0), **law)
    np.testing.assert_allclose(coarse, fine[::2, ::4], atol=1e-13)
    if zero == "value":
        assert not fine[[0, -1]].any()
        assert not fine[:, [0, -1]].any()
    else:
        slope = fine[1] - fine[0], fine[:, -1] - fine[:, -2]
        assert max(np.abs(s).max() for s in slope) < 0.05 * np.abs(np.diff(fine, axis=0)).max() + 0.01
        assert abs(np.trapezoid(np.trapezoid(fine, axis=0), axis=0)) < 1e-9
    k = np.pi * np.arange(1, 9) if zero == "value" else np.pi * np.arange(8)
    variance = 4.0 * (((k / 2) ** 2)[:, None] + k**2 + 9) ** -2.0
    if zero == "slope":
        variance[0, 0] = 0
    generator = np.random.default_rng(0)
    drawn = [wall_field(generator, (17, 17), (2.0, 1.0), **law) ** 2 for _ in range(400)]
    weights = np.outer(*[np.r_[0.5, np.ones(15), 0.5] / 16] * 2)
    assert 2.0 * (np.mean(drawn, 0) * weights).sum() == pytest.approx(variance.sum(), rel=0.1)


def test_on_its_own_grid_conductances_are_harmonic_means():
    a = media(2, (6, 9))
    along_x, along_y = network(a, (5, 8))
    harmonic = 2 * a[:, 1:] * a[:, :-1] / (a[:, 1:] + a[:, :-1])
    torch.testing.assert_close(along_x, harmonic[:, :, 1:-1] * 5 / 8)
    harmonic = 2 * a[:, :, 1:] * a[:, :, :-1] / (a[:, :, 1:] + a[:, :, :-1])
    torch.testing.assert_close(along_y, harmonic[:, 1:-1] * 8 / 5)


@pytest.mark.parametrize("cells", [5, 10, 15, 7])
def test_layers_conduct_as_series_and_parallel_whatever_the_grid(cells):
    """A medium of layers: across them resistances add up, along them conductances."""
    a = torch.tensor([1.0, 4.0, 2.0, 8.0, 3.0, 5.0], dtype=torch.float64)
    width = torch.tensor([0.5, 1, 1, 1, 1, 0.5], dtype=torch.float64) / 5
    along_x, along_y = network(a[None, :, None].expand(1, 6, 6).contiguous(), (cells, cells))
    torch.testing.assert_close(1 / (1 / along_x).sum(1), (1 / (width / a).sum() / cells).expand(1, cells - 1))
    inner = mean_in_cells(a[None, :, None].expand(1, 6, 6).contiguous(), (cells, cells))
    torch.testing.assert_close(inner.mean(), (width * a).sum())
    assert along_y.min() >= 1
    assert along_y.max() <= 8
    torch.testing.assert_close(along_y, along_y[:, :, :1].expand_as(along_y))


@pytest.mark.parametrize("form", ["volumes", "elements"])
def test_a_smooth_coefficient_is_met_with_order_two(form):
    """u = sin(pi x) sin(2 pi y), a = 1 + x y / 2 + x^2: the balance against the integral of f."""
    errors = []
    for cells in (16, 32, 64):
        x, y = nodes(cells + 1, cells + 1)
        a = 1 + x * y / 2 + x**2
        u = torch.sin(torch.pi * x) * torch.sin(2 * torch.pi * y)
        u_x = torch.pi * torch.cos(torch.pi * x) * torch.sin(2 * torch.pi * y)
        u_y = 2 * torch.pi * torch.sin(torch.pi * x) * torch.cos(2 * torch.pi * y)
        f = (5 * torch.pi**2 * a * u - (y / 2 + 2 * x) * u_x - x / 2 * u_y)[1:-1, 1:-1]
        if form == "volumes":
            solved = solve_directly(network(a[None], (cells, cells)), f[None] / cells**2)[0]
            errors.append((solved - u[1:-1, 1:-1]).abs().max())
        else:
            middle_x, middle_y = ((q[1:, 1:] + q[:-1, :-1]) / 2 for q in (x, y))
            inner = 1 + middle_x * middle_y / 2 + middle_x**2
            missing = element_balance(inner[None], u[None])[0] * cells**2 - f
            errors.append(sine_transform(missing)[:4, :4].abs().max() / cells**2)
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert 1.9 < orders.min() <= orders.max() < 2.1


@pytest.mark.parametrize("shape", [(34, 34), (33, 33), (20, 41), (5, 4), (3, 3), (4, 70)])
def test_multigrid_agrees_with_the_direct_solver(shape):
    a = media(3, shape)
    links = network(a, tuple(n - 1 for n in shape))
    rhs = white(3, shape[0] - 2, shape[1] - 2)
    u, v = solve_by_multigrid(links, rhs, tolerance=1e-12), solve_directly(links, rhs)
    assert a.amax() / a.amin() > 50
    assert ((u - v).flatten(1).norm(dim=1) / v.flatten(1).norm(dim=1)).max() < 1e-9
    torch.testing.assert_close(balance(links, pad(v, (1, 1, 1, 1))), rhs)


def test_the_v_cycle_is_symmetric_and_positive():
    links = network(media(1, (23, 12)), (22, 11))
    cycle, unit = Multigrid(links), torch.eye(21 * 10, dtype=torch.float64).view(-1, 21, 10)
    alike = tuple(c.expand(len(unit), -1, -1) for c in links)
    matrix = Multigrid(alike)(unit).flatten(1)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-12 * float(matrix.abs().max()))
    assert torch.linalg.eigvalsh(matrix).min() > 0
    torch.testing.assert_close(cycle(unit[7:8])[0].flatten(), matrix[7])


def test_iterations_do_not_grow_with_the_grid():
    counts = []
    for cells in (32, 64, 128):
        links = network(media(2, (cells + 1, cells + 1)), (cells, cells))
        cycle, used = Multigrid(links), []
        conjugate_gradients(
            lambda u, links=links: balance(links, pad(u, (1, 1, 1, 1))),
            torch.ones(2, cells - 1, cells - 1, dtype=torch.float64),
            preconditioner=lambda r, cycle=cycle, used=used: used.append(1) or cycle(r),
            tolerance=1e-10,
            max_iterations=60,
            every=1,
        )
        counts.append(len(used))
    assert max(counts) <= 20
    assert counts[-1] <= counts[0] + 3


def test_a_sample_does_not_depend_on_its_batch():
    a = media(5, (34, 34))
    rhs = white(5, 32, 32)
    rhs[1] *= 1e-8
    rhs[2] = 0
    together = solve_by_multigrid(network(a, (33, 33)), rhs, tolerance=1e-11)
    for number in (1, 3):
        one = slice(number, number + 1)
        alone = solve_by_multigrid(network(a[one], (33, 33)), rhs[one], tolerance=1e-11)
        assert torch.equal(alone[0], together[number])
    assert not together[2].any()
    a[0, 3, 3] = torch.nan
    poisoned = solve_by_multigrid(network(a, (33, 33)), rhs, tolerance=1e-11)
    assert torch.equal(poisoned[1:], together[1:])
    assert poisoned[0].isnan().all()


def test_what_does_not_converge_is_marked():
    links = network(media(2, (34, 34)), (33, 33))
    rhs = white(2, 32, 32)
    rhs[0] = 0
    u = solve_by_multigrid(links, rhs, tolerance=1e-12, max_iterations=3)
    assert not u[0].any()
    assert u[1].isnan().all()
    assert diagonal(links).min() > 0
