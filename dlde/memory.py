"""Memory that a step frees is kept for the next one, as torch does on a GPU.

glibc takes large arrays from the kernel one by one and gives them back at once, and the end of its heap
likewise; the kernel then clears every page anew. Of training steps with arrays of megabytes that takes up
to a third (docs/benchmarks/kept-memory.md). Where the allocator is not glibc's nothing changes.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # names of malloc.h
NEVER = -1
LARGEST_IN_HEAP, MOST_MAPPED = 32 << 20, 65536  # where glibc's own thresholds end by themselves, its default

_blocks = 0  # that run now


def keep() -> None:
    """Give nothing that is freed back to the kernel from now on, for processes that do one thing."""
    if (libc := _glibc()) is not None:
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, NEVER)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Give nothing that is freed back to the kernel while the block runs, and all of it afterwards."""
    global _blocks
    keep()
    _blocks += 1
    try:
        yield
    finally:
        _blocks -= 1
        if _blocks == 0 and (libc := _glibc()) is not None:
            libc.mallopt(MMAP_MAX, MOST_MAPPED)
            libc.mallopt(MMAP_THRESHOLD, LARGEST_IN_HEAP)
            libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST_IN_HEAP)
            libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
