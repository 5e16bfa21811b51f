"""What several tests share: a tiny pipeline, and the command line as a user's process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.forks import Forks, copy_databases

# Published data that some tests compare with; they are not part of the project.
PUBLISHED = Path(os.environ.get("DLDE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")

TINY = (  # the whole path in seconds; nothing about it is accurate
    "data.solutions.problem.initial_condition={kind: gaussian, num_modes: 8}",
    "data.solutions.num_points=[64]",
    "data.solutions.times={stop: 0.5, count: 3}",
    "data.solutions.samples={train: 40, test: 12}",
    "data.solutions.solver={num_points: 64, dt: 0.01}",
    "data.solutions.storage.part=10",
    "method={name: fno, modes: 6, width: 8, projection: 16, map: {num_points: 32}, "
    "descent: {steps: 60, batch: 8, rate: 1e-3}}",
    "training.checkpoint_steps=10",
)


def environment(root: Path, **extra: str) -> dict[str, str]:
    """A user's environment: a storage root, one thread, no server of anybody's."""
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return {**kept, "DLDE_ROOT": str(root), "OMP_NUM_THREADS": "1", **extra}


def command(*arguments: str) -> list[str]:
    """`dlde …` as this Python runs it."""
    return [sys.executable, "-m", "dlde", *arguments]


def tiny(*sets: str) -> list[str]:
    """The tiny pipeline's options, and more."""
    return [part for text in (*TINY, *sets) for part in ("--set", text)]


@pytest.fixture
def small_disk() -> Callable[[str], list[str]]:
    """A command that runs a shell script in a mount namespace of its own, where it may mount a tmpfs.

    Skips where that takes rights that the tests do not have, as in most containers and outside Linux;
    what a full disk does is tested there by a write that fails (tests/training/test_run.py).
    """
    private = ["unshare", "-m", "sh", "-c"]
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            [*private, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs in a private namespace")
    return lambda script: [*private, script]


@pytest.fixture(scope="session", autouse=True)
def _databases_are_copied() -> None:
    copy_databases()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Where `dlde` runs its commands."""
    server = Forks()
    yield server
    server.close()


@pytest.fixture
def dlde(tmp_path: Path, forks: Forks) -> Callable[..., tuple[int, Any, str]]:
    """Runs `dlde … --json` in a process of its own; gives exit code, document and stderr."""

    def run(*arguments: str, root: Path = tmp_path, timeout: float = 240) -> tuple[int, Any, str]:
        code, stdout, stderr = forks.run([*arguments, "--json"], environment(root), tmp_path, timeout)
        return code, json.loads(stdout) if stdout else None, stderr

    return run
