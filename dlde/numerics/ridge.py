"""Ridge regression from moments that are gathered block by block and worker by worker, in float64.

The model is y = intercept + (z - mean) / std . w, the objective mean |y - model|^2 + lam |w|^2: columns
are standardised, lam is relative to them and independent of the number of rows, the intercept is free.
All that the solution needs are count, mean and centred second moments of the rows [z, y], which are
merged exactly (Chan, Golub & LeVeque, COMPSTAT 1982). One eigendecomposition serves every lam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Of rows: their number (), mean (p,) and centred products (p, p), sum (row - mean)^T (row - mean)."""

    count: Tensor
    mean: Tensor
    products: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Of rows (n, p), n >= 0, computed in float64."""
        rows = rows.double()
        mean = rows.sum(0) / max(len(rows), 1)
        centred = rows - mean
        return cls(rows.new_tensor(len(rows)), mean, centred.T @ centred)

    @classmethod
    def merged(cls, parts: Sequence[Moments]) -> Moments:
        """Of all rows together. The formula is symmetric in the parts, so that it may be summed."""
        count = torch.stack([part.count for part in parts]).sum()
        weights = torch.stack([part.count for part in parts]) / count.clamp(min=1)
        mean = torch.stack([part.mean for part in parts]).mul(weights[:, None]).sum(0)
        products = torch.stack([part.products for part in parts]).sum(0)
        for part in parts:
            shift = part.mean - mean
            products += part.count * shift[:, None] * shift
        return cls(count, mean, products)


@dataclass(frozen=True)
class Readout:
    """The affine map y = bias + z weight: weight (k, q), bias (q,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """(..., k) -> (..., q)."""
        return features @ self.weight + self.bias

    def mean_square_error(self, moments: Moments) -> Tensor:
        """Of each target (q,), over the rows that `moments` hold, from the moments alone."""
        k = len(self.weight)
        zz, zy, yy = moments.products[:k, :k], moments.products[:k, k:], moments.products[k:, k:]
        shift = self(moments.mean[:k]) - moments.mean[k:]
        spread = (self.weight * (zz @ self.weight - 2 * zy)).sum(0) + yy.diagonal()
        return spread.clamp(min=0) / moments.count + shift.square()


def ridge(moments: Moments, num_features: int, lambdas: Sequence[float]) -> list[Readout]:
    """The readout for each lambda >= 0, of rows [z (num_features), y].

    A column that does not vary gets no weight. Directions whose variance is below 1e-13 of the
    largest are rounding, and get none either, so that lambda = 0 is the shortest least-squares solution.
    """
    k = num_features
    std = (moments.products.diagonal()[:k] / moments.count).sqrt()
    scale = torch.where(std > 1e-12 * (moments.mean[:k].abs() + std.max()), std, torch.inf)
    covariance = moments.products[:k] / moments.count / scale[:, None]
    correlation, cross = covariance[:, :k] / scale, covariance[:, k:]
    spectrum, basis = torch.linalg.eigh(correlation)
    kept = spectrum > 1e-13 * spectrum[-1].clamp(min=1e-300)
    projected = basis.T @ cross
    readouts = []
    for lam in lambdas:
        inverse = torch.where(kept, 1 / (spectrum.clamp(min=1e-300) + lam), 0.0)
        weight = basis @ (inverse[:, None] * projected) / scale[:, None]
        readouts.append(Readout(weight, moments.mean[k:] - moments.mean[:k] @ weight))
    return readouts


def validated_ridge(
    folds: Sequence[Moments], num_features: int, lambdas: Sequence[float]
) -> tuple[Readout, float]:
    """The readout on all rows with that lambda that errs least on folds that it was not fitted on.

    The error of a fold follows from its moments, so no row is read twice. Errors of the targets count
    relative to their variances. Returns the readout and its lambda.
    """
    whole = Moments.merged(folds)
    if len(lambdas) == 1:
        return ridge(whole, num_features, lambdas)[0], lambdas[0]
    variance = whole.products.diagonal()[num_features:] / whole.count
    weight = torch.where(variance > 0, 1 / variance, 0.0)
    errors = torch.zeros(len(lambdas), dtype=torch.float64, device=whole.mean.device)
    for held_out, fold in enumerate(folds):
        others = Moments.merged([other for number, other in enumerate(folds) if number != held_out])
        readouts = ridge(others, num_features, lambdas)
        errors += fold.count * torch.stack([r.mean_square_error(fold) @ weight for r in readouts])
    best = lambdas[int(errors.argmin())]
    return ridge(whole, num_features, [best])[0], best


def dual_ridge(features: Tensor, targets: Tensor, lambdas: Sequence[float]) -> list[Readout]:
    """The same readouts as `ridge`, from few rows (n, k) of many features: costs n^2 k, not k^3."""
    z, y = features.double(), targets.double()
    mean, target_mean = z.mean(0), y.mean(0)
    std = z.std(0, correction=0)
    scale = torch.where(std > 1e-12 * (mean.abs() + std.max()), std, torch.inf)
    rows = (z - mean) / scale
    spectrum, basis = torch.linalg.eigh(rows @ rows.T / len(z))
    kept = spectrum > 1e-13 * spectrum[-1].clamp(min=1e-300)
    projected = basis.T @ (y - target_mean) / len(z)
    readouts = []
    for lam in lambdas:
        inverse = torch.where(kept, 1 / (spectrum.clamp(min=1e-300) + lam), 0.0)
        weight = rows.T @ (basis @ (inverse[:, None] * projected)) / scale[:, None]
        readouts.append(Readout(weight, target_mean - mean @ weight))
    return readouts


def validated_dual_ridge(
    features: Tensor, targets: Tensor, folds: Tensor, lambdas: Sequence[float]
) -> tuple[Readout, float]:
    """As `validated_ridge`, from rows (n, k), (n, q) and the number of each row's fold (n,)."""
    if len(lambdas) == 1:
        return dual_ridge(features, targets, lambdas)[0], lambdas[0]
    variance = targets.double().var(0, correction=0)
    weight = torch.where(variance > 0, 1 / variance, 0.0)
    errors = torch.zeros(len(lambdas), dtype=torch.float64, device=targets.device)
    for fold in torch.unique(folds):
        out = folds == fold
        for number, readout in enumerate(dual_ridge(features[~out], targets[~out], lambdas)):
            errors[number] += (readout(features[out].double()) - targets[out]).square().sum(0) @ weight
    best = lambdas[int(errors.argmin())]
    return dual_ridge(features, targets, [best])[0], best
