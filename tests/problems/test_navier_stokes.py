"""Navier-Stokes: exact circles of wavenumbers, order, budgets, independence of samples, refusals."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from dlde import catalog
from dlde.errors import GridError, InputError, SpecError
from dlde.problem import Interval, Solver
from dlde.problems.initial_conditions import GaussianField, Sine
from dlde.problems.navier_stokes import DiagonalForce, KolmogorovForce, NavierStokes

torch.set_num_threads(1)
# As turbulent as 48 points hold: Reynolds number about 100.
LIVELY = GaussianField(exponent=2.5, tau=7.0, sigma=100.0, num_modes=10)
DECAYING = NavierStokes(viscosity=2e-3, forcing=None, initial_condition=LIVELY)
DRAWN = DECAYING.model_copy(update={"viscosity": Interval(low=1e-3, high=1e-1, scale="log")})


def instances(problem, axes, count=3, seed=100):
    generator = np.random.default_rng(seed)
    drawn = [problem.draw(generator, axes) for _ in range(count)]
    return {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}


def relative_l2(w, reference):
    return (w - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)


def test_taylor_green_decays_at_its_rate():
    """amplitude sin(k x) sin(k y) exp(-2 viscosity k^2 t), on a box that is no square, too."""
    problem = NavierStokes(viscosity=0.02, forcing=None, initial_condition=Sine(amplitude=3.0, waves=2))
    axes = problem.axes((24, 32))
    given = instances(problem, axes, 1)
    times = (0.0, 0.1, 0.7)
    w = problem.solve(given, axes, times, Solver(dt=0.05))["vorticity"]
    x, y = np.arange(24) / 24, np.arange(32) / 32
    start = 3 * np.sin(4 * np.pi * x)[:, None] * np.sin(4 * np.pi * y)
    decay = np.exp(-2 * 0.02 * (4 * np.pi) ** 2 * np.array(times))
    assert_allclose(w[0], decay[:, None, None] * start, atol=1e-13)
    assert_allclose(problem.exact(given, axes, times)["vorticity"], w, atol=1e-13)
    wide = problem.model_copy(update={"domain": ((0.0, 2.0), (-1.0, 0.0))})
    axes = wide.axes((32, 24))
    given = instances(wide, axes, 1)
    w = wide.solve(given, axes, times, Solver(dt=0.05))["vorticity"]
    rate = 0.02 * (2 * np.pi * 2) ** 2 * (1 + 1 / 4)
    assert_allclose(w[:, 2], given["vorticity"] * np.exp(-rate * 0.7), atol=1e-13)
    assert_allclose(wide.exact(given, axes, times)["vorticity"], w, atol=1e-13)


def test_laminar_kolmogorov_flow_is_steady():
    """u = amplitude sin(k y) / (viscosity k^2 + drag), v = 0; reached from rest as 1 - e^(-rate t)."""
    force = KolmogorovForce(amplitude=0.3, waves=2)
    problem = NavierStokes(viscosity=0.05, drag=0.1, forcing=force, initial_condition=Sine(waves=2))
    axes = problem.axes((16, 16))
    k, y = 4 * np.pi, np.arange(16) / 16
    rate = 0.05 * k**2 + 0.1
    steady = torch.from_numpy(np.tile(-0.3 * k / rate * np.cos(k * y), (16, 1)))
    given = {"vorticity": torch.stack([steady, torch.zeros_like(steady)])}
    times = (0.0, 0.1, 1.0)
    w = problem.solve(given, axes, times, Solver(dt=0.02))["vorticity"]
    assert_allclose(w[0], steady.expand(3, -1, -1), rtol=1e-6, atol=1e-9)
    grown = -np.expm1(-rate * np.array(times))[:, None, None] * steady.numpy()
    exact = problem.exact(given, axes, times)["vorticity"]
    assert_allclose(exact[1], grown, atol=1e-13)
    assert_allclose(w[1], grown, atol=1e-5)
    finer = problem.solve(given, axes, times, Solver(dt=0.01))["vorticity"]
    assert (w - exact).abs().max() / (finer - exact).abs().max() == pytest.approx(16, rel=0.1)


def test_observed_order():
    axes = DECAYING.axes((32, 32))
    given = instances(DECAYING, axes)
    reference = DECAYING.solve(given, axes, (0.4,), Solver(dt=2.5e-3))["vorticity"]
    errors = [
        relative_l2(DECAYING.solve(given, axes, (0.4,), Solver(dt=dt))["vorticity"], reference).max()
        for dt in (0.04, 0.02, 0.01)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert errors[0] < 1e-3
    assert orders.min() > 3.8
    assert orders.max() < 4.4


@pytest.mark.parametrize(
    "problem",
    [
        DRAWN,
        DECAYING.model_copy(update={"forcing": DiagonalForce(amplitude=2.0), "drag": 0.5}),
        DECAYING.model_copy(update={"forcing": KolmogorovForce(waves=3), "domain": ((0.0, 2.0), (0.0, 1.0))}),
    ],
    ids=["drawn", "diagonal", "kolmogorov"],
)
def test_the_equation_and_both_budgets_are_met(problem):
    axes = problem.axes((48, 48))
    given = instances(problem, axes)
    defect = problem.defect(given, axes, (0.0, 0.2, 0.5), Solver(dt=0.01))
    assert set(defect) == {"vorticity", "energy", "enstrophy"}
    assert all(value.shape == (3,) for value in defect.values())
    assert defect["vorticity"].max() < 1e-2  # 48 points: 2e-5 at 96
    assert defect["energy"].max() < 1e-6
    assert defect["enstrophy"].max() < 1e-4


def test_defect_sees_a_wrong_equation():
    """Twice the viscosity in the solver is a defect of both budgets of order one."""
    axes = DRAWN.axes((48, 48))
    given = instances(DRAWN, axes)

    class Wrong(NavierStokes):
        def _states(self, instances, axes, times, solver):
            return super()._states(
                {**instances, "viscosity": 2 * instances["viscosity"]}, axes, times, solver
            )

    wrong = Wrong(**{name: getattr(DRAWN, name) for name in NavierStokes.model_fields})
    defect = wrong.defect(given, axes, (0.2,), Solver(dt=0.01))
    assert defect["energy"].min() > 0.4
    assert defect["enstrophy"].min() > 0.4


def test_mean_vorticity_is_conserved():
    problem = DECAYING.model_copy(update={"forcing": DiagonalForce(amplitude=2.0)})
    axes = problem.axes((48, 48))
    solution = problem.solve(instances(problem, axes), axes, (0.0, 0.3), Solver(dt=0.02))
    mean = problem.conserved(solution, axes)["mean vorticity"]
    assert mean.shape == (3, 2)
    assert mean.abs().max() < 1e-14 * solution["vorticity"].abs().max()


def test_drawn_viscosities_are_stored_and_act():
    """Each sample as if its viscosity were the problem's; user-given instances solve alike."""
    axes = DRAWN.axes((32, 32))
    given = instances(DRAWN, axes)
    assert set(DRAWN.variables) == {"vorticity", "viscosity"}
    assert DRAWN.variables["viscosity"].dims == ()
    together = DRAWN.solve(given, axes, (0.0, 0.3), Solver(dt=0.02))
    assert torch.equal(together["viscosity"], given["viscosity"])
    assert len(set(given["viscosity"].tolist())) == 3
    for i, viscosity in enumerate(given["viscosity"].tolist()):
        fixed = DECAYING.model_copy(update={"viscosity": viscosity})
        alone = fixed.solve({"vorticity": given["vorticity"][i : i + 1]}, axes, (0.3,), Solver(dt=0.02))
        assert_allclose(alone["vorticity"][0, 0], together["vorticity"][i, 1], atol=1e-12)
    circle = DRAWN.model_copy(update={"initial_condition": Sine()})
    given = instances(circle, axes)
    exact = circle.exact(given, axes, (0.3,))
    solved = circle.solve(given, axes, (0.3,), Solver(dt=0.02))
    assert_allclose(exact["vorticity"], solved["vorticity"], atol=1e-13)
    assert torch.equal(exact["viscosity"], given["viscosity"])


def test_a_sample_does_not_depend_on_its_batch():
    """To the bit, also beside a sample that is not finite, in batches of any size."""
    axes = DRAWN.axes((32, 32))
    given = instances(DRAWN, axes, count=70)  # more than one block of samples
    together = DRAWN.solve(given, axes, (0.1,), Solver(dt=0.02))["vorticity"]
    alone = DRAWN.solve({k: v[69:] for k, v in given.items()}, axes, (0.1,), Solver(dt=0.02))["vorticity"]
    assert torch.equal(alone[0], together[69])
    given["vorticity"][0, 3, 5] = float("nan")
    poisoned = DRAWN.solve(given, axes, (0.1,), Solver(dt=0.02))["vorticity"]
    assert not poisoned[0].isfinite().any()
    assert torch.equal(poisoned[1:], together[1:])


def test_a_finer_grid_and_solver_show_the_same_instance():
    coarse, fine = DRAWN.axes((32, 32)), DRAWN.axes((64, 96))
    few, many = instances(DRAWN, coarse), instances(DRAWN, fine)
    assert torch.equal(few["viscosity"], many["viscosity"])
    assert_allclose(few["vorticity"], many["vorticity"][:, ::2, ::3], atol=1e-12)
    w = DRAWN.solve(few, coarse, (0.0, 0.2), Solver(num_points=40, dt=0.02))["vorticity"]
    finer = DRAWN.solve(many, fine, (0.0, 0.2), Solver(num_points=40, dt=0.02))["vorticity"]
    assert_allclose(w, finer[..., ::2, ::3], atol=1e-11)


def test_single_precision_agrees():
    axes = DECAYING.axes((48, 48))
    given = instances(DECAYING, axes)
    double = DECAYING.solve(given, axes, (0.3,), Solver(dt=0.02))["vorticity"]
    single = DECAYING.solve(given, axes, (0.3,), Solver(dt=0.02, precision="float32"))["vorticity"]
    assert single.dtype == torch.float64
    assert relative_l2(single, double).max() < 1e-5


def test_the_published_setting():
    """The pointwise variance is the sum over all modes (the generator of Li et al.)."""
    problem = NavierStokes()
    axes = problem.axes((64, 64))
    w = instances(problem, axes, count=40)["vorticity"]
    k = 2 * np.pi * np.arange(-20, 21)
    squared = (k[:, None] ** 2 + k**2).ravel()
    variance = 2 * 7**3 * ((squared + 49) ** -2.5)[squared > 0].sum()
    assert w.square().mean() == pytest.approx(variance, rel=0.15)
    force = problem.forcing.vorticity(np.array(0.25), np.array(0.5), 1.0)
    assert force == pytest.approx(0.1 * (np.sin(1.5 * np.pi) + np.cos(1.5 * np.pi)))


def test_is_written_and_read_through_the_catalog():
    for problem in (NavierStokes(), DRAWN, NavierStokes(forcing=KolmogorovForce(), drag=0.1)):
        plain = catalog.write("problem", problem)
        assert plain["name"] == "navier-stokes"
        assert NavierStokes.parse({k: v for k, v in plain.items() if k != "name"}, source="test") == problem
    assert NavierStokes.summary().startswith("Navier-Stokes: w_t + u . grad w = viscosity Lap w - drag w + f")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"viscosity": 0}, "viscosity: input should be greater than 0, got 0"),
        ({"viscosity": {"low": 0.0, "high": 1.0}}, "viscosity.*must be positive"),
        ({"drag": -1.0}, "drag: input should be greater than or equal to 0"),
        ({"domain": [[0, 1], [1, 0]]}, r"domain of y is \(1, 0\): expected start < stop"),
        ({"forcing": {"kind": "wind"}}, "forcing: .*'diagonal', 'kolmogorov'"),
    ],
)
def test_wrong_fields_are_refused(raw, message):
    with pytest.raises(SpecError, match=message):
        NavierStokes.parse(raw, source="test")


def test_meaningless_grids_and_steps_are_refused():
    with pytest.raises(GridError, match="two spatial axes"):
        DECAYING.axes((64,))
    with pytest.raises(GridError, match=r"10 modes needs at least 21 points per axis"):
        DECAYING.axes((64, 20))
    axes = DECAYING.axes((48, 48))
    with pytest.raises(GridError, match=r"a solver on 30 x 30 points loses modes .*num_points >= 31"):
        DECAYING.check_solver(axes, (1.0,), Solver(num_points=30))
    DECAYING.check_solver(axes, (1.0,), Solver(dt=0.04))
    thin = DECAYING.model_copy(update={"viscosity": 1e-6})
    with pytest.raises(GridError, match=r"dt=1 is unstable on 48 x 48 .* use solver.dt <= 0\.\d+") as error:
        thin.check_solver(axes, (1.0,), Solver(dt=1.0))
    largest = error.value.largest
    thin.check_solver(axes, (1.0,), Solver(dt=largest))
    given = instances(thin, axes)
    assert thin.solve(given, axes, (2.0,), Solver(dt=largest))["vorticity"].isfinite().all()
    assert not thin.solve(given, axes, (9.0,), Solver(dt=5 * largest))["vorticity"].isfinite().any()


def test_wrong_instances_are_refused():
    axes = DRAWN.axes((32, 32))
    given = instances(DRAWN, axes)
    solver, times = Solver(dt=0.02), (0.1,)
    with pytest.raises(InputError, match=r"instances hold \['vorticity'\], expected \['viscosity', 'vort"):
        DRAWN.solve({"vorticity": given["vorticity"]}, axes, times, solver)
    with pytest.raises(InputError, match="viscosity is fixed by the problem, give it an interval"):
        DECAYING.solve(given, axes, times, solver)
    with pytest.raises(InputError, match=r"viscosity has shape \(2,\), expected \(3,\)"):
        DRAWN.solve({**given, "viscosity": given["viscosity"][:2]}, axes, times, solver)
    with pytest.raises(InputError, match="viscosity must be positive, got -"):
        DRAWN.solve({**given, "viscosity": -given["viscosity"]}, axes, times, solver)
    with pytest.raises(GridError, match=r"vorticity has shape \(3, 32, 31\), expected \(batch, 32, 32\)"):
        DRAWN.solve({**given, "vorticity": given["vorticity"][..., 1:]}, axes, times, solver)
    with pytest.raises(InputError, match="mean vorticity must be zero"):
        DRAWN.solve({**given, "vorticity": given["vorticity"] + 1}, axes, times, solver)
    with pytest.raises(InputError, match="several wavenumbers, for which no closed form is known"):
        DRAWN.exact(given, axes, times)
