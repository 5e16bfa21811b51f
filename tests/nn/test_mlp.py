"""The network's jets against nested automatic differentiation."""

from __future__ import annotations

import pytest
import torch

from dlde.nn.mlp import MLP
from dlde.numerics.jets import Jet, coordinates

torch.set_num_threads(1)


def network(*sizes: int, **options: float) -> MLP:
    torch.manual_seed(100)
    return MLP(sizes, dtype=torch.float64, **options)


@pytest.mark.parametrize(
    "derivatives", [("x",), ("xx",), ("xx", "t"), ("xx", "yy"), ("xx", "tx", "tt")], ids=str
)
@pytest.mark.parametrize("sizes", [(3, 2), (3, 8, 2), (3, 8, 5, 2)], ids=str)
def test_one_pass_gives_the_derivatives_of_nested_ones(
    sizes: tuple[int, ...], derivatives: tuple[str, ...]
) -> None:
    model, names = network(*sizes), ("x", "y", "t")
    x = torch.rand(6, 3, dtype=torch.float64, requires_grad=True)
    jet = model(coordinates(x, names, derivatives))
    torch.testing.assert_close(jet.value, model(x))
    for output in range(2):
        (first,) = torch.autograd.grad(model(x)[:, output].sum(), x, create_graph=True)
        for name in jet.names:
            expected = first[:, names.index(name[0])]
            if len(name) == 2:
                (second,) = torch.autograd.grad(
                    expected.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True
                )
                expected = second[:, names.index(name[1])]
            torch.testing.assert_close(jet[name][:, output], expected, rtol=1e-11, atol=1e-12)


def test_gradients_of_a_second_derivative_reach_weights_and_points() -> None:
    model = network(1, 8, 8, 1)
    x = torch.rand(5, 1, dtype=torch.float64, requires_grad=True)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return model(coordinates(x, ("x",), ("xx",)))["xx"].square().sum()

    for layer in model.layers[:-1]:
        (gradient,) = torch.autograd.grad(loss(x), layer.weight)
        with torch.no_grad():
            direction, before = torch.randn_like(layer.weight), layer.weight.clone()
            ends = []
            for sign in (1, -1):
                layer.weight.copy_(before + sign * 1e-6 * direction)
                ends.append(loss(x))
            layer.weight.copy_(before)
        torch.testing.assert_close(
            (gradient * direction).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8
        )
    assert torch.autograd.grad(loss(x), x)[0].abs().min() > 0


def test_a_composition_carries_the_derivatives_of_its_inputs() -> None:
    """N(x^2) at x: the inputs' own second derivatives enter the first layer."""
    model = network(1, 6, 1)
    x = torch.rand(5, 1, dtype=torch.float64, requires_grad=True)
    jet: Jet = model(coordinates(x, ("x",), ("xx",)) ** 2)
    (first,) = torch.autograd.grad(model(x**2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(jet["x"], first)
    torch.testing.assert_close(jet["xx"], second)


def test_steepness_scales_the_first_layer_alone() -> None:
    plain, steep = network(2, 4, 4, 1), network(2, 4, 4, 1, steepness=5.0)
    torch.testing.assert_close(steep.layers[0].weight, 5 * plain.layers[0].weight)
    torch.testing.assert_close(steep.layers[0].bias, 5 * plain.layers[0].bias)
    torch.testing.assert_close(steep.layers[1].weight, plain.layers[1].weight)
