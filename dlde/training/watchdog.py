"""Which worker hangs: every worker leaves a heartbeat in the run's folder, and reads those of others.

A worker that has waited too long for a message looks who does not wait: whoever computes without end,
and whoever has no heartbeat any more. It names them in `faults.jsonl` and ends its own process, so that
the workers are started again from the last checkpoint.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlde.files import append_line

BEAT_SECONDS = 0.5
SILENT_BEATS = 6  # a process without a heartbeat for so long is stopped or gone
EXIT_CODE = 75


class Watchdog:
    """A thread beside one worker of a run. `limit` is the longest wait in seconds."""

    def __init__(
        self,
        folder: Path,
        rank: int,
        size: int,
        limit: float,
        *,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self._folder, self._rank, self._size, self._limit, self._end = folder, rank, size, limit, end
        self._since: float | None = None  # of the wait that goes on
        self._busy: str | None = None  # work of this worker for which others may wait as long as it takes
        self._step = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watchdog:
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """This worker waits for others, for as long as the block lasts."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """The others wait for this worker, rightly, for as long as the block lasts."""
        self._busy = what
        self._beat()
        try:
            yield
        finally:
            self._busy = None

    def at(self, step: int) -> None:
        """The step that this worker is at, for the report."""
        self._step = step

    def _watch(self) -> None:
        while not self._ended.wait(min(BEAT_SECONDS, self._limit / 4)):
            self._beat()
            since = self._since
            if since is None or time.monotonic() - since < self._limit:
                continue
            before = [self._read(rank) for rank in range(self._size)]
            if self._ended.wait(SILENT_BEATS * BEAT_SECONDS) or self._since != since:
                continue
            others = [self._read(rank) for rank in range(self._size)]
            silent = [old.get("time") == new.get("time") for old, new in zip(before, others, strict=True)]
            if any(beat.get("busy") and not dead for beat, dead in zip(others, silent, strict=True)):
                continue
            hung = [
                rank
                for rank, (beat, dead) in enumerate(zip(others, silent, strict=True))
                if rank != self._rank and (dead or beat.get("waits") is None)
            ]
            append_line(
                self._folder / "faults.jsonl",
                {
                    "time": time.time(),
                    "kind": "hang",
                    "workers": hung,
                    "steps": [others[rank].get("step") for rank in hung],
                    "seconds": self._limit,
                    "found_by": self._rank,
                },
            )
            self._end(EXIT_CODE)
            return

    def _beat(self) -> None:
        since = self._since
        beat = {
            "time": time.time(),
            "step": self._step,
            "waits": None if since is None else time.monotonic() - since,
            "busy": self._busy,
        }
        path = self._path(self._rank)
        partial = path.with_suffix(".partial")
        path.parent.mkdir(exist_ok=True)
        partial.write_text(json.dumps(beat))
        partial.replace(path)

    def _read(self, rank: int) -> dict[str, Any]:
        try:
            beat: dict[str, Any] = json.loads(self._path(rank).read_text())
        except (OSError, ValueError):
            return {}
        return beat

    def _path(self, rank: int) -> Path:
        return self._folder / "heartbeats" / f"{rank}.json"


def told(folder: Path) -> list[str]:
    """Every fault of a run in words, in order, each told once however many workers found it."""
    path = folder / "faults.jsonl"
    lines: list[str] = []
    for row in path.read_text().splitlines() if path.is_file() else []:
        fault = json.loads(row)
        steps = ", ".join(str(step) for step in sorted({step for step in fault["steps"] if step is not None}))
        who = f"worker {', '.join(map(str, fault['workers']))}" if fault["workers"] else "no worker alone"
        text = f"{who} hung for {fault['seconds']:g} s at step {steps or '?'} while the others waited"
        if not lines or lines[-1] != text:
            lines.append(text)
    return lines
