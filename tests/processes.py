"""dlde processes that tests watch, kill and clean up after."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import command, environment

DEADLINE = 120.0


def curve(root: Path, run: str) -> list[dict[str, float]]:
    rows = [
        json.loads(line) for line in (root / "runs" / run / "curves" / "fit.jsonl").read_text().splitlines()
    ]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def wait_for(what: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Poll until `what` holds; fails when the process ends before, or after the deadline."""
    end = time.monotonic() + DEADLINE
    while not what():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < end, "deadline"
        time.sleep(0.002)


def has_rows(root: Path, rows: int) -> bool:
    return any(path.read_bytes().count(b"\n") >= rows for path in root.glob("runs/*/curves/fit.jsonl"))


def children(process: subprocess.Popen[Any] | int, named: str) -> list[psutil.Process]:
    """The processes below one (itself, or its id) that have this word in their command line."""
    pid = process if isinstance(process, int) else process.pid
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):  # it may have ended meanwhile
            found += [child] if named in " ".join(child.cmdline()) else []
    return found


@contextmanager
def started(root: Path, *arguments: str, stderr: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[Any]]:
    """A dlde process in a session of its own, so that all it started can be found and ended."""
    process = subprocess.Popen(
        command(*arguments), env=environment(root), stdout=subprocess.PIPE, stderr=stderr,
        text=True, start_new_session=True, cwd=root,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
