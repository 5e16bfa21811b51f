"""Jets against nested automatic differentiation, and closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlde.errors import SpecError
from dlde.numerics.jets import Jet, axes, closed, columns, coordinates

torch.set_num_threads(1)
FUNCTIONS = ["exp", "log", "sqrt", "sin", "cos", "tanh", "sigmoid", "reciprocal"]
ALL = ("xx", "yy", "xy")


def points(count: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100)
    return (0.2 + torch.rand(count, 2, generator=generator, dtype=torch.float64)).requires_grad_()


def nested(value: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """All derivatives up to order two by autograd."""
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    found = {"x": first[:, 0], "y": first[:, 1]}
    for row, name in enumerate("xy"):
        (second,) = torch.autograd.grad(first[:, row].sum(), x, create_graph=True, allow_unused=True)
        second = torch.zeros_like(x) if second is None else second
        found[name + "x"], found[name + "y"] = second[:, 0], second[:, 1]
    return found


def assert_agrees(jet: Jet, x: torch.Tensor) -> None:
    expected = nested(jet.value, x)
    assert jet.names == ("x", "y", "xx", "xy", "yy")
    for name in jet.names:
        torch.testing.assert_close(jet[name], expected[name], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_follow_the_chain_rule(name: str) -> None:
    x = points()
    c = axes(x, "xy", ALL)
    assert_agrees(getattr(1 + c["x"] * c["y"] + 0.3 * c["x"] ** 2, name)(), x)


@pytest.mark.parametrize("exponent", [1, 2, 3, -1, 0.5])
def test_powers(exponent: float) -> None:
    x = points()
    c = axes(x, "xy", ALL)
    assert_agrees((c["x"] * c["y"] + c["y"]) ** exponent, x)


STEPS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / (2 + b * b),
    "number left": lambda a, b: 2 - a,
    "number over": lambda a, b: 0.5 / (2 + a * a),
    "tensor left": lambda a, b: torch.tensor(0.7, dtype=torch.float64) * a,
    "tensor less": lambda a, b: torch.tensor(0.7, dtype=torch.float64) - a,
    "negate": lambda a, b: -a,
    "squash": lambda a, b: (a + b).tanh(),
    "wave": lambda a, b: (a * b).sin(),
}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6))
def test_any_formula_has_the_derivatives_that_autograd_finds(formula: list[str]) -> None:
    x = points(3)
    a, b = axes(x, "xy", ALL).values()
    a = a * b
    for step in formula:
        a, b = STEPS[step](a, b), a
    assert_agrees(a + 0 * b * b, x)


def test_results_can_be_differentiated_along_the_points() -> None:
    """The third derivative of x^3 y is 6 y."""
    x = points()
    c = axes(x, "xy", ("xx",))
    u = c["x"] ** 3 * c["y"]
    (slope,) = torch.autograd.grad(u["xx"].sum(), x)
    torch.testing.assert_close(slope[:, 0], 6 * x[:, 1])


def test_coordinates_have_slope_one_along_themselves() -> None:
    x = points(4)
    split = columns(coordinates(x, ("x", "y"), ALL), ("x", "y"))
    for name, other in (("x", "y"), ("y", "x")):
        assert split[name][name].tolist() == [1] * 4
        assert split[name][other].tolist() == split[name]["xy"].tolist() == [0] * 4


def test_a_constant_keeps_what_is_carried() -> None:
    c = axes(points(3), "xy", ("xx",))["x"].constant(2.5)
    assert c.value.tolist() == [2.5] * 3
    assert c["xx"].tolist() == [0] * 3
    assert repr(c) == "Jet((3,), derivatives x, xx)"


def test_closed_adds_what_is_needed() -> None:
    assert closed(("xx",)) == ("x", "xx")
    assert closed(("ty", "t")) == ("t", "y", "ty")
    assert closed(()) == ()


def test_refusals_name_the_derivative() -> None:
    with pytest.raises(SpecError, match="'xxx': expected one letter, or two in alphabetical order"):
        closed(("xxx",))
    with pytest.raises(SpecError, match="'yx': expected"):
        closed(("yx",))
    with pytest.raises(SpecError, match=r"derivatives along 'z', but the coordinates are 'x', 't'"):
        coordinates(points(), ("x", "t"), ("z",))
    jet = axes(points(), "xy", ("x",))["x"]
    with pytest.raises(SpecError, match="'xx' is not carried"):
        jet["xx"]
    with pytest.raises(SpecError, match=r"\(x\) and \(x, xx\), cannot be combined"):
        jet + axes(points(), "xy", ("xx",))["x"]


@settings(max_examples=30, deadline=None)
@given(function=st.sampled_from(FUNCTIONS), cx=st.floats(-2, 2), cxy=st.floats(-2, 2), cyy=st.floats(-2, 2))
def test_an_operator_obeys_the_rules_of_products_and_compositions(
    function: str, cx: float, cxy: float, cyy: float
) -> None:
    """One part carries what its derivatives, carried one by one, sum to."""
    terms = {"x": cx, "xy": cxy, "yy": cyy}
    x = points()
    singly = columns(coordinates(x, "xy", ALL), "xy")
    at_once = columns(coordinates(x, "xy", (), {"mixed": terms}), "xy")

    def of(c: dict[str, Jet]) -> Jet:
        product = c["x"] * c["y"] * c["y"] + 1.5 * c["x"]
        return getattr(product, function)() / (c["y"] + 2) - c["x"] ** 3

    result, separate = of(at_once), of(singly)
    expected = sum(c * separate[name] for name, c in terms.items())
    assert "xy" not in result.parts
    torch.testing.assert_close(result["mixed"], expected, rtol=1e-11, atol=1e-11)


def test_operators_that_mean_nothing_are_refused() -> None:
    for operators, message in (
        ({"uu": {"xx": 1.0}}, "operator 'uu' .* three letters or more"),
        ({"heat": {}}, "at least one term"),
        ({"heat": {"xxx": 1.0}}, "derivative 'xxx'"),
        ({"heat": {"yx": 1.0}}, "derivative 'yx'"),
    ):
        with pytest.raises(SpecError, match=message):
            closed((), operators)
    with pytest.raises(SpecError, match="derivatives along 'z'"):
        coordinates(points(), "xy", (), {"heat": {"z": 1.0}})
    heat, wave = (coordinates(points(), "xy", (), {"heat": {"xx": c}}) for c in (1.0, 2.0))
    with pytest.raises(SpecError, match="cannot be combined"):
        heat + wave
