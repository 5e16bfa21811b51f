"""Central differences: their weights and their order."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from dlde.numerics.differences import _weights, difference


def test_weights_are_the_known_ones():
    assert_allclose(_weights(1, 1), [-0.5, 0, 0.5], atol=1e-15)
    assert_allclose(_weights(2, 2), np.array([-1, 16, -30, 16, -1]) / 12, atol=1e-14)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("accuracy", [2, 4, 8])
def test_order_of_accuracy(order, accuracy):
    """Of derivatives of exp(sin x), against those by the Fourier series."""
    errors = []
    for n in (32, 64):
        x = torch.arange(n, dtype=torch.float64) * (2 * torch.pi / n)
        u = torch.exp(torch.sin(x))
        exact = torch.fft.irfft(torch.fft.rfft(u) * (1j * torch.arange(n // 2 + 1)) ** order, n=n)
        errors.append(difference(u, order, 2 * torch.pi / n, accuracy=accuracy).sub(exact).abs().max())
    assert_allclose(np.log2(errors[0] / errors[1]), accuracy, atol=0.8)
    plane = torch.stack([u, 2 * u], dim=1)
    along = difference(plane, order, 2 * torch.pi / n, 0, accuracy=accuracy)
    assert_allclose(
        along[:, 1], 2 * difference(u, order, 2 * torch.pi / n, accuracy=accuracy), rtol=1e-12, atol=1e-9
    )
