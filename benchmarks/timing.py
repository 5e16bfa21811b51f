"""What the benchmarks share: candidates timed in turn, and the machine in a line."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def in_turn(candidates: list[Callable[[], object]], repeats: int, *, warmup: int = 3) -> list[float]:
    """Median seconds of each, after `warmup` rounds: whatever else the machine does meets all alike."""
    seconds: list[list[float]] = [[] for _ in candidates]
    for _ in range(repeats + warmup):
        for times, candidate in zip(seconds, candidates, strict=True):
            start = time.perf_counter()
            candidate()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[warmup:]) for times in seconds]


def processor_time(candidates: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of this process's processor time by name, in turn: less moved by what else runs."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def machine(threads: int, device: str = "cpu") -> str:
    """Processor, cores, threads used, the GPU where one is used, and torch's version."""
    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    return f"{_processor()}, {os.cpu_count()} cores, {threads} thread(s){gpu}, torch {torch.__version__}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
