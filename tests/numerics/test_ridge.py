"""Ridge regression from moments, against the normal equations and least squares of numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlde.numerics.ridge import Moments, dual_ridge, ridge, validated_dual_ridge, validated_ridge


def rows(n: int, k: int = 6, q: int = 2, *, noise: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated features of unequal size and offset, and noisy affine targets."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    truth = normal(k, q)
    z = normal(n, k) @ normal(k, k) * torch.logspace(-2, 2, k, dtype=torch.float64) + 5 * normal(k)
    return z, z @ truth + 1.5 + noise * normal(n, q)


def moments(z: Tensor, y: Tensor) -> Moments:
    return Moments.of(torch.cat([z, y], 1))


def textbook(z: Tensor, y: Tensor, lam: float) -> Tensor:
    """Predictions of ridge regression on standardised columns with a free intercept."""
    standard = (z - z.mean(0)) / z.std(0, correction=0)
    gram = standard.T @ standard / len(z) + lam * torch.eye(z.shape[1], dtype=z.dtype)
    return standard @ torch.linalg.solve(gram, standard.T @ (y - y.mean(0)) / len(z)) + y.mean(0)


@pytest.mark.parametrize("lam", [0.0, 1e-4, 0.1, 10.0])
def test_it_solves_the_normal_equations(lam: float) -> None:
    z, y = rows(80)
    (readout,) = ridge(moments(z, y), 6, [lam])
    torch.testing.assert_close(readout(z), textbook(z, y, lam), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(dual_ridge(z, y, [lam])[0](z), readout(z), rtol=1e-7, atol=1e-7)


def test_lambda_zero_is_least_squares() -> None:
    z, y = rows(50)
    design = np.column_stack([z.numpy(), np.ones(50)])
    expected = design @ np.linalg.lstsq(design, y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(ridge(moments(z, y), 6, [0.0])[0](z).numpy(), expected, rtol=1e-8)


def test_more_features_than_rows_interpolate_at_lambda_zero() -> None:
    z, y = rows(8, k=20)
    for readout in (dual_ridge(z, y, [0.0])[0], ridge(moments(z, y), 20, [0.0])[0]):
        torch.testing.assert_close(readout(z), y, rtol=1e-6, atol=1e-6)


def test_a_column_that_does_not_vary_gets_no_weight() -> None:
    z, y = rows(40)
    z[:, 2] = 7.0
    for readout in (ridge(moments(z, y), 6, [1e-3])[0], dual_ridge(z, y, [1e-3])[0]):
        assert not readout.weight[2].any()
        assert torch.isfinite(readout.weight).all()


def test_units_of_a_column_do_not_matter() -> None:
    z, y = rows(40)
    changed = z.clone()
    changed[:, 0] = changed[:, 0] * 1e4 - 3
    (before,), (after,) = ridge(moments(z, y), 6, [0.5]), ridge(moments(changed, y), 6, [0.5])
    torch.testing.assert_close(before(z), after(changed), rtol=1e-7, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 99))
def test_moments_do_not_depend_on_the_blocks(cuts: list[int], seed: int) -> None:
    z, y = rows(30, seed=seed)
    table = torch.cat([z, y], 1)
    edges = [0, *sorted(cuts), 30]
    merged = Moments.merged([Moments.of(table[a:b]) for a, b in pairwise(edges)])
    whole = Moments.of(table)
    assert int(merged.count) == 30
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(merged.products, whole.products, rtol=1e-9, atol=1e-7)


def test_error_from_moments_is_the_error_on_the_rows() -> None:
    z, y = rows(60)
    other_z, other_y = rows(25, seed=3)
    (readout,) = ridge(moments(z, y), 6, [0.2])
    expected = (readout(other_z) - other_y).square().mean(0)
    torch.testing.assert_close(readout.mean_square_error(moments(other_z, other_y)), expected)


def test_validation_takes_the_lambda_that_errs_least_on_held_out_rows() -> None:
    lambdas = [1e-6, 1e-3, 1e-1, 10.0]
    z, y = rows(24, k=16, noise=8.0)
    fold = torch.arange(24) % 4
    errors = []
    for lam in lambdas:
        pieces = [
            (ridge(moments(z[fold != f], y[fold != f]), 16, [lam])[0](z[fold == f]) - y[fold == f])
            for f in range(4)
        ]
        errors.append(float((torch.cat(pieces).square().sum(0) / y.var(0, correction=0)).sum()))
    expected = lambdas[int(np.argmin(errors))]
    folds = [moments(z[fold == f], y[fold == f]) for f in range(4)]
    readout, lam = validated_ridge(folds, 16, lambdas)
    dual, dual_lam = validated_dual_ridge(z, y, fold, lambdas)
    assert lam == dual_lam == expected
    assert 0 < lambdas.index(expected) < len(lambdas) - 1  # else the test would say little
    torch.testing.assert_close(dual(z), readout(z), rtol=1e-6, atol=1e-6)


def test_one_lambda_needs_no_validation() -> None:
    z, y = rows(20)
    readout, lam = validated_ridge([moments(z, y)], 6, [0.3])
    assert lam == 0.3
    torch.testing.assert_close(readout.weight, ridge(moments(z, y), 6, [0.3])[0].weight)
    torch.testing.assert_close(validated_dual_ridge(z, y, torch.zeros(20), [0.3])[0](z), readout(z))
