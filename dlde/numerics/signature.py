"""The truncated signature of a piecewise linear path, at all of its points in one scan.

Level l of the signature of X over [0, t] holds the iterated integrals of dX^i1 ... dX^il over
0 < t1 < ... < tl < t, (channels,) * l of them. Over one linear piece it is exp(dX) in the tensor
algebra; pieces are joined by Chen's identity S(0, t') = S(0, t) exp(dX).
Source: T. Lyons, Rough paths, signatures and the modelling of functions on streams (2014),
arXiv 1405.4537.
"""

from __future__ import annotations

import torch
from torch import Tensor


def num_signature_features(channels: int, order: int) -> int:
    """Entries of levels 1 to `order`."""
    return sum(channels**level for level in range(1, order + 1))


def signature(increments: Tensor, order: int) -> Tensor:
    """Levels 1 to `order` (batch, steps + 1, features) of paths with increments (batch, steps, channels).

    Entry t is that of the path up to its point t (zeros at the start); a level's entries are in
    lexicographic order of i1 ... il. Costs about steps * features * (1 + 1 / channels + ...) products.
    """
    batch, steps, channels = increments.shape
    sizes = [channels**level for level in range(1, order + 1)]
    out = increments.new_zeros(batch, steps + 1, sum(sizes))
    levels = [increments.new_zeros(batch, size) for size in sizes]
    for number, dx in enumerate(increments.unbind(1), start=1):
        levels = _joined(levels, dx)
        out[:, number] = torch.cat(levels, 1)
    return out


def _joined(levels: list[Tensor], dx: Tensor) -> list[Tensor]:
    """S exp(dx), level by level in Horner's form:

    level l is S_l + (S_{l-1} + (S_{l-2} + ... (S_1 + dx / l) dx / (l-1) ...) dx / 2) dx.
    """
    joined = []
    for level in range(1, len(levels) + 1):
        inner = dx / level
        for below in range(1, level):
            inner = _product(levels[below - 1] + inner, dx / (level - below))
        joined.append(levels[level - 1] + inner)
    return joined


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Tensor product (batch, a), (batch, b) -> (batch, a b)."""
    return (left[:, :, None] * right[:, None, :]).flatten(1)
