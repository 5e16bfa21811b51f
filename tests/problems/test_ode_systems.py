"""Systems of ordinary differential equations: closed forms, orders, invariants, forces, and refusals."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import ellipj, ellipk
from torch import Tensor

from dlde import catalog
from dlde.datasets.generate import generate
from dlde.datasets.recipe import Recipe
from dlde.errors import GridError, InputError, SpecError
from dlde.problem import Exact, Interval, Solver
from dlde.problems.cubic_oscillator import CubicOscillator
from dlde.problems.damped_oscillator import DampedOscillator
from dlde.problems.drawn import Positive
from dlde.problems.driving_force import Force, GaussianProcess, Multisine
from dlde.problems.duffing import Duffing
from dlde.problems.fitzhugh_nagumo import FitzHughNagumo
from dlde.problems.linear_system import LinearSystem
from dlde.problems.lorenz63 import Lorenz63
from dlde.problems.lotka_volterra import LotkaVolterra
from dlde.problems.ode_system import ODESystem, Start
from dlde.problems.pendulum import Pendulum

torch.set_num_threads(1)
DRIVEN = Duffing(damping=0.1, cubic=0.3, force=Multisine(horizon=6.0, num_sensors=61))
# a system, its end, and a step of which three halvings show the order
ALL: dict[str, tuple[ODESystem, float, float]] = {
    "pendulum": (Pendulum(), 1.0, 0.05),
    "free pendulum": (Pendulum(gravity=Interval(low=1.0, high=9.0), force=None, start=(1.5, 0.5)), 2.0, 0.05),
    "damped oscillator": (DampedOscillator(frequency=Interval(low=0.5, high=2.0)), 4.0, 0.1),
    "duffing": (Duffing(), 3.0, 0.1),
    "driven duffing": (DRIVEN, 6.0, 0.1),
    "lotka-volterra": (LotkaVolterra(), 4.0, 0.1),
    "lorenz63": (Lorenz63(rayleigh=Interval(low=10.0, high=30.0)), 1.0, 0.05),
    "fitzhugh-nagumo": (FitzHughNagumo(current=Interval(low=0.3, high=0.7)), 20.0, 0.5),
    "cubic oscillator": (CubicOscillator(), 2.0, 0.1),
    "linear system": (LinearSystem(), 4.0, 0.1),
}
each = pytest.mark.parametrize(("system", "end", "dt"), ALL.values(), ids=ALL)


class VanDerPol(ODESystem):
    """Van der Pol: x'' = stiffness (1 - x^2) x' - x."""

    components: ClassVar = ("position", "velocity")
    stiffness: Positive = Interval(low=0.5, high=2.0)
    start: Start = (Interval(low=-2.0, high=2.0), 0.0)

    def vector_field(self, t: float, y: Tensor, p: Any) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, p["stiffness"] * (1 - x**2) * v - x], -1)


def instances(system: ODESystem, count: int = 4, seed: int = 0) -> dict[str, Tensor]:
    drawn = [system.draw(np.random.default_rng([seed, i]), {}) for i in range(count)]
    return {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}


def state(system: ODESystem, given: dict[str, Tensor], times: Any, dt: float) -> Tensor:
    return system.solve(given, {}, tuple(times), Solver(dt=dt))["state"]


@each
def test_the_observed_order_is_the_scheme_s(system: ODESystem, end: float, dt: float) -> None:
    given = instances(system)
    times = (end / 2, end)
    solvers = [system.refined(Solver(dt=dt), {}, 2**k) for k in range(4)]
    assert None not in solvers
    solutions = [system.solve(given, {}, times, solver)["state"] for solver in solvers if solver]
    gaps = [float((a - b).norm()) for a, b in pairwise(solutions)]
    orders = np.log2(np.divide(gaps[:-1], gaps[1:]))
    assert np.all(orders > system.order - 0.5), orders
    assert np.all(orders < system.order + 2.5), orders


@each
def test_a_solution_agrees_with_scipy(system: ODESystem, end: float, dt: float) -> None:
    """DOP853 with rtol 1e-12 of one instance; the force is scipy's own spline through its values."""
    from scipy.interpolate import make_interp_spline

    given = {name: value[:1] for name, value in instances(system, 2).items()}
    p = {
        name: given[name] if name in given else torch.tensor([getattr(system, name)], dtype=torch.float64)
        for name in system.parameters()
    }
    force = None
    if system.forcing is not None:
        force = make_interp_spline(system.forcing.sensors, given["force"][0], k=5)

    def field(t: float, y: np.ndarray) -> np.ndarray:
        known = p if force is None else {**p, "force": torch.tensor([float(force(t))], dtype=torch.float64)}
        return system.vector_field(t, torch.from_numpy(y)[None], known)[0].numpy()

    reference = solve_ivp(
        field, (0, end / 2), given["start"][0].numpy(), method="DOP853", rtol=1e-12, atol=1e-13
    ).y[:, -1]
    found = state(system, given, (end / 2,), dt / 16)[0, 0]
    np.testing.assert_allclose(found, reference, rtol=1e-8, atol=1e-8)


@each
def test_what_is_stored(system: ODESystem, end: float, dt: float) -> None:
    given = instances(system, 3)
    found = system.solve(given, {}, (0.0, end / 3, end), Solver(dt=dt / 2))
    assert list(found) == list(system.variables)
    sizes = {"time": 3}
    for name, variable in system.variables.items():
        shape = [{**sizes, **variable.sizes}[dim] for dim in variable.dims]
        assert list(found[name].shape) == [3, *shape]
        assert found[name].dtype == torch.float64
        if name != "state":
            assert torch.equal(found[name], given[name])
    assert torch.equal(found["state"][:, 0], given["start"])
    assert found["state"].isfinite().all()


@each
def test_one_instance_does_not_depend_on_its_neighbours(system: ODESystem, end: float, dt: float) -> None:
    given = instances(system, 3)
    together = state(system, given, (end / 2,), dt)
    alone = state(system, {name: value[1:2] for name, value in given.items()}, (end / 2,), dt)
    torch.testing.assert_close(alone[0], together[1], rtol=1e-12, atol=1e-13)
    again = instances(system, 2)
    assert all(torch.equal(again[name], given[name][:2]) for name in given)


@each
def test_single_precision_is_near(system: ODESystem, end: float, dt: float) -> None:
    given = instances(system)
    double = system.solve(given, {}, (end / 2,), Solver(dt=dt / 4))["state"]
    single = system.solve(given, {}, (end / 2,), Solver(dt=dt / 4, precision="float32"))["state"]
    assert single.dtype == torch.float64
    assert 0 < float((single - double).norm() / double.norm()) < 2e-5


@each
def test_the_defect_is_small(system: ODESystem, end: float, dt: float) -> None:
    defect = system.defect(instances(system), {}, (0.0, end / 2, end), Solver(dt=dt / 4))
    assert list(defect) == list(system.components)
    for values in defect.values():
        assert values.shape == (4,)
        assert float(values.max()) < 1e-6


def test_the_defect_shows_a_wrong_solution() -> None:
    class Stretched(Lorenz63):
        """Stretched: solutions that are one in a hundred too large."""

        def solve(self, *arguments: Any) -> dict[str, Tensor]:
            found = super().solve(*arguments)
            return {**found, "state": 1.01 * found["state"]}

    system = Stretched()
    defect = system.defect(instances(system), {}, (0.5,), Solver(dt=0.01))
    assert max(float(values.max()) for values in defect.values()) > 1e-3  # x' = prandtl (y - x) is linear
    assert system.defect(instances(system), {}, (0.0,), Solver(dt=0.01)) == {}


@pytest.mark.parametrize(
    "system",
    [
        Pendulum(gravity=Interval(low=1.0, high=2.0), stiffness=0.5, force=None, start=(2.0, 0.3)),
        DampedOscillator(damping=0.0),
        Duffing(damping=0.0, stiffness=-1.0),
        LotkaVolterra(gain=Interval(low=0.5, high=2.0)),
        CubicOscillator(damping=0.0),
    ],
    ids=lambda s: type(s).__name__,
)
def test_what_the_exact_flow_keeps_is_kept(system: ODESystem) -> None:
    found = system.solve(instances(system), {}, (0.0, 0.5, 2.0), Solver(dt=1e-2))
    conserved = system.conserved(found, {})
    assert conserved
    for values in conserved.values():
        assert values.shape == (4, 3)
        torch.testing.assert_close(values, values[:, :1].expand_as(values), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("system", [Pendulum(friction=0.1, force=None, start=(1.0, 1.0)), Duffing()], ids=str)
def test_friction_takes_energy(system: Pendulum | Duffing) -> None:
    found = system.solve(instances(system), {}, (0.0, 1.0, 3.0), Solver(dt=1e-2))
    assert system.conserved(found, {}) == {}
    p = {name: getattr(system, name) for name in system.parameters()}
    assert bool((system.energy(found["state"], p).diff(dim=1) < 0).all())


@pytest.mark.parametrize(
    "system",
    [
        DampedOscillator(damping=Interval(low=0.0, high=0.3), frequency=Interval(low=0.5, high=2.0)),
        LinearSystem(),
        LinearSystem(matrix=((-1.0, 2.0, 0.0), (-2.0, -1.0, 0.5), (0.0, 0.0, -3.0)), rest=(1.0, 0.0, -1.0),
                     start=(0.0, 1.0, Interval(low=1.0, high=2.0))),
    ],
    ids=["damped oscillator", "spiral", "three components"],
)  # fmt: skip
def test_closed_forms(system: Any) -> None:
    assert isinstance(system, Exact)
    given, times = instances(system), (0.0, 0.7, 3.0)
    exact = system.exact(given, {}, times)
    assert list(exact) == list(system.variables)
    torch.testing.assert_close(exact["state"][:, 0], given["start"])
    errors = [float((state(system, given, times, dt) - exact["state"]).norm()) for dt in (0.1, 0.05, 0.025)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(orders > 3.7)
    assert np.all(orders < 4.5)
    torch.testing.assert_close(state(system, given, times, 5e-3), exact["state"], rtol=1e-7, atol=1e-9)


def test_a_free_pendulum_swings_by_jacobi_s_elliptic_functions() -> None:
    """sin(angle / 2) = k sn(K - t), k = sin(start / 2), from rest at gravity 1."""
    start = 2.5
    times = np.linspace(0, 5, 11)
    k = math.sin(start / 2)
    exact = 2 * np.arcsin(k * ellipj(ellipk(k**2) - times, k**2)[0])
    system = Pendulum(force=None, start=(start, 0.0))
    np.testing.assert_allclose(state(system, instances(system, 1), times, 1e-2)[0, :, 0], exact, atol=2e-8)


def test_a_free_undamped_duffing_oscillator_is_a_jacobi_cosine() -> None:
    """x = a cn(w t, m), w^2 = stiffness + cubic a^2, m = cubic a^2 / (2 w^2), from rest at a."""
    a, times = 1.3, np.linspace(0, 5, 11)
    w2 = 1 + a**2
    exact = a * ellipj(math.sqrt(w2) * times, a**2 / (2 * w2))[1]
    system = Duffing(damping=0.0, start=(a, 0.0))
    np.testing.assert_allclose(state(system, instances(system, 1), times, 1e-2)[0, :, 0], exact, atol=2e-8)


def test_lotka_and_volterra_s_starts_lie_on_a_line_or_fill_a_box() -> None:
    together = instances(LotkaVolterra(), 20)["start"]
    torch.testing.assert_close(together[:, 0], 2 * together[:, 1])
    apart = instances(LotkaVolterra(together=False), 20)["start"]
    assert float((apart[:, 0] - 2 * apart[:, 1]).abs().max()) > 0.1
    rest = LotkaVolterra(start=(1.0, 0.5))
    torch.testing.assert_close(
        state(rest, instances(rest, 1), (5.0,), 0.1)[0, 0], torch.tensor([1.0, 0.5], dtype=torch.float64)
    )


@pytest.mark.parametrize(
    "force", [GaussianProcess(), Multisine(horizon=6.0, num_sensors=61)], ids=lambda f: f.kind
)
def test_more_sensors_show_the_same_force(force: Force) -> None:
    finer = force.model_copy(update={"num_sensors": 2 * force.num_sensors - 1})
    coarse, fine = (f.draw(np.random.default_rng(3)) for f in (force, finer))
    np.testing.assert_allclose(fine[::2], coarse, atol=1e-12)


def test_a_gaussian_process_has_its_covariance() -> None:
    force = GaussianProcess(num_sensors=11, std=2.0, length_scale=0.3)
    generator = np.random.default_rng(0)
    values = np.stack([force.draw(generator) for _ in range(4000)])
    distance = force.sensors[:, None] - force.sensors
    expected = 4 * np.exp(-(distance**2) / (2 * 0.3**2))
    np.testing.assert_allclose(values.T @ values / 4000, expected, atol=4 * 4 * math.sqrt(2 / 4000))


def test_a_multisine_has_its_size_and_lines() -> None:
    values = Multisine(horizon=200.0, num_sensors=2001, std=0.3).draw(np.random.default_rng(0))
    assert values[:-1].std() == pytest.approx(0.3, rel=1e-6)
    power = np.abs(np.fft.rfft(values[:-1])) ** 2
    assert np.flatnonzero(power > 1e-6 * power.max()).tolist() == list(range(10, 101, 10))


def test_a_force_of_one_s_own_is_followed() -> None:
    """A constant force on a weightless mass: angle = t^2 / 2; linear pendulum otherwise."""
    system = Pendulum(gravity=1e-12)
    given = {
        "start": torch.zeros(1, 2, dtype=torch.float64),
        "force": torch.ones(1, 101, dtype=torch.float64),
    }
    found = state(system, given, (0.5, 1.0), 0.1)[0, :, 0]
    np.testing.assert_allclose(found, [0.125, 0.5], atol=1e-11)


def parse(name: str = "lorenz63", times: Any = None, **problem: Any) -> Recipe:
    solver = problem.pop("solver", {"dt": 1e-2})
    raw = {
        "name": "orbits",
        "problem": {"name": name, **problem},
        "num_points": problem.pop("num_points", []),
        "times": times or {"stop": 1.0, "count": 11},
        "samples": {"train": 5},
        "solver": solver,
    }
    raw["problem"] = {"name": name, **problem}
    return Recipe.parse(raw, source="test")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_points": [16]}, r"num_points=\[16\]: there is no spatial axis; use num_points: \[\]"),
        ({"solver": {"num_points": 16}}, "solver.num_points=16: there is no spatial axis; leave it out"),
        (
            {"solver": {"dt": 1.0}, "times": [1.0]},
            "solver.dt=1 is not stable with dop853: .* rates up to 18.* at its starts; use solver.dt <= 0.31",
        ),
        (
            {"name": "linear-system", "matrix": [[-1e4, 0.0], [0.0, -1.0]]},
            "solver.dt=0.01 is not stable with rk4: .*up to 1e[+]04 .*use solver.dt <= 0.000261",
        ),
        (
            {"name": "pendulum", "times": [0.0, 2.0]},
            "times up to 2, but the force ends at 1; use earlier times, or problem.force.horizon >= 2",
        ),
        ({"start": [1.0, 1.0]}, "start has 2 entries, expected 3: x, y, z"),
        ({"prandtl": -1.0}, "prandtl.*: input should be greater than 0"),
        ({"prandtl": {"low": -1.0, "high": 1.0}}, "prandtl.*: .*low=-1: expected more than 0"),
        (
            {"name": "damped-oscillator", "damping": {"low": -1.0, "high": 1.0}},
            "damping.*: .*low=-1: expected 0 or more",
        ),
        (
            {"name": "lotka-volterra", "start": [0.0, 1.0]},
            "start reaches down to 0: expected more than 0 of both",
        ),
        (
            {"name": "linear-system", "matrix": [[1.0, 0.0]]},
            "matrix: 1 rows of 2 entries: expected as many rows",
        ),
        ({"name": "linear-system", "rest": [1.0]}, "rest has 1 entries, expected 2"),
        (
            {"name": "pendulum", "force": {"length_scale": 0.01, "num_sensors": 50}},
            "num_sensors=50 cannot show a length_scale of 0.01 over a horizon of 1; use num_sensors >= 201",
        ),
        (
            {"name": "duffing", "force": {"kind": "multisine", "highest": 50.0}},
            "num_sensors=101 cannot show a frequency of 50 .* use num_sensors >= 201",
        ),
        (
            {"name": "duffing", "force": {"kind": "multisine", "lowest": 2.0}},
            "lowest=2, highest=0.5: expected lowest <= highest",
        ),
    ],
    ids=str,
)
def test_mistakes_are_refused_before_anything_is_drawn(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(**fields)


def test_the_step_that_a_refusal_names_is_accepted() -> None:
    with pytest.raises(GridError) as refused:
        Lorenz63().check_solver({}, (1.0,), Solver(dt=1.0))
    Lorenz63().check_solver({}, (1.0,), Solver(dt=float(refused.value.message.rsplit(" ", 1)[1])))
    Lorenz63().check_solver({}, np.linspace(0, 1, 11).tolist(), Solver(dt=1.0))  # shortened by the times


def test_instances_of_another_form_are_refused() -> None:
    system, solver = Lorenz63(prandtl=Interval(low=8.0, high=12.0)), Solver(dt=0.01)
    given = instances(system, 2)
    with pytest.raises(
        InputError, match="Lorenz63 consists of start, prandtl, but given are start; a parameter"
    ):
        system.solve({"start": given["start"]}, {}, (1.0,), solver)
    with pytest.raises(GridError, match=r"prandtl has shape \(1,\), expected \(batch\)"):
        system.solve({**given, "prandtl": given["prandtl"][:1]}, {}, (1.0,), solver)
    with pytest.raises(GridError, match=r"start has shape \(2, 2\), expected \(batch, 3\)"):
        system.solve({**given, "start": given["start"][:, :2]}, {}, (1.0,), solver)
    with pytest.raises(InputError, match="prey and predators must be more than 0"):
        LotkaVolterra().solve({"start": torch.zeros(1, 2)}, {}, (1.0,), solver)


def test_a_system_of_a_user_s_own_becomes_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog.PROBLEMS, "van-der-pol", f"{__name__}:VanDerPol")
    catalog.places.cache_clear()
    try:
        recipe = parse("van-der-pol", stiffness={"low": 1.0, "high": 3.0})
        dataset = generate(recipe, tmp_path).dataset
    finally:
        catalog.places.cache_clear()
    assert dataset.read("train", "state").shape == (5, 11, 2)
    stiffness = dataset.read("train", "stiffness")
    assert stiffness.shape == (5,)
    assert len(set(stiffness.tolist())) == 5
    assert 1.0 <= stiffness.min() < stiffness.max() <= 3.0
    start = torch.from_numpy(dataset.read("train", "state")[:, 0].astype(np.float64))
    again = state(
        VanDerPol(stiffness=Interval(low=1.0, high=3.0)),
        {"start": start, "stiffness": torch.from_numpy(stiffness.astype(np.float64))},
        recipe.times,
        1e-2,
    )
    np.testing.assert_allclose(dataset.read("train", "state"), again, atol=2e-6)
    assert VanDerPol.order == 4
    assert VanDerPol.summary() == "Van der Pol: x'' = stiffness (1 - x^2) x' - x."


@each
def test_nothing_is_read_back_from_the_device_while_stepping(
    system: ODESystem, end: float, dt: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, which has no values to read."""
    monkeypatch.setattr(LotkaVolterra, "check_start", lambda *_: None)  # it reads once, before
    given = {name: value.to("meta") for name, value in instances(system).items()}
    found = system.solve(given, {}, (0.0, end), Solver(dt=dt, precision="float32"))
    assert found["state"].device.type == "meta"
    assert found["state"].shape == (4, 2, len(system.components))


@pytest.mark.parametrize(
    ("name", "presets"),
    [
        ("pendulum", ("long", "torsional")),
        ("damped-oscillator", ("family",)),
        ("duffing", ("driven",)),
        ("lotka-volterra", ()),
        ("lorenz63", ("parametric",)),
        ("fitzhugh-nagumo", ()),
        ("cubic-oscillator", ("one",)),
        ("linear-system", ()),
    ],
)
def test_the_recipes_are_read(name: str, presets: tuple[str, ...]) -> None:
    for preset in (None, *presets):
        recipe = Recipe.load(name, preset=preset)
        assert isinstance(recipe.problem, ODESystem)
        assert recipe.times[1] - recipe.times[0] >= recipe.solver.dt * (1 - 1e-9)
    assert Recipe.load("pendulum").variables["state"].units == "rad"


def test_what_units_are_stored() -> None:
    class Falling(ODESystem):
        """Falling: height'' = -gravity."""

        components: ClassVar = ("height", "velocity")
        units: ClassVar = {"height": "m", "velocity": "m s-1", "gravity": "m s-2"}
        gravity: Positive = Interval(low=9.78, high=9.83)
        start: Start = (0.0, 1.0)

        def vector_field(self, t: float, y: Tensor, p: Any) -> Tensor:
            return torch.stack([y[:, 1], -p["gravity"]], -1)

    state, gravity = Falling().variables.values()
    assert (state.long_name, state.units) == ("height, velocity", "m, m s-1")
    assert (gravity.dims, gravity.units, gravity.long_name) == ((), "m s-2", "gravity")
