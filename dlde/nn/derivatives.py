"""Tanh of a jet, with its reverse pass written by hand: what a network's derivatives cost most in.

For z with first derivatives z_i and streams z_L = L z, where L is a second derivative or a fixed linear
combination of first and second ones with second-order coefficients c_ij, and a = tanh z:

    a_i = s z_i,    a_L = s z_L - 2 a s Q,    s = 1 - a^2,    Q = sum c_ij z_i z_j.

One stream carries a whole operator, whatever the dimension (the forward Laplacian of Li et al.,
A computational framework for neural network-based variational Monte Carlo with Forward Laplacian,
Nature Machine Intelligence 6 (2024), for any constant coefficients). Each stream is a tensor of its
own, so that a compiler fuses a layer into one loop. Without a compiler the reverse pass is written
out, which keeps z_i and z_L only, where autograd would keep every product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dlde.numerics.jets import Jet, Pairs


def tanh(jet: Jet) -> Jet:
    """tanh of every entry of a jet. Outside a compiler the result can be differentiated once."""
    if torch.compiler.is_compiling() or not jet.parts:
        return jet.tanh()
    firsts = tuple(name for name in jet.names if name in jet.parts and len(name) == 1)
    place = {name: number for number, name in enumerate(firsts)}
    bent: list[str] = []
    pairs: list[Pairs] = []
    for name in jet.names:
        if len(name) == 1:
            continue
        known = tuple((place[i], place[j], c) for i, j, c in jet.pairs(name) if i in place and j in place)
        if known or name in jet.parts:
            bent.append(name)
            pairs.append(known)
    streams = [jet.parts.get(name) for name in (*firsts, *bent)]
    value, *parts = _Tanh.apply(len(firsts), tuple(pairs), jet.value, *streams)  # type: ignore[no-untyped-call]
    return Jet(value, dict(zip((*firsts, *bent), parts, strict=True)), jet.names, jet.operators)


class _Tanh(torch.autograd.Function):
    """(z, z_i ..., z_L ...) -> (a, a_i ..., a_L ...); a stream that is None is zero."""

    @staticmethod
    def forward(ctx: Any, count: int, pairs: tuple[Pairs, ...], z: Tensor, *streams: Any) -> Any:
        a = z.tanh()
        s = torch.addcmul(torch.ones((), dtype=a.dtype, device=a.device), a, a, value=-1)
        firsts = streams[:count]
        outputs = [s * d for d in firsts]
        if pairs:
            twice = (a * s).mul_(-2)
            for known, stream in zip(pairs, streams[count:], strict=True):
                if not known:
                    outputs.append(s * stream)
                    continue
                out = twice * _quadratic(known, firsts)
                outputs.append(out if stream is None else out.addcmul_(s, stream))
        ctx.count, ctx.pairs = count, pairs
        ctx.save_for_backward(a, *streams)
        return (a, *outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_a: Tensor, *to_outputs: Tensor) -> Any:
        a, *streams = ctx.saved_tensors
        count, pairs = ctx.count, ctx.pairs
        firsts, seconds = streams[:count], streams[count:]
        to_firsts, to_seconds = to_outputs[:count], to_outputs[count:]
        s = torch.addcmul(torch.ones((), dtype=a.dtype, device=a.device), a, a, value=-1)
        bend = torch.zeros_like(a)  # what f'' multiplies in z's gradient; f'' = -2 a s
        grads: list[Tensor | None] = [s * g for g in to_firsts]
        z = s * to_a
        for d, g in zip(firsts, to_firsts, strict=True):
            bend.addcmul_(d, g)
        twice = (a * s).mul_(-2)
        for known, d, g in zip(pairs, seconds, to_seconds, strict=True):
            if d is not None:
                bend.addcmul_(d, g)
            if known:
                third = (s * g).mul_(_quadratic(known, firsts))
                z.addcmul_(third, s, value=-2).addcmul_(third, a * a, value=4)
                bent = twice * g
                for i, j, c in known:
                    grads[i].addcmul_(bent, firsts[j], value=c)
                    grads[j].addcmul_(bent, firsts[i], value=c)
            grads.append(None if d is None else s * g)
        z.addcmul_(twice, bend)
        shaped = [None if g is None else g.sum_to_size(d.shape) for g, d in zip(grads, streams, strict=True)]
        return (None, None, z, *shaped)


def _quadratic(pairs: Pairs, firsts: Any) -> Tensor:
    """Sum of c z_i z_j."""
    (i, j, c), *others = pairs
    total: Tensor = firsts[i] * firsts[j]
    total = total if c == 1 else total.mul_(c)
    for i, j, c in others:
        total = torch.addcmul(total, firsts[i], firsts[j], value=c)
    return total
