"""The periodic equations: closed forms, orders, invariants, instances, and refusals."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from dlde import catalog
from dlde.datasets import parts
from dlde.datasets.recipe import Recipe
from dlde.errors import GridError, InputError, SpecError
from dlde.numerics.differences import difference as central
from dlde.problem import Axis, Exact, Interval, Solver
from dlde.problems.advection import Advection
from dlde.problems.allen_cahn import AllenCahn
from dlde.problems.burgers import Burgers, Sine
from dlde.problems.convection_diffusion import ConvectionDiffusion
from dlde.problems.forcing import RandomForcing, WaveForcing
from dlde.problems.heat import Heat
from dlde.problems.initial_conditions import GaussianField, Waves
from dlde.problems.korteweg_de_vries import KortewegDeVries, Soliton
from dlde.problems.kuramoto_sivashinsky import KuramotoSivashinsky
from dlde.problems.nonlinear_schroedinger import BrightSoliton, NonlinearSchroedinger

torch.set_num_threads(1)
SOLITON = KortewegDeVries(initial_condition=Soliton(), dispersion=Interval(low=0.5, high=1.0))
BRIGHT = NonlinearSchroedinger(initial_condition=BrightSoliton(), focusing=Interval(low=0.5, high=2.0))

VISCOSITIES = Interval(low=0.8, high=1.2)

# name -> problem, points an axis, times, step
CASES = {
    "burgers, viscosities": (Burgers(viscosity=Interval(low=0.01, high=0.1)), 193, (0.0, 0.3), 2e-2),
    "burgers, random force": (Burgers(forcing=RandomForcing()), 193, (0.0, 0.3), 1e-2),
    "heat": (Heat(diffusivity=Interval(low=0.01, high=0.1, scale="log")), 32, (0.0, 0.5), 1.0),
    "heat 2-D": (Heat(dims=2, diffusivity=Interval(low=0.01, high=0.1)), 24, (0.0, 0.5), 1.0),
    "advection": (Advection(speed=Interval(low=-1.0, high=1.0)), 32, (0.0, 0.5), 1.0),
    "advection 2-D": (Advection(dims=2, direction=Interval(low=0.0, high=6.0)), 24, (0.0, 0.5), 1.0),
    "convection-diffusion": (ConvectionDiffusion(), 32, (0.0, 0.5), 1.0),
    "convection-diffusion 2-D": (ConvectionDiffusion(dims=2, direction=0.3), 24, (0.0, 0.5), 1.0),
    "korteweg-de vries": (KortewegDeVries(), 192, (0.0, 0.5), 5e-3),
    "solitons": (SOLITON, 256, (0.0, 0.5), 5e-3),
    "schroedinger": (NonlinearSchroedinger(), 96, (0.0, 0.5), 1e-2),
    "bright solitons": (BRIGHT, 420, (0.0, 0.5), 1e-2),
    "kuramoto-sivashinsky": (KuramotoSivashinsky(viscosity=VISCOSITIES), 192, (0.0, 4.0), 0.1),
    "allen-cahn": (AllenCahn(rate=Interval(low=1.0, high=5.0)), 96, (0.0, 0.5), 2e-2),
    "allen-cahn 2-D": (AllenCahn(dims=2, diffusivity=Interval(low=0.02, high=0.1)), 48, (0.0, 0.3), 2e-2),
}  # fmt: skip
each = pytest.mark.parametrize(("problem", "points", "times", "dt"), CASES.values(), ids=CASES)


def drawn(problem, axes, count=3, seed=100):
    generator = np.random.default_rng(seed)
    rows = [problem.draw(generator, axes) for _ in range(count)]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def difference(problem, solution, reference):
    """The largest relative L2 norm over samples and the fields of the state."""
    errors = []
    for name in problem.state:
        error, size = solution[name] - reference[name], reference[name]
        errors.append(float((error.flatten(1).norm(dim=1) / size.flatten(1).norm(dim=1)).max()))
    return max(errors)


@each
def test_instances_solutions_and_variables_agree(problem, points, times, dt):
    """Shapes, the start, what varies stored as scalars; alone as in a batch, and as a user would give it."""
    axes = problem.axes((points,) * problem.num_axes)
    given = drawn(problem, axes)
    problem.check_solver(axes, times, Solver(dt=dt))
    solution = problem.solve(given, axes, times, Solver(dt=dt))
    sizes = {"time": len(times), **{name: axis.num_points for name, axis in axes.items()}}
    assert set(solution) == set(problem.variables)
    for name, variable in problem.variables.items():
        assert solution[name].shape == (3, *({**sizes, **variable.sizes}[dim] for dim in variable.dims))
    for name in problem.drawn:
        assert problem.variables[name].dims == ()
        assert torch.equal(solution[name], given[name])
        assert len(set(given[name].tolist())) == 3
    for name in problem.state:
        assert torch.equal(solution[name][:, 0], given[name])
    alone = {name: value[1:2].clone() for name, value in given.items()}
    for name, value in problem.solve(alone, axes, times, Solver(dt=dt)).items():
        assert_allclose(value[0], solution[name][1], rtol=0, atol=1e-13)
    first = next(iter(problem.state))
    given[first][0] = torch.nan
    beside = problem.solve(given, axes, times, Solver(dt=dt))
    assert not beside[first][0, -1].isfinite().any()
    assert torch.equal(beside[first][1:], solution[first][1:])


@each
def test_a_finer_grid_shows_the_same_instance(problem, points, times, dt):
    after = []
    instances = []
    for n in (points, 2 * points):
        generator = np.random.default_rng(100)
        instances.append(problem.draw(generator, problem.axes((n,) * problem.num_axes)))
        after.append(generator.random())
    assert after[0] == after[1]
    for name, coarse in instances[0].items():
        fine = instances[1][name]
        if name not in problem.drawn:
            fine = fine[(..., *[slice(None, None, 2)] * problem.num_axes)]
        assert_allclose(coarse, fine, atol=1e-12)


@each
def test_the_solution_meets_the_equation(problem, points, times, dt):
    """By differences in time and space; what is left is the grid's own error."""
    axes = problem.axes((points,) * problem.num_axes)
    (defect,) = problem.defect(drawn(problem, axes), axes, times, Solver(dt=dt)).values()
    assert defect.shape == (3,)
    assert defect.max() < 2e-3


def test_the_defect_sees_another_equation(monkeypatch):
    problem, points, times, dt = CASES["korteweg-de vries"]
    axes = problem.axes((points,))
    monkeypatch.setattr(KortewegDeVries, "symbol", lambda self, k, c: 0.9j * k[0] ** 3)
    (defect,) = problem.defect(drawn(problem, axes), axes, times, Solver(dt=dt)).values()
    assert defect.min() > 0.02


@pytest.mark.parametrize("name", ["heat", "heat 2-D", "advection", "advection 2-D",
                                  "convection-diffusion", "convection-diffusion 2-D"])  # fmt: skip
def test_linear_equations_are_exact_for_any_step(name):
    problem, points, times, dt = CASES[name]
    axes = problem.axes((points,) * problem.num_axes)
    given = drawn(problem, axes)
    solution = problem.solve(given, axes, times, Solver(dt=dt))
    assert isinstance(problem, Exact)
    assert difference(problem, solution, problem.exact(given, axes, times)) < 1e-13
    assert problem.refined(Solver(), axes, 2) is None
    assert problem.finer(Solver(), axes).num_points == 2 * points


def test_linear_equations_in_closed_form():
    """A product of sines decays; a wave that moves and decays."""
    x = np.arange(32) / 32
    wave = np.sin(2 * np.pi * 2 * x)
    heat = Heat(dims=2, diffusivity=0.03, initial_condition=Sine(waves=2))
    axes = heat.axes((32, 32))
    u = heat.solve(drawn(heat, axes, 1), axes, (0.7,), Solver())["u"][0, 0]
    decay = np.exp(-0.03 * 2 * (4 * np.pi) ** 2 * 0.7)
    assert_allclose(u, decay * wave[:, None] * wave, atol=1e-15)
    both = ConvectionDiffusion(speed=-0.4, diffusivity=0.01, initial_condition=Sine(waves=2))
    axes = both.axes((32,))
    u = both.solve(drawn(both, axes, 1), axes, (0.7,), Solver())["u"][0, 0]
    moved = np.sin(4 * np.pi * (x + 0.28))
    assert_allclose(u, np.exp(-0.01 * (4 * np.pi) ** 2 * 0.7) * moved, atol=1e-14)
    plane = Advection(dims=2, speed=0.5, direction=np.pi / 2, initial_condition=Sine())
    axes = plane.axes((16, 16))
    u = plane.solve(drawn(plane, axes, 1), axes, (1.0,), Solver())["u"][0, 0]
    y = np.arange(16) / 16
    assert_allclose(u, np.sin(2 * np.pi * y)[:, None] * np.sin(2 * np.pi * (y - 0.5)), atol=1e-14)


@pytest.mark.parametrize("name", ["solitons", "bright solitons"])
def test_solitons_move_unchanged(name):
    """Up to the spectrum that the grid leaves out, about 1e-7 in the norm, and the tails."""
    problem, points, times, dt = CASES[name]
    axes = problem.axes((points,))
    given = drawn(problem, axes)
    exact = problem.exact(given, axes, times)
    assert difference(problem, problem.solve(given, axes, times, Solver(dt=dt / 2)), exact) < 1e-6
    start = {name: value[:, None] for name, value in given.items()}
    assert difference(problem, problem.exact(given, axes, (0.0,)), start) < 1e-6


@pytest.mark.parametrize(
    ("name", "steps"),
    [("burgers, random force", (2e-2, 1e-2, 5e-3)), ("korteweg-de vries", (1e-2, 5e-3, 2.5e-3)),
     ("solitons", (1e-2, 5e-3, 2.5e-3)),
     ("schroedinger", (2e-2, 1e-2, 5e-3)), ("kuramoto-sivashinsky", (0.1, 0.05, 0.025)),
     ("allen-cahn", (2e-2, 1e-2, 5e-3)), ("allen-cahn 2-D", (2e-2, 1e-2, 5e-3))],
)  # fmt: skip
def test_observed_order(name, steps):
    problem, points, times, _ = CASES[name]
    axes = problem.axes((points,) * problem.num_axes)
    given = drawn(problem, axes, 2)
    solver = Solver(dt=steps[-1])
    reference = problem.solve(given, axes, times, problem.refined(solver, axes, 4))
    errors = [
        difference(problem, problem.solve(given, axes, times, Solver(dt=dt)), reference) for dt in steps
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    least = problem.thresholds.order or problem.order - 0.5
    assert least < orders.min()
    assert orders.max() < 6  # large steps may converge faster before they settle


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("korteweg-de vries", 1e-4), ("solitons", 1e-4), ("schroedinger", 1e-5), ("bright solitons", 1e-5),
     ("advection", 1e-13), ("advection 2-D", 1e-13), ("heat 2-D", 1e-13), ("kuramoto-sivashinsky", 1e-13),
     ("burgers, random force", 1e-13), ("convection-diffusion", 1e-13)],
)  # fmt: skip
def test_what_is_conserved(name, tolerance):
    """To rounding where the scheme keeps it, else to its error in time."""
    problem, points, times, dt = CASES[name]
    axes = problem.axes((points,) * problem.num_axes)
    solution = problem.solve(drawn(problem, axes), axes, times, Solver(dt=dt))
    kept = problem.conserved(solution, axes)
    assert kept
    for values in kept.values():
        assert values.shape == (3, len(times))
        scale = max(float(values.abs().max()), 0.1)
        assert (values - values[:, :1]).abs().max() < tolerance * scale


def test_two_bound_solitons():
    """psi(x, 0) = 2 sech x breathes: Satsuma & Yajima, Prog. Theor. Phys. Suppl. 55 (1974)."""
    problem = NonlinearSchroedinger(domain=(-16.0, 16.0))
    axes = problem.axes((512,))
    x = torch.from_numpy(axes["x"].points)
    given = {"psi_re": (2 / torch.cosh(x))[None], "psi_im": torch.zeros(1, 512, dtype=torch.float64)}
    t = 0.4
    solved = problem.solve(given, axes, (t,), Solver(dt=2e-3))
    top = torch.cosh(3 * x) + 3 * np.exp(4j * t) * torch.cosh(x)
    exact = 4 * np.exp(0.5j * t) * top / (torch.cosh(4 * x) + 4 * torch.cosh(2 * x) + 3 * np.cos(4 * t))
    assert_allclose(torch.complex(solved["psi_re"], solved["psi_im"])[0, 0], exact, atol=2e-6)


def test_homogeneous_allen_cahn_is_its_ordinary_equation():
    """u0 / sqrt(u0^2 + (1 - u0^2) exp(-2 rate t)), which user-given constant fields follow."""
    problem = AllenCahn(dims=2, rate=Interval(low=1.0, high=5.0))
    axes = problem.axes((24, 24))
    u0 = torch.tensor([-0.3, 0.1, 0.9], dtype=torch.float64)
    rate = torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64)  # a user may leave the interval
    given = {"u": u0[:, None, None].expand(3, 24, 24), "rate": rate}
    u = problem.solve(given, axes, (0.8,), Solver(dt=5e-3))["u"][:, 0]
    exact = u0 / torch.sqrt(u0**2 + (1 - u0**2) * torch.exp(-2 * rate * 0.8))
    assert_allclose(u, exact[:, None, None].expand_as(u), atol=1e-8)


def test_allen_cahn_energy_decays():
    problem, points, _, _ = CASES["allen-cahn 2-D"]
    axes = problem.axes((points, points))
    solution = problem.solve(drawn(problem, axes), axes, (0.0, 0.1, 0.2, 0.4, 0.8), Solver(dt=2e-2))
    u, diffusivity = solution["u"], solution["diffusivity"][:, None, None, None]
    slopes = sum(((u.roll(-1, dim) - u) * points).square() for dim in (2, 3))
    energy = (diffusivity / 2 * slopes + problem.rate / 4 * (1 - u**2) ** 2).mean((2, 3))
    assert (energy.diff(dim=1) < 0).all()


@pytest.mark.parametrize("name", ["kuramoto-sivashinsky", "allen-cahn", "burgers, viscosities"])
def test_agrees_with_an_integrator_of_scipy(name):
    """The same terms by differences of order 8 on the grid."""
    problem, _, _, dt = CASES[name]
    condition = Waves(num_modes=3, amplitude=0.5)
    domain = (0.0, 32.0) if name.startswith("kuramoto") else (0.0, 1.0)
    problem = problem.model_copy(update={"initial_condition": condition, "domain": domain})
    axes = problem.axes((64,))
    given = drawn(problem, axes, 1)
    (coefficient,) = problem.drawn
    c = {n: getattr(problem, n) for n in problem.coefficients} | {coefficient: float(given[coefficient][0])}
    spacing = (domain[1] - domain[0]) / 64

    def rate(t, u):
        field = torch.from_numpy(u)[None, None]
        terms = problem.terms(field, lambda f, axis, order: central(f, order, spacing), c)
        return sum(terms)[0, 0].numpy()

    time = 0.2
    reference = solve_ivp(rate, (0, time), given["u"][0].numpy(), method="Radau" if dt > 0.05 else "DOP853",
                          rtol=1e-8, atol=1e-9, t_eval=[time]).y[:, 0]  # fmt: skip
    u = problem.solve(given, axes, (time,), Solver(num_points=128, dt=dt / 4))["u"][0, 0].numpy()
    assert np.linalg.norm(u - reference) < 2e-5 * np.linalg.norm(reference)


def test_linear_growth_of_kuramoto_sivashinsky():
    """A tiny wave grows as exp((k^2 - viscosity k^4) t)."""
    problem = KuramotoSivashinsky(domain=(0.0, 20.0), initial_condition=Sine(amplitude=1e-7, waves=2))
    axes = problem.axes((64,))
    given = drawn(problem, axes, 1)
    u = problem.solve(given, axes, (3.0,), Solver(dt=0.1))["u"][:, 0]
    k = 2 * np.pi * 2 / 20
    assert_allclose(u, given["u"] * np.exp((k**2 - k**4) * 3), rtol=0, atol=1e-12)


def test_a_steady_force_is_balanced_by_viscosity():
    """u u_x = viscosity u_xx + sin 2 pi x: the first two orders of its expansion in the amplitude."""
    nu = 0.5
    problem = Burgers(viscosity=nu, initial_condition=Sine(), forcing=WaveForcing(amplitude=1.0, waves=1))
    axes = problem.axes((64,))
    given = drawn(problem, axes, 1)
    u = problem.solve(given, axes, (3.0, 4.0), Solver(dt=5e-3))["u"][0]
    assert_allclose(u[0], u[1], atol=1e-12)  # decays like exp(-nu (2 pi)^2 t)
    x = 2 * np.pi * axes["x"].points
    k = 2 * np.pi
    a = 1 / (nu * k**2)
    assert_allclose(u[1], a * np.sin(x) - a**2 / (8 * nu * k) * np.sin(2 * x), atol=2e-6)


def test_forces_with_walls_and_in_time():
    problem = Burgers(
        viscosity=0.05, domain=(-1.0, 1.0), boundary="dirichlet", initial_condition=Sine(),
        forcing=WaveForcing(waves=2, frequency=1.5),
    )  # fmt: skip
    axes = problem.axes((65,))
    given = drawn(problem, axes, 1)
    u = problem.solve(given, axes, (0.0, 0.3), Solver(dt=5e-3))["u"]
    assert_allclose(u[..., [0, -1]], 0, atol=1e-12)
    assert problem.defect(given, axes, (0.0, 0.3), Solver(dt=5e-3))["burgers"].max() < 1e-3
    assert problem.conserved({"u": u}, axes) == {}


def test_random_forces_have_their_amplitude():
    forcing = RandomForcing(amplitude=2.0, num_modes=3, time_modes=2, duration=0.7)
    axes = {"x": Axis(start=0.0, stop=1.0, num_points=8, boundary="periodic")}
    generator = np.random.default_rng(100)
    shapes = np.stack([forcing.draw(generator, axes) for _ in range(500)])
    for time in (0.0, 0.2):
        force = np.einsum("j,bjx->bx", forcing.weights(time), shapes)
        assert_allclose(force.std(), 2.0, rtol=0.08)  # 500 draws of few modes


def test_drawn_parameters_leave_the_fields_alone():
    """The field is drawn first, whatever else is."""
    axes = Burgers().axes((193,))
    plain = drawn(Burgers(), axes, 1)["u"]
    for problem in (Burgers(viscosity=Interval(low=0.01, high=0.1)), Burgers(forcing=RandomForcing())):
        assert torch.equal(drawn(problem, axes, 1)["u"], plain)


def test_a_drawn_viscosity_solves_as_a_fixed_one():
    problem, points, times, dt = CASES["burgers, viscosities"]
    axes = problem.axes((points,))
    given = drawn(problem, axes)
    together = problem.solve(given, axes, times, Solver(dt=dt))
    exact = problem.exact(given, axes, times)["u"]
    for row in range(3):
        fixed = Burgers(viscosity=float(given["viscosity"][row]))
        one = {"u": given["u"][row : row + 1]}
        u = fixed.solve(one, axes, times, Solver(dt=dt))["u"]
        assert_allclose(u[0], together["u"][row], atol=1e-13)
        assert_allclose(fixed.exact(one, axes, times)["u"][0], exact[row], atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_is_written_and_read_through_the_catalog(name):
    problem = CASES[name][0]
    plain = {"name": "any", "problem": catalog.write("problem", problem)}
    raw = {
        **plain,
        "num_points": [CASES[name][1]] * problem.num_axes,
        "times": [0.0, 0.1],
        "samples": {"train": 2},
    }
    recipe = Recipe.parse(raw, source="test")
    assert recipe.problem == problem
    values, quarantined = parts.compute(recipe, parts.Part("train", 0, 2), 2)
    assert set(values) == set(problem.variables)
    assert not quarantined


def test_old_stores_keep_their_names():
    """A force that is not there is not written."""
    assert "forcing" not in catalog.write("problem", Burgers())
    assert catalog.write("problem", Burgers(forcing=WaveForcing()))["forcing"]["kind"] == "wave"


@pytest.mark.parametrize(
    ("kind", "raw", "message"),
    [
        (Heat, {"diffusivity": -1.0}, "diffusivity: input should be greater than 0, got -1.0"),
        (Heat, {"diffusivity": "much"}, "diffusivity: input should be a valid number, got 'much'"),
        (Heat, {"diffusivity": {"low": 0.0, "high": 1.0}}, "low=0: expected more than 0"),
        (Heat, {"diffusivity": {"low": 2.0, "high": 1.0}}, "diffusivity: low=2, high=1: expected low < high"),
        (Heat, {"diffusivity": {"lo": 2.0, "high": 3.0}}, "diffusivity.lo: unknown key; did you mean 'low'"),
        (Heat, {"dims": 3}, "dims: input should be 1 or 2, got 3"),
        (Advection, {"direction": 1.0}, "one dimension has none; use dims: 2"),
        (Burgers, {"boundary": "dirichlet", "initial_condition": {"kind": "sine"},
                   "forcing": {"kind": "random"}},
         "boundary=dirichlet needs a force that vanishes .* use forcing: {kind: wave}"),
        (Burgers, {"forcing": {"kind": "white"}}, "forcing: .*'wave', 'random'"),
        (KortewegDeVries, {"domain": [1, 0]}, "expected start < stop"),
        (KortewegDeVries, {"domain": [0.0, 10.0], "initial_condition": {"kind": "soliton"}},
         "inverse_width=0.5 is wider than the domain of 10; use an extent of at least 17"),
        (NonlinearSchroedinger, {"domain": [0.0, 10.0], "initial_condition": {"kind": "soliton"}},
         "amplitude=1 is wider than the domain of 10; use an extent of at least 15"),
    ],
)  # fmt: skip
def test_wrong_fields_are_refused(kind, raw, message):
    with pytest.raises(SpecError, match=message):
        kind.parse(raw, source="test")


def test_meaningless_grids_steps_and_instances_are_refused():
    problem = AllenCahn(dims=2, rate=Interval(low=1.0, high=5.0))
    with pytest.raises(GridError, match=r"Allen-Cahn has two spatial axes, x and y, but num_points=\(64,\)"):
        problem.axes((64,))
    with pytest.raises(
        GridError, match="num_points=8: an initial condition of 4 modes needs at least 9 points"
    ):
        problem.axes((64, 8))
    axes = problem.axes((32, 32))
    with pytest.raises(GridError, match=r"a solver on 16 points loses modes .* use solver.num_points >= 17"):
        problem.check_solver(axes, (1.0,), Solver(num_points=16))
    given = drawn(problem, axes)
    with pytest.raises(InputError, match="an instance of Allen-Cahn needs 'rate'; it has u"):
        problem.solve({"u": given["u"]}, axes, (1.0,), Solver())
    with pytest.raises(InputError, match="has no instance entry 'rat'; did you mean 'rate'"):
        problem.solve({**given, "rat": given["rate"]}, axes, (1.0,), Solver())
    with pytest.raises(GridError, match=r"rate has shape \(2,\), expected \(batch,\), with batch 3 as u"):
        problem.solve({**given, "rate": given["rate"][:2]}, axes, (1.0,), Solver())
    with pytest.raises(
        GridError, match=r"u has shape \(3, 32\), expected \(batch, 32, 32\) as the grid of x and y"
    ):
        problem.solve({**given, "u": given["u"][:, 0]}, axes, (1.0,), Solver())
    with pytest.raises(InputError, match="rate must be positive in every instance"):
        problem.solve({**given, "rate": -given["rate"]}, axes, (1.0,), Solver())
    heat = Heat()
    axes = heat.axes((32,))
    for solve in (lambda *given: heat.solve(*given, Solver()), heat.exact):
        with pytest.raises(GridError, match="times must increase"):
            solve(drawn(heat, axes), axes, (0.5, 0.2))
    assert heat.defect(drawn(heat, axes), axes, (0.0,), Solver()) == {}
    forced = Burgers(forcing=RandomForcing())
    axes = forced.axes((193,))
    given = drawn(forced, axes)
    with pytest.raises(GridError, match=r"forcing has shape \(3, 2, 193\), expected \(batch, 7, 193\)"):
        forced.solve({**given, "forcing": given["forcing"][:, :2]}, axes, (1.0,), Solver())
    with pytest.raises(InputError, match="forcing must have mean zero"):
        forced.solve({**given, "forcing": given["forcing"] + 1}, axes, (1.0,), Solver())


def test_an_unstable_step_is_refused_with_the_largest_stable_one():
    """The named step is stable where the refused one is not."""
    problem = KortewegDeVries(initial_condition=Waves(amplitude=2.0, num_modes=4))
    axes = problem.axes((256,))
    with pytest.raises(GridError, match=r"solver.dt=1 is unstable .* use solver.dt <= 0\.\d+") as refused:
        problem.check_solver(axes, (50.0,), Solver(dt=1.0))
    problem.check_solver(axes, (50.0,), Solver(dt=refused.value.largest))
    for name in ("korteweg-de vries", "kuramoto-sivashinsky", "allen-cahn"):
        other, points, _, _ = CASES[name]
        with pytest.raises(GridError, match="is unstable"):
            other.check_solver(other.axes((points,)), (1000.0,), Solver(dt=20.0))


def test_exact_solutions_that_are_not_there_are_refused():
    for name, message in {
        "korteweg-de vries": "but for a single soliton; use initial_condition",
        "schroedinger": "single soliton of its focusing form",
        "burgers, random force": "with a force has no exact solution",
    }.items():
        problem, points, times, _ = CASES[name]
        axes = problem.axes((points,))
        with pytest.raises(InputError, match=message):
            problem.exact(drawn(problem, axes), axes, times)
    with pytest.raises(SpecError, match="an interval of viscosities is many equations"):
        Burgers(viscosity=Interval(low=0.1, high=0.2)).check_conditions()
    with pytest.raises(SpecError, match="with a force has no residual"):
        Burgers(forcing=WaveForcing()).check_conditions()


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize(
    "condition", [GaussianField(num_modes=8), Waves(mean=0.3, amplitude=0.7), Sine(amplitude=0.4)]
)
def test_sizes_of_initial_conditions(condition, dims):
    """The root mean square over many draws."""
    problem = Heat(dims=dims, initial_condition=condition)
    axes = problem.axes((20,) * dims)
    u = drawn(problem, axes, 500)["u"]
    assert_allclose(float(u.square().mean().sqrt()), condition.size(1.0, dims), rtol=0.08)
