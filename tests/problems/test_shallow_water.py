"""Shallow water: the published step, standing waves, volume, energy, order, and refusals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from dlde import catalog
from dlde.datasets.recipe import Recipe
from dlde.errors import GridError, InputError, SpecError
from dlde.numerics.shallow_water import Basin, gaussian_basis
from dlde.problem import Solvable, Solver
from dlde.problems.shallow_water import Bed, ShallowWater

torch.set_num_threads(1)
PROBLEM = ShallowWater()
STILL = ShallowWater(drag=0.0, viscosity=0.0)


def instances(problem, axes, count=3, seed=1):
    generator = np.random.default_rng(seed)
    drawn = [problem.draw(generator, axes) for _ in range(count)]
    return {name: torch.from_numpy(np.stack([d[name] for d in drawn])) for name in drawn[0]}


def relative_l2(a, b):
    return (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)


def written_out(zeta, u, v, d, dt, dx, dy, g, drag, nu, w):
    """One step by the card's formulas, cell by cell, and a dense matrix. u, v (nx, ny), zero at the walls."""
    nx, ny = zeta.shape
    h = d + zeta

    def at(a, i, j):
        return a[i, j] if 0 <= i < nx and 0 <= j < ny else 0.0

    us, vs, east, north = (np.zeros((nx, ny)) for _ in range(4))
    for i in range(nx):
        for j in range(ny):
            for a, s, c, di, dj, spacing in ((u, us, east, 1, 0, dx), (v, vs, north, 0, 1, dy)):
                if i + di == nx or j + dj == ny:
                    continue
                face = (h[i, j] + h[i + di, j + dj]) / 2
                s[i, j] = (
                    a[i, j]
                    - dt * drag / face * a[i, j] * abs(a[i, j])
                    - (1 - w) * dt * g * (zeta[i + di, j + dj] - zeta[i, j]) / spacing
                    + dt * nu * (at(a, i + 1, j) + at(a, i - 1, j) - 2 * a[i, j]) / dx**2
                    + dt * nu * (at(a, i, j + 1) + at(a, i, j - 1) - 2 * a[i, j]) / dy**2
                )
                c[i, j] = face
    matrix, right = np.zeros((nx * ny, nx * ny)), np.zeros(nx * ny)
    for i in range(nx):
        for j in range(ny):
            k = i * ny + j
            matrix[k, k] += 1
            right[k] = zeta[i, j]
            for c, a, s, di, dj, spacing in ((east, u, us, 1, 0, dx), (north, v, vs, 0, 1, dy)):
                for ii, jj, sign in ((i, j, 1), (i - di, j - dj, -1)):
                    face = at(c, ii, jj)
                    if not face:
                        continue
                    other = (i + sign * di) * ny + j + sign * dj
                    weight = dt**2 / spacing**2 * w**2 * g * face
                    matrix[k, k] += weight
                    matrix[k, other] -= weight
                    right[k] -= sign * dt / spacing * face * ((1 - w) * a[ii, jj] + w * s[ii, jj])
    new = np.linalg.solve(matrix, right).reshape(nx, ny)
    un, vn = us.copy(), vs.copy()
    un[:-1] -= w * dt * g * np.diff(new, axis=0) / dx
    vn[:, :-1] -= w * dt * g * np.diff(new, axis=1) / dy
    return new, un, vn


@pytest.mark.parametrize("implicitness", [0.5, 0.8])
def test_one_step_is_the_published_one(implicitness):
    generator = np.random.default_rng(0)
    zeta, u, v = generator.standard_normal((3, 6, 5))
    depth = 15 + generator.standard_normal((6, 5))
    u[-1] = v[:, -1] = 0
    expected = written_out(zeta, u, v, depth, 1500.0, 1e4, 8e3, 9.81, 1e-3, 1e3, implicitness)
    problem = ShallowWater(extent=(6e4, 4e4), implicitness=implicitness)
    axes = problem.axes((6, 5))
    given = {"depth": depth, "height": zeta, "u": u, "v": v}
    solution = problem.solve(
        {k: torch.from_numpy(a)[None] for k, a in given.items()}, axes, (1500.0,), Solver(dt=1500.0)
    )
    for name, value in zip(("height", "u", "v"), expected, strict=True):
        np.testing.assert_allclose(solution[name][0, 0], value, rtol=1e-9, atol=1e-10)


def standing_wave(cells, amplitude=1e-7):
    """cos(pi x / X) cos(2 pi y / Y) cos(omega t) over a flat bed of 16 m, and its omega."""
    axes = STILL.axes((cells, cells))
    x, y = (np.cos(k * np.pi * a.points / 3.2e5) for k, a in zip((1, 2), axes.values(), strict=True))
    height = torch.from_numpy(amplitude * np.outer(x, y))[None]
    omega = math.sqrt(9.81 * 16 * 5) * math.pi / 3.2e5
    return axes, {"height": height, "depth": torch.full_like(height, 16.0)}, omega


def test_a_standing_wave_with_order_two():
    """Cells and step refined together; small enough that the equations are linear."""
    times, errors = (0.0, 5000.0, 12000.0), []
    for cells in (12, 24, 48):
        axes, given, omega = standing_wave(cells)
        solution = STILL.solve(given, axes, times, Solver(dt=6400 / cells))
        exact = given["height"][:, None] * torch.cos(omega * torch.tensor(times)).view(3, 1, 1)
        assert not solution["u"][:, :, -1].any()
        assert not solution["v"][..., -1].any()
        errors.append((solution["height"] - exact).norm() / exact.norm())
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert 1.9 < orders.min() <= orders.max() < 2.1
    assert errors[-1] < 4e-3


@pytest.mark.parametrize("dt", [300.0, 1500.0, 20000.0])
def test_energy_without_friction_is_kept_by_any_step(dt):
    """Crank-Nicolson; more weight on the new time takes energy."""
    axes, given, _ = standing_wave(8)
    given["height"][0, 3, 4] += 3e-7
    times = (0.0, 5 * dt, 20 * dt)
    energy = STILL.energy(STILL.solve(given, axes, times, Solver(dt=dt)), axes)
    torch.testing.assert_close(energy, energy[:, :1].expand(-1, 3), rtol=1e-6, atol=0)
    damped = STILL.model_copy(update={"implicitness": 0.7})
    energy = damped.energy(damped.solve(given, axes, times, Solver(dt=dt)), axes)[0]
    assert energy[2] < energy[1] < energy[0]


def test_friction_takes_energy_and_water_stays():
    axes = PROBLEM.axes((20, 20))
    given = instances(PROBLEM, axes)
    times = (0.0, 3000.0, 9000.0, 18000.0)
    solution = PROBLEM.solve(given, axes, times, Solver(dt=150.0))
    assert solution["height"].shape == solution["u"].shape == (3, 4, 20, 20)
    assert torch.equal(solution["height"][:, 0], given["height"])
    assert torch.equal(solution["depth"], given["depth"])
    mean = PROBLEM.conserved(solution, axes)["mean height"]
    assert mean.min() > 1e-4
    torch.testing.assert_close(mean, mean[:, :1].expand(-1, 4), rtol=1e-13, atol=0)
    assert (torch.diff(PROBLEM.energy(solution, axes), dim=1) < 0).all()


def test_a_lake_at_rest_stays():
    axes = PROBLEM.axes((12, 12))
    given = instances(PROBLEM, axes)
    given["height"] = torch.full_like(given["height"], 0.3)
    solution = PROBLEM.solve(given, axes, (9000.0,), Solver(dt=1500.0))
    torch.testing.assert_close(solution["height"][:, 0], given["height"], rtol=1e-14, atol=0)
    assert solution["u"].abs().max() < 1e-14


@pytest.mark.parametrize(("problem", "high"), [(STILL, 2.1), (PROBLEM, 2.5)], ids=["still", "friction"])
def test_observed_order_and_defect(problem, high):
    """Of random instances in the step; friction's part, of order 1, is small and of the other sign."""
    axes = problem.axes((12, 12))
    given = instances(problem, axes)
    solver, heights, defects = Solver(dt=150.0), [], []
    for _ in range(3):
        heights.append(problem.solve(given, axes, (1500.0,), solver)["height"])
        defects.append(problem.defect(given, axes, (1500.0,), solver))
        solver = problem.finer(solver, axes)
    assert solver.dt == 150 / 8
    first, second = ((b - a).norm() for a, b in itertools.pairwise(heights))
    assert 1.9 < torch.log2(first / second) < high
    assert set(defects[0]) == {"continuity", "momentum along x", "momentum along y"}
    for name in defects[0]:
        assert defects[0][name].shape == (3,)
        assert defects[1][name].max() < 2e-3
        assert defects[2][name].max() < 0.6 * defects[1][name].max()


def test_turning_the_basin_turns_the_water():
    axes = PROBLEM.axes((10, 14))
    given = instances(PROBLEM, axes)
    solution = PROBLEM.solve(given, axes, (6000.0,), Solver(dt=500.0))
    turned = PROBLEM.solve(
        {name: value.mT.contiguous() for name, value in given.items()},
        PROBLEM.axes((14, 10)),
        (6000.0,),
        Solver(dt=500.0),
    )
    for name, other in (("height", "height"), ("u", "v"), ("v", "u")):
        torch.testing.assert_close(turned[other].mT, solution[name], rtol=0, atol=1e-10)


def test_goes_on_from_where_it_was():
    """A user's velocities are taken; in two runs or in one, to the bit."""
    axes = PROBLEM.axes((12, 12))
    given = instances(PROBLEM, axes)
    whole = PROBLEM.solve(given, axes, (1500.0, 4500.0), Solver(dt=300.0))
    middle = {name: whole[name][:, 0] for name in ("height", "u", "v")} | {"depth": given["depth"]}
    rest = PROBLEM.solve(middle, axes, (3000.0,), Solver(dt=300.0))
    for name in ("height", "u", "v"):
        assert torch.equal(rest[name][:, 0], whole[name][:, 1])


def test_a_sample_does_not_depend_on_its_batch():
    axes = PROBLEM.axes((12, 12))
    given = instances(PROBLEM, axes, 5)
    together = PROBLEM.solve(given, axes, (9000.0,), Solver(dt=1500.0))
    alone = PROBLEM.solve({k: a[3:4] for k, a in given.items()}, axes, (9000.0,), Solver(dt=1500.0))
    spoiled = {k: a.clone() for k, a in given.items()}
    spoiled["height"][0, 2, 2] = torch.nan
    poisoned = PROBLEM.solve(spoiled, axes, (9000.0,), Solver(dt=1500.0))
    for name in ("height", "u", "v"):
        assert torch.equal(alone[name][0], together[name][3])
        assert torch.equal(poisoned[name][1:], together[name][1:])
    assert poisoned["height"][0].isnan().all()


def test_single_precision_agrees():
    axes = PROBLEM.axes((12, 12))
    given = instances(PROBLEM, axes)
    single = PROBLEM.solve(given, axes, (9000.0,), Solver(dt=300.0, precision="float32"))["height"]
    assert single.dtype == torch.float64
    assert relative_l2(single, PROBLEM.solve(given, axes, (9000.0,), Solver(dt=300.0))["height"]).max() < 1e-3


def test_finer_cells_show_the_same_instance():
    few, many = (instances(PROBLEM, PROBLEM.axes((n, n))) for n in (16, 48))
    torch.testing.assert_close(few["depth"], many["depth"][:, 1::3, 1::3], rtol=0, atol=1e-11)
    pooled = torch.nn.functional.avg_pool2d(many["height"], 3)
    torch.testing.assert_close(few["height"], pooled, rtol=0, atol=1e-14)


def test_the_laws_of_bed_and_bump():
    """Covariance 5 exp(-r^2 / (100 km)^2); squares of 5 to 10 cells, 5 to 15 cm high."""
    points = np.linspace(0, 3.2e5, 9)
    basis = gaussian_basis(points, length=1e5, extent=3.2e5)
    distance = points[:, None] - points
    np.testing.assert_allclose(basis @ basis.T, np.exp(-((distance / 1e5) ** 2)), atol=1e-8)
    assert basis.shape[1] == gaussian_basis(points[:2], length=1e5, extent=3.2e5).shape[1]
    given = instances(PROBLEM, PROBLEM.axes((32, 32)), 60)
    assert float(given["depth"].mean()) == pytest.approx(15, abs=0.5)
    assert float((given["depth"] - 15).square().mean()) == pytest.approx(5, rel=0.25)
    assert given["depth"].min() > 0
    top = given["height"].amax((1, 2))
    assert 0.05 <= top.min() < top.max() <= 0.15
    area = given["height"].sum((1, 2)) / top
    assert area.max() <= 100 + 1e-9
    assert area.median() > 25


def test_a_bed_near_the_surface_is_drawn_again():
    shallow = ShallowWater(bed=Bed(mean=5.0, variance=6.0))
    assert instances(shallow, shallow.axes((20, 20)), 10)["depth"].min() > 0


def test_meaningless_input_is_refused():
    with pytest.raises(GridError, match="two spatial axes, x and y"):
        PROBLEM.axes((32,))
    with pytest.raises(GridError, match="at least 4 cells per axis"):
        PROBLEM.axes((3, 8))
    axes = PROBLEM.axes((32, 32))
    assert axes["x"].points[0] == 5000.0
    with pytest.raises(GridError, match=r"solver.num_points=64: .* on its stored cells, \(32, 32\)"):
        PROBLEM.check_solver(axes, (0.0,), Solver(num_points=64))
    with pytest.raises(GridError, match=r"solver.dt=30000 s is unstable: .* Use solver.dt <= 25000"):
        PROBLEM.check_solver(axes, (0.0,), Solver(dt=30000))
    PROBLEM.check_solver(axes, (0.0,), Solver(dt=25000, num_points=32))
    STILL.check_solver(axes, (0.0,), Solver(dt=1e6))
    given = instances(PROBLEM, axes)
    with pytest.raises(GridError, match=r"depth has shape \(3, 32, 31\), expected \(batch, 32, 32\)"):
        PROBLEM.solve({**given, "depth": given["depth"][..., 1:]}, axes, (0.0,), Solver(dt=100))
    given["depth"][1, 4, 5] = -1.0
    with pytest.raises(InputError, match=r"sample 1 is dry in cell \(4, 5\): depth -1 m"):
        PROBLEM.solve(given, axes, (0.0,), Solver(dt=100))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"implicitness": 0.4}, "greater than or equal to 0.5"),
        ({"bed": {"mean": 1.0}}, r"would run dry; use mean >= 4.47"),
        ({"bump": {"side": {"low": -1, "high": 2}}}, "expected a length greater than 0"),
        ({"gravty": 9.8}, "did you mean 'gravity'"),
    ],
)
def test_wrong_fields_are_refused(raw, message):
    with pytest.raises(SpecError, match=message):
        ShallowWater.parse(raw, source="test")


def test_is_written_and_read_through_the_catalog():
    plain = catalog.write("problem", PROBLEM)
    assert plain.pop("name") == "shallow-water"
    assert ShallowWater.parse(plain, source="test") == PROBLEM
    assert isinstance(PROBLEM, Solvable)
    assert ShallowWater.summary().startswith("Shallow water: u_t = -g grad z")
    assert Basin(torch.ones(1, 2, 2), (1.0, 1.0), 1.0, 0.0, 0.0, 0.5).drag == 0


def test_recipes_are_read():
    assert Recipe.load("shallow-water-2d").shape("u") == (61, 32, 32)
    for preset in ("paper", "short"):
        Recipe.load("shallow-water-2d", preset=preset)
