"""Freed memory that is kept: counted in page faults and pages, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dlde import memory, ray_session

SCRIPT = """
import resource, sys, threading
import psutil, torch
from dlde import memory

def faults(megabytes, rounds=10):
    def one():
        for part in [torch.ones(megabytes * 2**18) for _ in range(3)]:
            part.add_(1)
    one()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        one()
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return pages * resource.getpagesize() / rounds / 2**20

def resident():
    return psutil.Process().memory_info().rss / 2**20

def main():
    lost = faults(64)
    began = resident()
    with memory.kept():
        with memory.kept():
            small = faults(1)
        large = faults(64)
        held = resident()
    print(lost, small, large, held - began, resident() - began)

if sys.argv[1] == "thread":
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
else:
    main()
"""


@pytest.mark.skipif(memory._glibc() is None, reason="needs glibc")
@pytest.mark.parametrize("where", ["here", "thread"])
def test_what_is_freed_serves_again_and_is_given_back_at_the_end(where: str) -> None:
    """Also in a thread, in which Ray's workers train."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, where],
        capture_output=True, text=True, check=True, env={**os.environ, **ray_session.SWITCHES},
    )  # fmt: skip
    lost, small, large, held, left = map(float, done.stdout.split())
    assert lost > 100, "MB of new pages in each round, of the 192 that it takes"
    assert small < 1
    assert large < 10
    assert held > 150
    assert left < 20
