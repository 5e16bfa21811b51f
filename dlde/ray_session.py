"""One Ray of our own, for as long as a command needs it: on loopback, behind a token, without noise.

The token lives in the environment of this process and its children; nothing is written to the
user's home folder. Ray's processes end with this one, however it ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Iterator

from dlde.errors import DldeError

SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # a report of a worker blocks up to this long
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}
END_SECONDS = 20.0


@contextlib.contextmanager
def session(*, num_cpus: int | None = None, verbose: bool = False) -> Iterator[None]:
    """Ray for a block; one that already runs in this process is used, and left running."""
    import ray

    if ray.is_initialized():
        yield
        return
    start(num_cpus=num_cpus, verbose=verbose)
    try:
        yield
    finally:
        stop()


def start(*, verbose: bool = False, num_cpus: int | None = None) -> None:
    """Start a Ray on this machine. Raises DldeError where it does not come up.

    `num_cpus` may exceed the machine's cores: it says how many workers may run, not how fast.
    """
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    except (OSError, RuntimeError, ConnectionError, TimeoutError) as error:
        stop()
        raise DldeError(f"Ray did not start: {error}") from error


def stop() -> None:
    """End the Ray that `start` began, and wait until none of its processes is left."""
    import ray

    processes = _processes()
    ray.shutdown()
    deadline = time.monotonic() + END_SECONDS
    while processes and time.monotonic() < deadline:
        processes = [pid for pid in processes if _alive(pid)]
        if processes:
            time.sleep(0.05)  # a process can be asked for its end, but not awaited by a non-parent
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def _processes() -> list[int]:
    """Ray's own processes on this machine and what they started."""
    from ray._private import worker

    node = worker._global_node
    if node is None:
        return []
    own = [info.process.pid for infos in node.all_processes.values() for info in infos]
    return [pid for parent in own for pid in [parent, *_children(parent)]]


def _children(parent: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(parent).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
