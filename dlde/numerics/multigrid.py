"""Conjugate gradients for batches of symmetric positive systems, and multigrid that preconditions them.

Nothing is read back to the host but, once in a few iterations, whether all samples have converged;
a sample that has converged stands still, so that its values do not depend on its neighbours'.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from dlde.numerics.elliptic import Network, balance, diagonal

Operator = Callable[[Tensor], Tensor]  # (batch, *space) -> the same shape

_COARSEST = 8  # cells of an axis that is not coarsened any more; the rest is solved densely


def conjugate_gradients(
    operator: Operator,
    rhs: Tensor,
    *,
    preconditioner: Operator,
    tolerance: float,
    max_iterations: int,
    guess: Tensor | None = None,
    every: int = 2,
) -> Tensor:
    """The solution of `operator(x) = rhs`, each sample to |operator(x) - rhs| <= tolerance |rhs|.

    Both operators are linear, symmetric and positive definite for each sample. A sample that is not
    there after `max_iterations` comes back as NaN. `every` says how often is asked whether all are done.
    Source: Saad, Iterative Methods for Sparse Linear Systems (2003), algorithm 9.1.
    """
    ones = (-1, *[1] * (rhs.ndim - 1))

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1)

    x = torch.zeros_like(rhs) if guess is None else guess.clone()
    r = rhs.clone() if guess is None else rhs - operator(guess)
    goal = tolerance**2 * inner(rhs, rhs)
    rr = inner(r, r)
    active = rr > goal  # not so where it is NaN: such a sample does not hold up the others
    z = preconditioner(r)
    p = z.clone()
    rz = inner(r, z)
    for iteration in range(max_iterations):
        if iteration % every == 0 and not bool(active.any()):
            break
        q = operator(p)
        alpha = torch.where(active, rz / inner(p, q), 0).view(ones)
        x.addcmul_(alpha, p)
        r.addcmul_(alpha, q, value=-1)
        rr = inner(r, r)
        active &= rr > goal
        z = preconditioner(r)
        before, rz = rz, inner(r, z)
        p = torch.addcmul(z, torch.where(active, rz / before, 0).view(ones), p)
    return torch.where((rr <= goal).view(ones), x, torch.nan)


class Multigrid:
    """One V-cycle for `balance(links, u) = rhs`, u = 0 on the walls: symmetric and positive definite.

    Red-black Gauss-Seidel, once before and, in the opposite order, once after; bilinear interpolation
    and its transpose. A coarse grid keeps every other node (the last cell of an odd number stays as
    it is); its conductances are the series and sums of the finer ones, which keeps jumps of the coefficient.
    Source: Trottenberg, Oosterlee & Schueller, Multigrid (2001), chapters 2 and 7.
    """

    def __init__(self, links: Network) -> None:
        self.links: list[Network] = [links]
        self.colored: list[tuple[Tensor, Tensor]] = []
        while True:
            center = diagonal(links)
            parity = torch.arange(center.shape[1], device=center.device)[:, None]
            red = (parity + torch.arange(center.shape[2], device=center.device)) % 2 == 0
            self.colored.append((red / center, ~red / center))
            if not any(_coarsens(links)):
                break
            links = _coarser(links)
            self.links.append(links)
        self.inverse = _inverse(links)

    def __call__(self, rhs: Tensor) -> Tensor:
        """An approximate solution (batch, nx - 1, ny - 1) of the same shape as `rhs`."""
        return self._cycle(rhs, 0)[:, 1:-1, 1:-1]

    def _cycle(self, rhs: Tensor, level: int) -> Tensor:
        """With its walls."""
        links, (red, black) = self.links[level], self.colored[level]
        if level == len(self.links) - 1:
            solved = (self.inverse @ rhs.flatten(1)[:, :, None]).view(rhs.shape)
            return pad(solved, (1, 1, 1, 1))
        u = pad(red * rhs, (1, 1, 1, 1))
        inner = u[:, 1:-1, 1:-1]
        inner.addcmul_(black, rhs - balance(links, u))
        rest = rhs - balance(links, u)
        coarsens = _coarsens(links)
        for axis, halved in enumerate(coarsens, 1):
            if halved:
                rest = _restricted(rest, axis)
        correction = self._cycle(rest, level + 1)
        for axis, halved in enumerate(coarsens, 1):
            if halved:
                correction = _prolonged(correction, axis, u.shape[axis])
        u += correction
        inner.addcmul_(black, rhs - balance(links, u))
        inner.addcmul_(red, rhs - balance(links, u))
        return u


def solve_by_multigrid(links: Network, rhs: Tensor, *, tolerance: float, max_iterations: int = 100) -> Tensor:
    """`balance(links, u) = rhs` with u = 0 on the walls, as `conjugate_gradients` with one V-cycle each."""
    return conjugate_gradients(
        lambda u: balance(links, pad(u, (1, 1, 1, 1))),
        rhs,
        preconditioner=Multigrid(links),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def _coarsens(links: Network) -> tuple[bool, bool]:
    return links[0].shape[1] > _COARSEST, links[1].shape[2] > _COARSEST


def _coarser(links: Network) -> Network:
    """Along an axis that is halved, edges in series; across it, those of the middle and half the sides."""
    along_x, along_y = links
    halved_x, halved_y = _coarsens(links)
    if halved_x:
        along_x, along_y = _in_series(along_x, 1), _gathered(along_y, 1)
    if halved_y:
        along_x, along_y = _gathered(along_x, 2), _in_series(along_y, 2)
    return along_x, along_y


def _in_series(links: Tensor, axis: int) -> Tensor:
    links = links.movedim(axis, -1)
    pairs = links.shape[-1] // 2
    first, second = links[..., 0 : 2 * pairs : 2], links[..., 1 : 2 * pairs : 2]
    series = first * second / (first + second)
    return torch.cat([series, links[..., 2 * pairs :]], dim=-1).movedim(-1, axis)


def _gathered(links: Tensor, axis: int) -> Tensor:
    """The transpose of linear interpolation; also how a residual is restricted."""
    links = links.movedim(axis, -1)
    kept = links[..., 1::2]
    count = kept.shape[-1]
    after = links[..., 2::2]
    sides = links[..., 0::2][..., :count] + pad(after, (0, count - after.shape[-1]))
    return torch.add(kept, sides, alpha=0.5).movedim(-1, axis)


_restricted = _gathered


def _prolonged(u: Tensor, axis: int, num_points: int) -> Tensor:
    """Linear interpolation along an axis to `num_points` nodes, walls included."""
    shape = list(u.shape)
    shape[axis] = num_points
    fine = u.new_empty(shape)
    pairs = (num_points - 1) // 2

    def along(tensor: Tensor, *which: int | None) -> Tensor:
        index = [slice(None)] * tensor.ndim
        index[axis] = slice(*which)
        return tensor[tuple(index)]

    along(fine, 0, 2 * pairs + 1, 2).copy_(along(u, 0, pairs + 1))
    middle = along(u, 0, pairs) + along(u, 1, pairs + 1)
    along(fine, 1, 2 * pairs, 2).copy_(middle.mul_(0.5))
    if num_points % 2 == 0:
        along(fine, -1, None).copy_(along(u, -1, None))
    return fine


def _inverse(links: Network) -> Tensor:
    """Of the coarsest system, (batch, unknowns, unknowns)."""
    batch, rows, columns = links[0].shape[0], links[1].shape[1], links[0].shape[2]
    unit = torch.eye(rows * columns, dtype=links[0].dtype, device=links[0].device)
    basis = pad(unit.view(-1, rows, columns), (1, 1, 1, 1))
    matrix = torch.stack([balance((x[None], y[None]), basis) for x, y in zip(*links, strict=True)])
    inverse: Tensor = torch.linalg.inv(matrix.view(batch, rows * columns, rows * columns))
    return (inverse + inverse.mT) / 2
