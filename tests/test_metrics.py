"""Every metric against arrays worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dlde import metrics
from dlde.errors import GridError

REFERENCE = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, -1.0]]).unsqueeze(-1)  # norms 5, 0, sqrt 2
PREDICTION = torch.tensor([[3.0, 3.0], [0.3, 0.4], [1.0, -1.0]]).unsqueeze(-1)


def test_norms_are_root_mean_squares() -> None:
    torch.testing.assert_close(
        metrics.rms(REFERENCE), torch.tensor([5 / math.sqrt(2), 0, 1], dtype=torch.float64)
    )
    torch.testing.assert_close(
        metrics.rmse(PREDICTION, REFERENCE),
        torch.tensor([1 / math.sqrt(2), 0.5 / math.sqrt(2), 0], dtype=torch.float64),
        rtol=1e-7, atol=1e-7,  # 0.3 and 0.4 are rounded to float32
    )  # fmt: skip


def test_relative_l2_of_each_sample_with_a_floor_for_vanished_ones() -> None:
    error = metrics.relative_l2(PREDICTION, REFERENCE, floor=0.1)
    expected = torch.tensor([1 / 5, 0.5 / math.sqrt(2) / 0.1, 0], dtype=torch.float64)
    torch.testing.assert_close(error, expected, rtol=1e-7, atol=1e-7)
    assert metrics.floored(REFERENCE, 0.1).tolist() == [False, True, False]
    assert metrics.relative_l2(PREDICTION, REFERENCE)[1] == math.inf


def test_relative_l2_is_the_same_on_every_grid() -> None:
    coarse, fine = (
        metrics.relative_l2(p, r, floor=10.0)
        for p, r in (
            (PREDICTION, REFERENCE),
            (PREDICTION.repeat_interleave(8, 1), REFERENCE.repeat_interleave(8, 1)),
        )
    )
    torch.testing.assert_close(coarse, fine)


def test_the_gradient_at_an_exact_prediction_is_zero_not_nan() -> None:
    prediction = REFERENCE.clone().requires_grad_()
    metrics.relative_l2(prediction, REFERENCE, floor=0.1).mean().backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().max() == 0


def test_small_errors_of_large_fields_keep_their_digits() -> None:
    """1 + 2^-20 is exact in float32, its square is not."""
    field = torch.ones(1, 2**20, 1)
    error = metrics.relative_l2(field + 2**-20, field)
    torch.testing.assert_close(error, torch.tensor([2.0**-20], dtype=torch.float64), rtol=1e-12, atol=0)


def test_max_error() -> None:
    assert metrics.max_error(PREDICTION, REFERENCE).tolist() == pytest.approx([1, 0.4, 0])


def test_vrmse_is_one_for_the_mean_of_the_field() -> None:
    """By hand: [1, 2, 3, 6] has mean 3 and variance 14 / 3 (n - 1); the mean errs by 14 / 4."""
    reference = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 2, 2, 1)
    value = metrics.vrmse(torch.full_like(reference, 3.0), reference)
    assert value.shape == (1, 1)
    assert float(value) == pytest.approx(math.sqrt((14 / 4) / (14 / 3 + 1e-7)), rel=1e-12)


def test_vrmse_keeps_channels_apart() -> None:
    reference = torch.randn(3, 50, 2, generator=torch.Generator().manual_seed(0))
    value = metrics.vrmse(torch.stack([reference[..., 0], reference[..., 1] + 1], -1), reference)
    assert (value[:, 0] == 0).all()
    torch.testing.assert_close(
        value[:, 1], 1 / (reference[..., 1].double().var(1) + 1e-7).sqrt(), rtol=1e-6, atol=0
    )


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(GridError, match=r"shape \(3, 2\), but its reference \(3, 2, 1\)"):
        metrics.relative_l2(PREDICTION[..., 0], REFERENCE)
