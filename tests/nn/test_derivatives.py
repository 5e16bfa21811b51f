"""Derivatives through a network in one pass, against nested automatic differentiation in float64."""

from __future__ import annotations

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlde.nn import derivatives
from dlde.nn.mlp import MLP
from dlde.numerics.jets import Jet, coordinates

torch.set_num_threads(1)
NAMES = ("t", "x", "y")
FIRST = NAMES
SECOND = tuple(a + b for place, a in enumerate(NAMES) for b in NAMES[place:])
TERMS = st.dictionaries(st.sampled_from(FIRST + SECOND), st.floats(-2, 2).filter(bool), min_size=1)


def nested(model: MLP, x: Tensor) -> dict[str, Tensor]:
    """All derivatives of the first output up to order two, by autograd."""
    (first,) = torch.autograd.grad(model(x)[:, 0].sum(), x, create_graph=True)
    found = dict(zip(NAMES, first.unbind(1), strict=True))
    for row, name in enumerate(NAMES):
        (second,) = torch.autograd.grad(
            first[:, row].sum(), x, create_graph=True, allow_unused=True, materialize_grads=True
        )
        found |= {name + other: second[:, place] for place, other in enumerate(NAMES)}
    return found


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(1, 7), max_size=3),
    names=st.sets(st.sampled_from(FIRST + SECOND)),
    operators=st.dictionaries(st.sampled_from(["heat", "wave"]), TERMS),
    seed=st.integers(0, 10_000),
)
def test_values_and_gradients_are_those_of_nested_autograd(
    widths: list[int], names: set[str], operators: dict[str, dict[str, float]], seed: int
) -> None:
    torch.manual_seed(seed)
    model = MLP((3, *widths, 2), dtype=torch.float64)
    x = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    jet = model(coordinates(x, NAMES, sorted(names), operators))
    single = nested(model, x)
    expected = {name: single[name] for name in jet.names if name not in operators}
    expected |= {
        name: torch.stack([c * single[term] for term, c in terms.items()]).sum(0)
        for name, terms in operators.items()
    }
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(jet.value, model(x), **close)
    ours, theirs = jet.value[:, 0].square().sum(), model(x)[:, 0].square().sum()
    for weight, name in enumerate(jet.names, start=1):
        torch.testing.assert_close(jet[name][:, 0], expected[name], **close)
        ours = ours + weight * jet[name][:, 0].square().sum()
        theirs = theirs + weight * expected[name].square().sum()
    inputs = [x, *model.parameters()]
    for mine, other in zip(
        *(torch.autograd.grad(loss, inputs, materialize_grads=True) for loss in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(mine, other, **close)


def test_tanh_by_hand_is_the_tanh_of_plain_tensors() -> None:
    """Rows that hold for all points, streams that are zero, and gradients of every stream."""
    operators = {"heat": {"t": 1.0, "xx": -0.3, "xy": 0.7}}
    torch.manual_seed(100)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    parts = {"x": leaf(1, 3), "y": leaf(5, 3), "yy": leaf(1, 3), "heat": leaf(5, 3)}
    jet = Jet(leaf(5, 3), parts, ("t", "x", "y", "xy", "yy", "heat"), operators)
    leaves = [jet.value, *parts.values()]
    by_hand, plain = derivatives.tanh(jet), jet.tanh()
    assert by_hand.names == plain.names
    assert set(by_hand.parts) == set(plain.parts) == {"x", "y", "xy", "yy", "heat"}
    found = []
    for result in (by_hand, plain):
        weights = torch.Generator().manual_seed(1)
        loss = result.value.square().sum()
        for name in ("x", "y", "xy", "yy", "heat"):
            loss = loss + (torch.randn(5, 3, dtype=torch.float64, generator=weights) * result[name]).sum()
        found.append(torch.autograd.grad(loss, leaves))
    for name in by_hand.parts:
        torch.testing.assert_close(by_hand[name], plain[name], rtol=1e-13, atol=1e-13)
    for mine, other in zip(*found, strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_differentiating_twice_is_refused_not_wrong() -> None:
    model = MLP((1, 4, 1), dtype=torch.float64)
    x = torch.rand(3, 1, dtype=torch.float64, requires_grad=True)
    loss = model(coordinates(x, ("x",), ("xx",)))["xx"].sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_loss_has_the_same_gradients() -> None:
    torch.manual_seed(100)
    model = MLP((2, 8, 8, 1), dtype=torch.float64)
    x = torch.rand(16, 2, dtype=torch.float64)
    operators = {"heat": {"t": 1.0, "xx": -0.1}}

    def loss(points: Tensor) -> Tensor:
        u = model(coordinates(points, ("t", "x"), ("x",), operators))
        return (u["heat"] + u.value * u["x"]).square().mean()

    torch.compiler.reset()
    parameters = list(model.parameters())
    values = [function(x) for function in (loss, torch.compile(loss, fullgraph=True))]
    torch.testing.assert_close(values[0], values[1])
    for mine, other in zip(*(torch.autograd.grad(v, parameters) for v in values), strict=True):
        torch.testing.assert_close(mine, other)
