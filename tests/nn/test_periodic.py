"""Convolutions on a periodic line: the same as the library's, and their symmetry."""

from __future__ import annotations

import pytest
import torch

from dlde.errors import GridError
from dlde.nn.periodic import PeriodicConv1d, check_places, patches


@pytest.mark.parametrize(("kernel", "points"), [(1, 6), (3, 6), (5, 6), (5, 3)])
def test_it_is_the_librarys_circular_convolution(kernel: int, points: int) -> None:
    torch.manual_seed(0)
    ours = PeriodicConv1d(2, 4, kernel).double()
    theirs = torch.nn.Conv1d(2, 4, kernel, padding=kernel // 2, padding_mode="circular").double()
    with torch.no_grad():
        theirs.weight.copy_(ours.linear.weight.view(4, kernel, 2).transpose(1, 2))
        theirs.bias.copy_(ours.linear.bias)  # type: ignore[union-attr]
    v = torch.randn(3, points, 2, dtype=torch.float64)
    torch.testing.assert_close(ours(v), theirs(v.transpose(1, 2)).transpose(1, 2))


def test_a_kernel_wider_than_the_line_wraps_around_it() -> None:
    layer = PeriodicConv1d(1, 1, 7).double()
    torch.nn.init.ones_(layer.linear.weight)
    torch.nn.init.zeros_(layer.linear.bias)
    v = torch.tensor([[[1.0], [10.0]]], dtype=torch.float64)
    torch.testing.assert_close(layer(v).flatten().tolist(), [1.0 * 3 + 10 * 4, 1 * 4 + 10.0 * 3])


@pytest.mark.parametrize("shift", [1, 3, 5])
def test_it_commutes_with_shifts(shift: int) -> None:
    layer, v = PeriodicConv1d(2, 3, 5), torch.randn(1, 6, 2)
    torch.testing.assert_close(layer(v.roll(shift, 1)), layer(v).roll(shift, 1))


def test_a_place_stands_in_the_middle_of_its_patch() -> None:
    v = torch.arange(12.0).view(1, 12, 1)
    assert patches(v, 3)[0].tolist() == [[10, 11, 0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]
    assert patches(v, 12).equal(v)
    assert patches(v.expand(1, 12, 2), 3).shape == (1, 3, 8)


def test_bad_kernels_and_places_are_refused() -> None:
    with pytest.raises(GridError, match="kernel=4 has no centre"):
        PeriodicConv1d(1, 1, 4)
    with pytest.raises(
        GridError, match="5 places do not divide a periodic line of 12 points; use one of 1, 2, 3, 4, 6, 12"
    ):
        check_places(12, 5)
