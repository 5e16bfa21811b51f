"""One Ray of our own, for as long as a command needs it: on loopback, behind a token, without noise.

The token lives in the environment of this process and its children; nothing is written to the
user's home folder. Where this process is killed, Ray's end by themselves within a minute.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator
from typing import Any

from dlde.errors import DldeError

LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # a report of a worker blocks up to this long
    "MALLOC_ARENA_MAX": "1",  # workers train in a thread, whose own heap would not keep much (dlde/memory.py)
    LOOPBACK_SWITCH: "0",  # on every system: all of Ray listens on loopback alone
}
END_SECONDS = 20.0


@contextlib.contextmanager
def session(
    *, num_cpus: int | None = None, verbose: bool = False, address: str | None = None
) -> Iterator[bool]:
    """Ray for a block; one that already runs in this process is used, and left running.

    Gives whether it is the block's own. `address`: of a cluster to join instead of starting one.
    """
    if _ray().is_initialized():
        yield False
        return
    start(num_cpus=num_cpus, verbose=verbose, address=address)
    try:
        yield True
    finally:
        stop()


def start(*, verbose: bool = False, num_cpus: int | None = None, address: str | None = None) -> None:
    """Start a Ray on this machine, or join the one at `address`. Raises DldeError where it is not up.

    `num_cpus` may exceed the machine's cores: it says how many workers may run, not how fast.
    """
    ray = _ray()
    _keep_stdout_clean(verbose)
    try:
        ray.init(
            address=address or "local",
            **({} if address else {"num_cpus": num_cpus, "include_dashboard": False}),
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError) as error:
        stop()
        reason = str(error).strip().partition("\n")[0]
        what = f"no Ray was found at {address}" if address else "Ray did not start"
        raise DldeError(f"{what}: {reason} (its log files are below /tmp/ray)") from error


def stop() -> None:
    """End the Ray that `start` began, and wait until none of its processes is left."""
    processes = _processes()
    _ray().shutdown()
    deadline = time.monotonic() + END_SECONDS
    while processes and time.monotonic() < deadline:
        processes = [pid for pid in processes if _alive(pid)]
        if processes:
            time.sleep(0.05)  # a process can be asked for its end, but not awaited by a non-parent
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def kill_actors(name: str) -> None:
    """End the actors of that class in the Ray that `start` began, as if their processes had died.

    Whoever waits for one of them gets Ray's error; a thread that still waits when Ray ends would take
    this whole process with it, without a word.
    """
    from ray.thirdparty_files import psutil

    for pid in _processes():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if name in psutil.Process(pid).name() or name in " ".join(psutil.Process(pid).cmdline()):
                os.kill(pid, 9)


def _ray() -> Any:
    """The module, with its switches set; a user's own setting of a switch stands."""
    early = "ray" in sys.modules
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if early and not ray.is_initialized():  # it read its environment when it was imported: once more
        from ray._private import ray_constants

        ray_constants.ENABLE_RAY_CLUSTER = os.environ[LOOPBACK_SWITCH] != "0"
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
    return ray


def _keep_stdout_clean(verbose: bool) -> None:
    """Ray prints its workers' lines and its own worries on stdout, where results belong: to stderr."""
    from ray._private import worker

    def show(batch: dict[str, Any], sink: object, *arguments: Any) -> None:
        if verbose:
            original(batch, sys.stderr, *arguments)

    original = getattr(worker.print_worker_logs, "original", worker.print_worker_logs)
    show.original = original  # type: ignore[attr-defined]
    worker.print_worker_logs = show


def _processes() -> list[int]:
    """Ray's own processes on this machine and what they started."""
    from ray._private import worker

    node = worker._global_node
    if node is None:
        return []
    own = [info.process.pid for infos in node.all_processes.values() for info in infos]
    return [pid for parent in own for pid in [parent, *_children(parent)]]


def _children(parent: int) -> list[int]:
    from ray.thirdparty_files import psutil

    try:
        return [child.pid for child in psutil.Process(parent).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _alive(pid: int) -> bool:
    from ray.thirdparty_files import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
