"""`dlde` commands in forks of one process that has imported what they need: Python and torch start once.

    python -m tests.forks

Reads one command a line as JSON (arguments, environment, folder, files for its output, seconds that it may
take), and answers each with its exit code, which is -9 where it had to be killed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PRELOADED = (
    "torch",
    "mlflow",
    "zarr",
    "dlde.training.history",
    "dlde.training.launch",
    "dlde.registry.registry",
)


def copy_databases() -> Callable[[], bytes]:
    """Let MLflow's database of a root be a copy of one that is made once: its migrations take seconds.

    Gives a function that makes it now.
    """
    from dlde.registry import store

    create = store._create

    @cache
    def made() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            create(Path(folder) / "mlflow.db")
            return (Path(folder) / "mlflow.db").read_bytes()

    store._create = lambda path: path.write_bytes(made())  # type: ignore[assignment, return-value]
    return made


class Forks:
    """The process that forks, and its commands' results."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, seconds: float
    ) -> tuple[int, str, str]:
        """Exit code, stdout, stderr. Raises TimeoutExpired."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory() as outputs:
            files = [str(Path(outputs) / name) for name in ("stdout", "stderr")]
            wanted = {
                "arguments": ["dlde", *arguments], "environment": dict(environment), "folder": str(folder),
                "files": files, "seconds": seconds,
            }  # fmt: skip
            self._server.stdin.write(json.dumps(wanted) + "\n")
            self._server.stdin.flush()
            code = json.loads(self._server.stdout.readline())
            stdout, stderr = (Path(file).read_text() for file in files)
        if code is None:
            raise subprocess.TimeoutExpired(list(arguments), seconds, stdout, stderr)
        return code, stdout, stderr

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()


def serve() -> None:
    """Answer until stdin ends. Returns in a forked child, with its command still to run."""
    for name in PRELOADED:
        importlib.import_module(name)
    copy_databases()()  # before any fork
    for line in iter(sys.stdin.readline, ""):
        wanted = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return become(wanted)
        end = time.monotonic() + wanted["seconds"]
        while (done := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            time.sleep(0.005)
        if done[0] == 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
            os.waitpid(pid, 0)
        print(json.dumps(os.waitstatus_to_exitcode(done[1]) if done[0] else None), flush=True)
    os._exit(0)


def become(wanted: dict[str, Any]) -> None:
    """This process as the command's would be: where it runs, what it was told, where it writes."""
    stdin = os.open(os.devnull, os.O_RDONLY)
    outputs = [os.open(file, os.O_WRONLY | os.O_CREAT) for file in wanted["files"]]
    for descriptor, place in zip([stdin, *outputs], range(3), strict=True):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # which Python itself reads at its start only
    sys.path[:0] = [place for place in places if place and place not in sys.path]
    sys.argv = wanted["arguments"]


if __name__ == "__main__":
    serve()
    from dlde.cli import main

    main()
