"""Messages between the workers of a run: over torch.distributed, or alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Alone:
    """One worker: everything is the identity."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Mean over the workers, in place."""
        return tensor

    def begin_all_reduce(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Begin the mean over the workers; what is returned waits for it."""
        return lambda: tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over the workers, differentiable."""
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """All workers' tensors, joined along axis 0."""
        return tensor

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value."""
        return value

    def barrier(self) -> None:
        """Wait for all workers."""

    def shift(self, tensor: Tensor, by: int, *, like: Tensor | None = None) -> Tensor | None:
        """Nobody sends."""
        return None


class Distributed:
    """The workers of the process group that is already there (gloo on CPU, NCCL on GPU).

    `waits` is entered around whatever waits for others: a watchdog tells by it who hangs.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.waits: Callable[[], AbstractContextManager[None]] = nullcontext

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Mean over the workers, in place; in gloo's order, so equal on every worker to the bit."""
        return self.begin_all_reduce(tensor)()

    def begin_all_reduce(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Begin the mean over the workers, in place; what is returned waits for it."""
        work = dist.all_reduce(tensor, async_op=True)

        def wait() -> Tensor:
            with self.waits():
                work.wait()
            return tensor.div_(self.size)

        return wait

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over the workers, differentiable."""
        averaged: Tensor = _Mean.apply(tensor, self)  # type: ignore[no-untyped-call]
        return averaged

    def gather(self, tensor: Tensor) -> Tensor:
        """All workers' tensors, joined along axis 0 in order of rank; on every worker."""
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with self.waits():
            dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every worker."""
        box = [value]
        with self.waits():
            dist.broadcast_object_list(box)
        return box[0]

    def barrier(self) -> None:
        """Wait for all workers."""
        with self.waits():
            dist.barrier()

    def shift(self, tensor: Tensor, by: int, *, like: Tensor | None = None) -> Tensor | None:
        """What worker rank - by sends; None where there is none."""
        messages, received = [], None
        if 0 <= self.rank + by < self.size:
            messages.append(dist.P2POp(dist.isend, tensor.contiguous(), self.rank + by))
        if 0 <= self.rank - by < self.size:
            received = torch.empty_like(tensor if like is None else like)
            messages.append(dist.P2POp(dist.irecv, received, self.rank - by))
        with self.waits():
            for message in dist.batch_isend_irecv(messages) if messages else []:
                message.wait()
        return received


class _Mean(torch.autograd.Function):
    """Every worker's loss counts by 1 / size, and so does every tensor: backward is a mean as well.

    Holds where gradients are averaged over the workers afterwards, as `run.descend` does.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, comm: Distributed) -> Tensor:
        ctx.comm = comm
        return comm.all_reduce(tensor.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        comm: Distributed = ctx.comm
        return comm.all_reduce(gradients[0].clone(memory_format=torch.contiguous_format)), None
