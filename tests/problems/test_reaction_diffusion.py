"""Gray-Scott and FitzHugh-Nagumo fields: homogeneous and linear solutions, an independent solver, order."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from dlde import catalog
from dlde.errors import GridError, InputError, SpecError
from dlde.numerics.differences import difference
from dlde.problem import Interval, Solver
from dlde.problems.drawn import parameter
from dlde.problems.fitzhugh_nagumo_field import FitzHughNagumoField
from dlde.problems.gray_scott import GrayScott
from dlde.problems.reaction_diffusion import Blobs, Noise

torch.set_num_threads(1)
LINE = GrayScott(domain=((0.0, 64.0),), initial_condition=Blobs(count=3, radius=5.0))
PLANE = GrayScott(
    feed=Interval(low=0.02, high=0.05), domain=((0.0, 32.0), (0.0, 48.0)), initial_condition=Blobs(count=3)
)
NERVE = FitzHughNagumoField()
SHEET = FitzHughNagumoField(
    timescale=Interval(low=0.01, high=0.03),
    domain=((0.0, 1.0), (0.0, 1.5)),
    diffusivity=0.1,
    recovery_diffusivity=0.001,
    initial_condition=Noise(state=(0.2, 0.1), amplitude=0.1, modes=3),
)
ALL = pytest.mark.parametrize(
    ("problem", "shape", "solver", "times"),
    [
        (LINE, (96,), Solver(dt=1.0), (0.0, 20.0, 60.0)),
        (PLANE, (48, 64), Solver(dt=1.0), (0.0, 10.0, 20.0)),
        (NERVE, (128,), Solver(dt=5e-3), (0.0, 0.3, 1.0)),
        (SHEET, (32, 36), Solver(dt=5e-3), (0.0, 0.1, 0.2)),
    ],
    ids=["line", "plane", "nerve", "sheet"],
)


def instances(problem, axes, count=3, seed=100):
    generator = np.random.default_rng(seed)
    drawn = [problem.draw(generator, axes) for _ in range(count)]
    return {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}


def homogeneous(axes, *values):
    shape = (len(values[0]), *(axis.num_points for axis in axes.values()))
    return [
        torch.tensor(value, dtype=torch.float64).view(-1, *[1] * len(axes)).expand(shape) for value in values
    ]


def error(found, reference, problem):
    return max((found[name] - reference[name]).norm() / reference[name].norm() for name in problem.state)


@pytest.mark.parametrize("branch", [1, -1])
def test_homogeneous_steady_states_of_gray_scott_stay(branch):
    """u v = feed + kill and feed (1 - u) = u v^2, besides u = 1, v = 0."""
    feed, kill = 0.05, 0.055
    root = np.sqrt(1 - 4 * (feed + kill) ** 2 / feed)
    u = (1 + branch * root) / 2
    v = (feed + kill) / u
    problem = LINE.model_copy(update={"feed": feed, "kill": kill})
    axes = problem.axes((64,))
    fields = dict(zip("uv", homogeneous(axes, [u, 1.0], [v, 0.0]), strict=True))
    solution = problem.solve(fields, axes, (0.0, 20.0), Solver(dt=1.0))
    for name in "uv":
        assert_allclose(solution[name][:, 1], fields[name], atol=1e-13)


def test_gray_scott_without_a_catalyst_is_linear():
    """v = 0: the modes of u - 1 decay at feed + D_u k^2, exactly, each at its sample's own feed."""
    axes = PLANE.axes((48, 64))
    x, y = np.arange(48)[:, None] / 48, np.arange(64) / 64
    wave = torch.from_numpy(np.cos(2 * np.pi * (2 * x + 3 * y)))
    feeds = torch.tensor([0.02, 0.05], dtype=torch.float64)
    given = {"u": (1 + 0.1 * wave).expand(2, 48, 64), "v": torch.zeros(2, 48, 64).double(), "feed": feeds}
    solution = PLANE.solve(given, axes, (0.0, 30.0), Solver(dt=1.0))
    rates = feeds + 0.2097 * ((4 * np.pi / 32) ** 2 + (6 * np.pi / 48) ** 2)
    decay = torch.exp(-30 * rates)[:, None, None]
    assert_allclose(solution["u"][:, 1], 1 + 0.1 * decay * wave, atol=1e-9)
    assert torch.equal(solution["feed"], feeds)
    assert not solution["v"].any()


@pytest.mark.parametrize(
    ("problem", "start", "time", "dt"),
    [(LINE, (0.6, 0.3), 50.0, 1.0), (NERVE, (0.3, 0.05), 2.0, 2.5e-3)],
    ids=["gray-scott", "fitzhugh-nagumo"],
)
def test_homogeneous_fields_follow_the_ordinary_equation(problem, start, time, dt):
    """Against scipy's DOP853; written out here once more."""

    def gray_scott(t, s, feed=0.03, kill=0.057):
        u, v = s
        return [-u * v**2 + feed * (1 - u), u * v**2 - (feed + kill) * v]

    def fitzhugh_nagumo(t, s):
        v, w = s
        return [(v * (v - 0.1) * (1 - v) - w + 0.05) / 0.015, 0.5 * v - 2 * w + 0.05]

    slope = gray_scott if problem is LINE else fitzhugh_nagumo
    expected = solve_ivp(slope, (0, time), start, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    axes = problem.axes((64,))
    given = dict(zip(problem.state, homogeneous(axes, *[[value] for value in start]), strict=True))
    solution = problem.solve(given, axes, (time,), Solver(dt=dt))
    for name, value in zip(problem.state, expected, strict=True):
        assert_allclose(solution[name], np.full((1, 1, 64), value), rtol=1e-5)


@ALL
def test_agrees_with_the_method_of_lines(problem, shape, solver, times):
    """The last instance by differences of order 8 in space and scipy's DOP853."""
    axes = problem.axes(shape)
    given = instances(problem, axes, 1)
    spacing = [length / n for length, n in zip(problem.extent, shape, strict=True)]
    names = list(problem.state)
    diffusivities = [float(d) for d in problem.diffusivities(given)]
    p = {name: parameter(problem, name, given) for name in problem.rates}

    def slope(t, flat):
        fields = torch.from_numpy(flat).view(2, *shape)
        change = torch.stack(problem.reaction(fields[0], fields[1], p))
        for which, diffusivity in enumerate(diffusivities):
            for dim, h in enumerate(spacing):
                change[which] += diffusivity * difference(fields[which], 2, h, dim)
        return change.numpy().ravel()

    start = np.concatenate([given[name][0].numpy().ravel() for name in names])
    found = solve_ivp(slope, (0, times[1]), start, method="RK45", rtol=1e-6, atol=1e-8)
    expected = torch.from_numpy(found.y[:, -1]).view(2, *shape)
    solution = problem.solve(given, axes, times[1:2], solver)
    for name, field in zip(names, expected, strict=True):
        assert (solution[name][0, 0] - field).norm() < 2e-3 * field.norm()


@ALL
def test_observed_order(problem, shape, solver, times):
    """Four in the step, over three refinements."""
    axes = problem.axes(shape)
    given = instances(problem, axes, 1)
    steps = [2.0, 1.0, 0.5] if problem in (LINE, PLANE) else [0.01, 0.005, 0.0025]
    time = (times[1],)
    reference = problem.solve(given, axes, time, Solver(dt=steps[-1] / 4))
    errors = [error(problem.solve(given, axes, time, Solver(dt=dt)), reference, problem) for dt in steps]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert errors[-1] < 1e-5
    assert orders[-1] == pytest.approx(4, abs=0.5)
    assert orders[0] > 3


@ALL
def test_the_equations_are_met(problem, shape, solver, times):
    axes = problem.axes(shape)
    given = instances(problem, axes, 2)
    defect = problem.defect(given, axes, times[:2], solver)
    assert set(defect) == set(problem.state)
    for value in defect.values():
        assert value.shape == (2,)
        assert value.max() < 1e-2
    assert problem.defect(given, axes, (0.0,), solver) == {}


def test_defect_sees_a_wrong_equation():
    """Twice the feed in the solver."""

    class Wrong(GrayScott):
        def _states(self, instances, axes, times, solver):
            return super()._states({**instances, "feed": 2 * instances["feed"]}, axes, times, solver)

    wrong = Wrong(**{name: getattr(PLANE, name) for name in GrayScott.model_fields})
    axes = wrong.axes((48, 64))
    defect = wrong.defect(instances(wrong, axes, 1), axes, (10.0,), Solver(dt=1.0))
    assert min(defect.values()).item() > 0.1


@ALL
def test_a_sample_does_not_depend_on_its_batch(problem, shape, solver, times):
    """To the bit, also beside a sample that is not finite."""
    axes = problem.axes(shape)
    given = instances(problem, axes, 8)
    names = list(problem.state)
    time = (times[1] / 5,)
    together = problem.solve(given, axes, time, solver)
    alone = problem.solve({k: v[7:] for k, v in given.items()}, axes, time, solver)
    given[names[0]].view(8, -1)[0, 3] = float("nan")
    poisoned = problem.solve(given, axes, time, solver)
    for name in names:
        assert torch.equal(alone[name][0], together[name][7])
        assert not poisoned[name][0].isfinite().any()
        assert torch.equal(poisoned[name][1:], together[name][1:])


@ALL
def test_a_finer_grid_and_solver_show_the_same_instance(problem, shape, solver, times):
    fine = problem.axes([2 * n for n in shape])
    coarse = problem.axes(shape)
    few, many = instances(problem, coarse, 1), instances(problem, fine, 1)
    every = tuple(slice(None, None, 2) for _ in shape)
    time, solver = (0.0, times[1] / 5), Solver(dt=solver.dt, num_points=max(shape))
    u, v = problem.solve(few, coarse, time, solver), problem.solve(many, fine, time, solver)
    for name in problem.state:
        assert_allclose(few[name], many[name][(..., *every)], atol=1e-12)
        assert torch.equal(u[name][:, 0], few[name])
        assert_allclose(u[name], v[name][(..., *every)], atol=1e-4)


@pytest.mark.parametrize("problem", [PLANE, SHEET], ids=["plane", "sheet"])
def test_drawn_parameters_are_stored_and_act(problem):
    shape, solver, time = ((48, 64), Solver(dt=1.0), 5.0) if problem is PLANE else ((32, 32), Solver(), 0.05)
    (name,) = set(problem.variables) - set(problem.state)
    assert problem.variables[name].dims == ()
    axes = problem.axes(shape)
    given = instances(problem, axes, 2)
    together = problem.solve(given, axes, (time,), solver)
    assert torch.equal(together[name], given[name])
    assert given[name][0] != given[name][1]
    fixed = problem.model_copy(update={name: given[name][1].item()})
    alone = fixed.solve({key: given[key][1:] for key in problem.state}, axes, (time,), solver)
    for key in problem.state:
        assert_allclose(alone[key][0], together[key][1], rtol=1e-12)


def test_listed_parameters_are_drawn_as_pairs():
    pairs = {(0.022, 0.051), (0.05, 0.063), (0.034, 0.065)}
    feed, kill = zip(*sorted(pairs), strict=True)
    raw = {"feed": {"one_of": list(feed)}, "kill": {"one_of": list(kill)}, "domain": [[0.0, 64.0]]}
    problem = GrayScott.parse(raw, source="test")
    assert GrayScott.parse(problem.dump(), source="test") == problem
    assert set(problem.variables) == {"u", "v", "feed", "kill"}
    axes = problem.axes((64,))
    given = instances(problem, axes, 60)
    drawn = list(zip(given["feed"].tolist(), given["kill"].tolist(), strict=True))
    assert set(drawn) == pairs
    assert all(8 < drawn.count(pair) < 32 for pair in pairs)
    solution = problem.solve(given, axes, (2.0,), Solver(dt=1.0))
    fixed = LINE.model_copy(
        update={"feed": drawn[5][0], "kill": drawn[5][1], "initial_condition": problem.initial_condition}
    )
    alone = fixed.solve({name: given[name][5:6] for name in "uv"}, axes, (2.0,), Solver(dt=1.0))
    assert_allclose(alone["v"][0], solution["v"][5], atol=1e-14)


def test_single_precision_agrees():
    axes = LINE.axes((96,))
    given = instances(LINE, axes)
    double = LINE.solve(given, axes, (50.0,), Solver(dt=1.0))
    single = LINE.solve(given, axes, (50.0,), Solver(dt=1.0, precision="float32"))
    assert single["u"].dtype == torch.float64
    assert error(single, double, LINE) < 1e-4


def test_the_nerve_oscillates_with_its_period():
    """2.13 at timescale 0.015, measured for the same kinetics with a flux at one end."""
    axes = NERVE.axes((34,))
    given = dict(zip("vw", homogeneous(axes, [0.3], [0.05]), strict=True))
    times = np.arange(0.0, 7.0, 0.02)
    v = NERVE.solve(given, axes, times.tolist(), Solver(dt=0.02))["v"][0, :, 0]
    rising = times[1:][((v[1:] > 0.3) & (v[:-1] <= 0.3)).numpy()]
    assert np.diff(rising)[-1] == pytest.approx(2.13, abs=0.05)


def test_blobs_lie_between_inside_and_outside():
    axes = PLANE.axes((48, 64))
    drawn = instances(PLANE, axes, 5)
    assert drawn["u"].min() >= 0.5
    assert drawn["u"].max() <= 1
    assert drawn["v"].max() == pytest.approx(0.25, abs=0.01)
    assert_allclose(drawn["u"], 1 - 2 * drawn["v"], atol=1e-12)  # the same blobs
    apart = instances(NERVE, NERVE.axes((64,)), 1)
    assert (apart["v"] - 10 * apart["w"]).abs().max() > 0.1


@pytest.mark.parametrize("problem", [LINE, PLANE, NERVE, SHEET])
def test_is_written_and_read_through_the_catalog(problem):
    plain = catalog.write("problem", problem)
    assert plain["name"] in ("gray-scott", "fitzhugh-nagumo-field")
    assert type(problem).parse({k: v for k, v in plain.items() if k != "name"}, source="test") == problem
    assert type(problem).summary().split(":")[0] in ("Gray-Scott", "FitzHugh-Nagumo field")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"feed": 0}, "feed: input should be greater than 0, got 0"),
        ({"kill": {"low": -1.0, "high": 1.0}}, "kill.*must be positive"),
        ({"feed": {"one_of": [0.0]}}, r"feed.one_of.0: input should be greater than 0"),
        ({"feed": {"one_of": []}}, r"feed.one_of: .*at least 1 item"),
        (
            {"feed": {"one_of": [0.02, 0.03]}, "kill": {"one_of": [0.05]}},
            "one_of: feed has 2 and kill has 1 values; .*give equally many",
        ),
        ({"domain": [[0, 1], [1, 0]]}, r"domain of y is \(1, 0\): expected start < stop"),
        ({"domain": []}, "domain: .*at least 1 item"),
        ({"initial_condition": {"kind": "square"}}, "initial_condition: .*'blobs', 'noise'"),
    ],
)
def test_wrong_fields_are_refused(raw, message):
    with pytest.raises(SpecError, match=message):
        GrayScott.parse(raw, source="test")


def test_meaningless_grids_and_steps_are_refused():
    with pytest.raises(GridError, match="for a domain with 2 axes; give one number for each"):
        PLANE.axes((64,))
    with pytest.raises(GridError, match=r"num_points=10 along x: .* of 9 modes needs at least 19"):
        PLANE.axes((10, 64))
    axes = PLANE.axes((32, 32))
    with pytest.raises(GridError, match=r"a solver on 32 points loses modes .*num_points >= 40"):
        PLANE.check_solver(axes, (1.0,), Solver(dt=1.0))
    axes = NERVE.axes((64,))
    with pytest.raises(GridError, match=r"fastest rate is about 62; use solver.dt <= 0\.04\d*") as found:
        NERVE.check_solver(axes, (1.0,), Solver(dt=1.0))
    NERVE.check_solver(axes, (1.0,), Solver(dt=found.value.largest))
    given = instances(NERVE, axes)
    assert NERVE.solve(given, axes, (9.0,), Solver(dt=found.value.largest))["v"].isfinite().all()
    assert not NERVE.solve(given, axes, (9.0,), Solver(dt=5 * found.value.largest))["v"].isfinite().any()


def test_wrong_instances_are_refused():
    axes = PLANE.axes((48, 64))
    given = instances(PLANE, axes)
    with pytest.raises(InputError, match=r"instances hold \['u', 'v'\], expected \['feed', 'u', 'v'\]"):
        PLANE.solve({name: given[name] for name in "uv"}, axes, (1.0,), Solver(dt=1.0))
    with pytest.raises(
        GridError, match=r"v has shape \(3, 48, 63\), expected \(3, 48, 64\) as the grid of x"
    ):
        PLANE.solve({**given, "v": given["v"][..., 1:]}, axes, (1.0,), Solver(dt=1.0))
    with pytest.raises(InputError, match="feed must be positive"):
        PLANE.solve({**given, "feed": -given["feed"]}, axes, (1.0,), Solver(dt=1.0))
