"""How many threads torch takes for a piece of work whose result must not depend on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


def available() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for a block: sums are then taken in the same order wherever it runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
