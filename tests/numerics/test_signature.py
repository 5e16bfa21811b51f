"""The truncated signature: closed forms, Chen's identity, and what it does not see."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlde.numerics.signature import num_signature_features, signature


def increments(batch: int, steps: int, channels: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, steps, channels, generator=generator, dtype=torch.float64)


def levels(features: Tensor, channels: int, order: int) -> list[Tensor]:
    return list(features.split([channels**level for level in range(1, order + 1)], -1))


def tensor_product(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    """Of two elements whose level 0 is 1."""
    out = []
    for level in range(len(left)):
        total = left[level] + right[level]
        for below in range(level):
            total = total + torch.einsum("bi,bj->bij", left[below], right[level - below - 1]).flatten(1)
        out.append(total)
    return out


@pytest.mark.parametrize(
    ("channels", "order", "count"), [(5, 3, 155), (51, 3, 135303), (2, 5, 62), (1, 4, 4)]
)
def test_number_of_features(channels: int, order: int, count: int) -> None:
    assert num_signature_features(channels, order) == count


def test_of_a_line_it_is_the_exponential() -> None:
    """However many points the line is given by."""
    dx = increments(2, 1, 3)
    line = signature((dx / 4).expand(2, 4, 3), 4)[:, -1]
    power = dx[:, 0]
    for level, found in enumerate(levels(line, 3, 4), start=1):
        torch.testing.assert_close(found, power / math.factorial(level))
        power = torch.einsum("bi,bj->bij", power, dx[:, 0]).flatten(1)


def test_in_one_channel_it_is_powers_of_the_value() -> None:
    dx = increments(2, 9, 1)
    x = dx.cumsum(1)
    found = signature(dx, 5)[:, 1:]
    expected = torch.cat([x**level / math.factorial(level) for level in range(1, 6)], -1)
    torch.testing.assert_close(found, expected)


def test_second_level_holds_the_area() -> None:
    """Round the unit square: the signed area between path and chord is 1."""
    square = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]], dtype=torch.float64)
    _, second = levels(signature(square, 2)[:, -1], 2, 2)
    torch.testing.assert_close(second[0], torch.tensor([0.0, 1.0, -1.0, 0.0], dtype=torch.float64))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 6), st.integers(0, 99))
def test_chens_identity(channels: int, order: int, cut: int, seed: int) -> None:
    dx = increments(2, 6, channels, seed)
    whole = levels(signature(dx, order)[:, -1], channels, order)
    parts = [levels(signature(part, order)[:, -1], channels, order) for part in (dx[:, :cut], dx[:, cut:])]
    for found, expected in zip(tensor_product(*parts), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_shuffle_product() -> None:
    """S^i S^jk = S^ijk + S^jik + S^jki."""
    one, two, three = levels(signature(increments(3, 7, 2), 3)[:, -1], 2, 3)
    two, three = two.view(3, 2, 2), three.view(3, 2, 2, 2)
    product = torch.einsum("bi,bjk->bijk", one, two)
    shuffled = three + torch.einsum("bjik->bijk", three) + torch.einsum("bjki->bijk", three)
    torch.testing.assert_close(product, shuffled)


def test_every_time_is_that_of_the_path_so_far() -> None:
    dx = increments(2, 5, 2)
    found = signature(dx, 3)
    assert not found[:, 0].any()
    for steps in range(1, 6):
        torch.testing.assert_close(found[:, steps], signature(dx[:, :steps], 3)[:, -1])
