"""Burgers: the solver against Cole-Hopf and public references, its instances, and its refusals."""

import numpy as np
import pytest
import scipy.io
import torch
from numpy.testing import assert_allclose

from dlde import catalog
from dlde.errors import GridError, InputError, SpecError
from dlde.numerics.jets import Jet
from dlde.numerics.jets import axes as coordinate_jets
from dlde.problem import Exact, Solvable, Solver
from dlde.problems.burgers import Burgers, GaussianField, Sine
from tests.conftest import PUBLISHED

torch.set_num_threads(1)
SHOCK = Burgers(viscosity=0.01 / np.pi, domain=(-1.0, 1.0), boundary="dirichlet", initial_condition=Sine())


def instances(problem, axes, count=8, seed=100):
    generator = np.random.default_rng(seed)
    return {"u": torch.from_numpy(np.stack([problem.draw(generator, axes)["u"] for _ in range(count)]))}


def relative_l2(u, reference):
    return (u - reference).norm(dim=-1) / reference.norm(dim=-1)


def public(name):
    """A public reference solution: x, t, u (t, x)."""
    path = PUBLISHED / "pde" / name
    if not path.is_file():
        pytest.skip(f"no {path}: published data are not part of the project; set DLDE_TEST_DATA")
    data = scipy.io.loadmat(path)
    return data["x"].ravel(), data["t"].ravel(), torch.from_numpy(data["usol"].real.T.copy())


@pytest.mark.parametrize("viscosity", [0.1, 0.02, 0.01])
def test_random_instances_agree_with_cole_hopf(viscosity):
    """The recipe's solver, 256 points and dt 5e-3 for a stored grid of 1024."""
    problem = Burgers(viscosity=viscosity)
    axes = problem.axes((1024,))
    given = instances(problem, axes)
    times = (0.0, 0.5, 1.0)
    u = problem.solve(given, axes, times, Solver(num_points=256, dt=5e-3))["u"]
    exact = problem.exact(given, axes, times)["u"]
    assert u.shape == exact.shape == (8, 3, 1024)
    assert torch.equal(u[:, 0], given["u"])
    assert relative_l2(u, exact).max() < 5e-6


@pytest.mark.parametrize(("num_modes", "low"), [(8, 3.7), (64, 3.0)])
def test_observed_order(num_modes, low):
    """The stated order for smooth data; rough data, whose high modes are stiff, take up to one off."""
    problem = Burgers(initial_condition=GaussianField(num_modes=num_modes))
    axes = problem.axes((256,))
    given = instances(problem, axes, count=4)
    exact = problem.exact(given, axes, (0.5,))["u"]
    errors = [
        (problem.solve(given, axes, (0.5,), Solver(dt=dt))["u"] - exact).norm() for dt in (8e-3, 4e-3, 2e-3)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert low < orders.min() <= orders.max() < problem.order + 0.3


def test_public_shock_solution():
    """Viscosity 0.01 / pi, u(x, 0) = -sin(pi x), u(+-1) = 0: exact, then solved."""
    x, t, reference = public("burgers_shock.mat")
    axes = SHOCK.axes((256,))
    assert_allclose(axes["x"].points, x, atol=1e-15)
    given = instances(SHOCK, axes, count=1)
    exact = SHOCK.exact(given, axes, t.tolist())["u"][0]
    assert_allclose(exact, reference, atol=1e-9)
    u = SHOCK.solve(given, axes, t.tolist(), Solver(num_points=2049, dt=1e-3))["u"][0]
    assert_allclose(u, reference, atol=5e-6)  # 2e-6 where the shock is steepest
    assert_allclose(u[:, [0, -1]], 0, atol=1e-12)


def test_public_solution_from_a_gaussian():
    """u(x, 0) = exp(-(x + 2)^2) on [-8, 8), viscosity 0.1; it is not periodic, which leaves 1e-15."""
    x, t, reference = public("burgers_gauss.mat")
    problem = Burgers(viscosity=0.1, domain=(-8.0, 8.0))
    axes = problem.axes((256,))
    assert_allclose(axes["x"].points, x)
    given = {"u": reference[:1]}
    u = problem.solve(given, axes, t.tolist(), Solver(dt=0.01))["u"][0]
    exact = problem.exact(given, axes, t.tolist())["u"][0]
    assert_allclose(u, exact, atol=1e-6)
    assert_allclose(u, reference, atol=1e-3)


def test_a_finer_grid_and_solver_show_the_same_instance():
    problem = Burgers()
    coarse, fine = problem.axes((256,)), problem.axes((1024,))
    few, many = instances(problem, coarse), instances(problem, fine)
    assert_allclose(few["u"], many["u"][:, ::4], atol=1e-13)
    u = problem.solve(few, coarse, (1.0,), Solver(num_points=512, dt=5e-3))["u"]
    finer = problem.solve(many, fine, (1.0,), Solver(num_points=512, dt=5e-3))["u"]
    assert_allclose(u, finer[..., ::4], atol=1e-12)


def test_instances_do_not_depend_on_the_viscosity():
    thin, thick = Burgers(viscosity=1e-3), Burgers(viscosity=0.1)
    axes = thin.axes((256,))
    assert torch.equal(instances(thin, axes)["u"], instances(thick, axes)["u"])


def test_mean_velocity_is_conserved():
    problem = Burgers()
    axes = problem.axes((256,))
    u0 = instances(problem, axes)["u"] + torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    u = problem.solve({"u": u0}, axes, (0.0, 0.3, 1.0), Solver(dt=5e-3))
    mean = problem.conserved(u, axes)["mean velocity"]
    assert mean.shape == (8, 3)
    assert_allclose(mean, u0.mean(-1, keepdim=True).expand(-1, 3), atol=1e-14)
    assert SHOCK.conserved(u, axes) == {}


def test_a_sample_does_not_depend_on_its_batch():
    """To the bit, also beside a sample that is not finite; that one comes back as NaN."""
    problem = Burgers()
    axes = problem.axes((256,))
    given = instances(problem, axes)["u"]
    together = problem.solve({"u": given}, axes, (1.0,), Solver(dt=1e-2))["u"]
    alone = problem.solve({"u": given[3:4]}, axes, (1.0,), Solver(dt=1e-2))["u"]
    assert torch.equal(alone[0], together[3])
    given[0] = 1e200
    given[0, ::2] = 0
    poisoned = problem.solve({"u": given}, axes, (1.0,), Solver(dt=1e-2))["u"]
    assert not poisoned[0].isfinite().any()
    assert torch.equal(poisoned[1:], together[1:])


def test_single_precision_agrees():
    problem = Burgers()
    axes = problem.axes((256,))
    given = instances(problem, axes)
    double = problem.solve(given, axes, (1.0,), Solver(dt=1e-2))["u"]
    single = problem.solve(given, axes, (1.0,), Solver(dt=1e-2, precision="float32"))["u"]
    assert single.dtype == torch.float64
    assert relative_l2(single, double).max() < 2e-5


def test_walls_agree_with_the_period_for_an_odd_state():
    """-sin(pi x) on (-1, 1) is its own odd continuation, so that a period of 2 gives the same."""
    periodic = SHOCK.model_copy(update={"boundary": "periodic", "viscosity": 0.05})
    walls = SHOCK.model_copy(update={"viscosity": 0.05})
    wall, period = walls.axes((129,)), periodic.axes((128,))
    u = walls.solve(instances(walls, wall, 1), wall, (0.5,), Solver(dt=1e-3))["u"]
    v = periodic.solve(instances(periodic, period, 1), period, (0.5,), Solver(dt=1e-3))["u"]
    assert u.shape == (1, 1, 129)
    assert_allclose(u[..., :-1], v, atol=1e-13)


@pytest.mark.parametrize(
    "problem",
    [
        Burgers(),
        SHOCK,
        Burgers(viscosity=1e-3, initial_condition=GaussianField(exponent=2.5, tau=7.0, sigma=49.0)),
    ],
)
def test_is_written_and_read_through_the_catalog(problem):
    plain = catalog.write("problem", problem)
    assert plain["name"] == "burgers"
    assert Burgers.parse({k: v for k, v in plain.items() if k != "name"}, source="test") == problem
    assert isinstance(problem, Solvable)
    assert isinstance(problem, Exact)
    assert Burgers.summary().startswith("Burgers: u_t + u u_x = viscosity u_xx")
    assert set(problem.variables) == {"u"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"viscosity": 0}, "viscosity: input should be greater than 0, got 0"),
        ({"viscocity": 0.1}, "viscocity: unknown key; did you mean 'viscosity'"),
        ({"domain": [1, 0]}, r"domain=\(1, 0\): expected start < stop"),
        ({"boundary": "dirichlet"}, "a periodic gaussian field does not; use initial_condition"),
        ({"initial_condition": {"kind": "cosine"}}, "initial_condition: .*'gaussian', 'sine'"),
        ({"initial_condition": {"kind": "sine", "amplitud": 2}}, "unknown key; did you mean 'amplitude'"),
        ({"initial_condition": {"kind": "gaussian", "num_modes": 0}}, "num_modes: .*greater than 0"),
    ],
)
def test_wrong_fields_are_refused(raw, message):
    with pytest.raises(SpecError, match=message):
        Burgers.parse(raw, source="test")


def test_meaningless_grids_are_refused():
    problem = Burgers()
    with pytest.raises(GridError, match="one spatial axis"):
        problem.axes((64, 64))
    with pytest.raises(GridError, match=r"num_points=128: .* 64 modes needs at least 129 points"):
        problem.axes((128,))
    with pytest.raises(GridError, match="needs at least 4 points"):
        SHOCK.axes((3,))
    axes = problem.axes((256,))
    given = instances(problem, axes, count=1)
    with pytest.raises(GridError, match=r"a solver on 192 points .* use solver.num_points >= 193"):
        problem.solve(given, axes, (1.0,), Solver(num_points=192))
    with pytest.raises(GridError, match=r"shape \(1, 255\), expected \(batch, 256\)"):
        problem.solve({"u": given["u"][:, 1:]}, axes, (1.0,), Solver())
    with pytest.raises(GridError, match="times must increase"):
        problem.solve(given, axes, (1.0, 0.5), Solver())
    wall = SHOCK.axes((65,))
    with pytest.raises(InputError, match="u must vanish at both ends"):
        SHOCK.exact({"u": torch.ones(1, 65)}, wall, (1.0,))


def test_the_reference_at_points_is_that_of_the_grid():
    axes = SHOCK.axes([65])
    times = [0.0, 0.3, 0.9]
    expected = SHOCK.exact({"u": torch.from_numpy(SHOCK.draw(None, axes)["u"])[None]}, axes, times)["u"][0]
    points = torch.cartesian_prod(
        torch.tensor(times, dtype=torch.float64), torch.from_numpy(axes["x"].points)
    ).flip(1)
    u = SHOCK.reference(points)["u"].view(3, 65)
    torch.testing.assert_close(u, expected, rtol=0, atol=1e-8)


def test_the_reference_leaves_a_small_residual_before_the_shock():
    """By central differences in float64; their error is of second order."""
    problem = Burgers(viscosity=0.05, domain=(-1.0, 1.0), boundary="dirichlet", initial_condition=Sine())
    grid = torch.cartesian_prod(torch.linspace(-0.9, 0.9, 7).double(), torch.tensor([0.1, 0.5]).double())
    errors = []
    for h in (2e-2, 1e-2):

        def at(dx, dt, h=h):
            return problem.reference(grid + h * torch.tensor([dx, dt]).double())["u"]

        v, left, right, before, after = at(0, 0), at(-1, 0), at(1, 0), at(0, -1), at(0, 1)
        parts = {
            "x": (right - left) / (2 * h),
            "xx": (right - 2 * v + left) / h**2,
            "t": (after - before) / (2 * h),
        }
        parts["heat"] = parts["t"] - problem.viscosity * parts["xx"]
        u = Jet(v, parts, ("t", "x", "xx", "heat"), problem.operators)
        errors.append(problem.residual({"x": grid[:, 0], "t": grid[:, 1]}, {"u": u})["burgers"].abs().max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.25)


def test_start_and_walls_are_kept_whatever_the_network():
    points = torch.tensor([[-0.3, 0.0], [0.7, 0.0], [-1.0, 0.4], [1.0, 0.9]]).double()
    x = coordinate_jets(points, tuple(SHOCK.box), SHOCK.derivatives, SHOCK.operators)
    network = Jet(torch.full((4,), 1e3).double(), {}, x["x"].names, SHOCK.operators)
    u = SHOCK.constrain(x, {"u": network})["u"].value
    torch.testing.assert_close(u, SHOCK.reference(points)["u"], rtol=0, atol=1e-12)


def test_conditions_without_a_trial_function_are_refused():
    for problem in (Burgers(), Burgers(initial_condition=Sine())):
        with pytest.raises(
            SpecError, match=r"boundary=periodic .* use boundary: dirichlet with initial_condition"
        ):
            problem.check_conditions()
