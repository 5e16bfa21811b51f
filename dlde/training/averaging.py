"""Gradients averaged over the workers, bucket by bucket while the backward pass goes on.

Parameters are laid into flat buckets in reverse order, as their gradients come about in that order. A
bucket is sent as soon as it is full and those before it are on their way, so that every worker sends
them in one order. What is received *is* the gradient afterwards: nothing is copied back. The layout
depends on the parameters alone, so that a resumed run adds in the same order.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dlde.method import Comm

# Small models need one message. gloo moves about 1 GB/s between two processes of one machine, so that a
# bucket takes milliseconds: enough to hide the start of each, few enough to begin early.
BUCKET_BYTES = 4 << 20


class _Bucket:
    """A flat buffer for the gradients of some parameters, and for `extra` values behind them."""

    def __init__(self, parameters: Sequence[nn.Parameter], extra: int) -> None:
        self.parameters = list(parameters)
        first = self.parameters[0]
        size = sum(parameter.numel() for parameter in self.parameters)
        self.flat = torch.zeros(size + extra, dtype=first.dtype, device=first.device)
        self.extra = self.flat[size:]
        pieces = torch.split(self.flat[:size], [parameter.numel() for parameter in self.parameters])
        self.views = [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]
        self.missing = 0  # gradients that have not come yet
        self.wait: Callable[[], Tensor] | None = None

    def take(self) -> None:
        """Copy in every gradient; a parameter without one counts as zero."""
        given = [p.grad for p in self.parameters]
        for view in (v for v, grad in zip(self.views, given, strict=True) if grad is None):
            view.zero_()
        pairs = [(v, grad) for v, grad in zip(self.views, given, strict=True) if grad is not None]
        if pairs:
            torch._foreach_copy_([view for view, _ in pairs], [grad for _, grad in pairs])

    def give(self) -> None:
        """The averages become the gradients."""
        for parameter, view in zip(self.parameters, self.views, strict=True):
            if parameter.grad is not None:
                parameter.grad = view


class Averager:
    """Averages the gradients of one optimizer's parameters, with `extra` numbers beside them.

    Between `begin` and `end` stands the backward pass. Every worker must use it for the same parameters
    in the same order.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], comm: Comm, *, extra: int, bucket_bytes: int | None = None
    ) -> None:
        self.parameters = list(parameters)
        self._comm = comm
        self._hooks: list[RemovableHandle] = []
        self._buckets = [
            _Bucket(group, extra if number == 0 else 0)
            for number, group in enumerate(_groups(parameters, bucket_bytes or BUCKET_BYTES))
        ]
        self._sent = len(self._buckets)  # all: outside `begin` … `end` a hook does nothing
        if len(self._buckets) > 1:
            for bucket in self._buckets:
                for parameter in bucket.parameters:
                    hook = parameter.register_post_accumulate_grad_hook(self._hook(bucket))  # type: ignore[no-untyped-call]
                    self._hooks.append(hook)

    def fits(self, parameters: Sequence[nn.Parameter], extra: int) -> bool:
        """Whether this averager is the one for these parameters and so many numbers."""
        return (
            len(parameters) == len(self.parameters)
            and all(map(operator.is_, parameters, self.parameters))
            and extra == len(self._buckets[0].extra)
        )

    def close(self) -> None:
        """Leave the parameters as they were found."""
        for hook in self._hooks:
            hook.remove()

    def begin(self, extra: Tensor) -> None:
        """The next backward pass is the last one before `end`."""
        self._buckets[0].extra.copy_(extra)
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
        self._sent = 0

    def end(self) -> Tensor:
        """Wait for all averages; returns those of the extra numbers."""
        while self._sent < len(self._buckets):
            self._send()
        for bucket in self._buckets:
            assert bucket.wait is not None
            bucket.wait()
            bucket.wait = None
            bucket.give()
        extra = self._buckets[0].extra
        return extra.real.clone() if extra.is_complex() else extra.clone()

    def _hook(self, bucket: _Bucket) -> Callable[[Tensor], None]:
        def ready(parameter: Tensor) -> None:
            if self._sent == len(self._buckets):
                return
            bucket.missing -= 1
            while self._sent < len(self._buckets) and self._buckets[self._sent].missing <= 0:
                self._send()

        return ready

    def _send(self) -> None:
        bucket = self._buckets[self._sent]
        self._sent += 1
        bucket.take()
        bucket.wait = self._comm.begin_all_reduce(bucket.flat)


def _groups(parameters: Sequence[nn.Parameter], most_bytes: int) -> list[list[nn.Parameter]]:
    """The parameters from last to first, in groups of one kind that hold at most so many bytes."""
    groups: list[list[nn.Parameter]] = []
    room = 0
    for parameter in reversed(parameters):
        last = groups[-1][0] if groups else None
        same = last is not None and (last.dtype, last.device) == (parameter.dtype, parameter.device)
        size = parameter.numel() * parameter.element_size()
        if not same or size > room:
            groups.append([])
            room = most_bytes
        groups[-1].append(parameter)
        room -= size
    return groups
