"""Where MLflow keeps runs and models: `$MLFLOW_TRACKING_URI`, else one SQLite file below the root.

MLflow is imported through `mlflow()`, which sets its switches first: nothing is sent home, no pickle
is opened, and nothing but warnings is printed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from dlde.errors import RegistryError
from dlde.files import unwritable_named

SWITCHES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is gone must not hold up what needs none
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
}


@cache
def mlflow() -> Any:
    """The module, imported with its switches set; a user's own setting of a switch stands."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


def tracking_uri(root: Path) -> str:
    """The MLflow server or database that belongs to a storage root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database(root)}"


def database(root: Path) -> Path:
    """The SQLite file of a root that has no server."""
    return root.resolve() / "mlflow" / "mlflow.db"


def artifact_root(root: Path, experiment: str) -> str | None:
    """Where an experiment's files go; None lets a server decide."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    return (root.resolve() / "mlflow" / "artifacts" / re.sub(r"[^\w.-]", "_", experiment)).as_uri()


def prepare(root: Path) -> str:
    """The tracking URI, after creating the database where there is none yet.

    Left to MLflow this takes three times as long (a sync to disk for each of its migrations), and a
    process killed half-way leaves a database that no later one can open.
    """
    uri = tracking_uri(root)
    target = database(root)
    if os.environ.get("MLFLOW_TRACKING_URI") or target.exists():
        return uri
    with unwritable_named(target), _alone(target.parent):
        if not target.exists():
            partial = target.with_name(f".{target.name}.partial")
            partial.unlink(missing_ok=True)
            _create(partial)
            partial.replace(target)
    return uri


def _create(path: Path) -> None:
    mlflow()
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables
    from mlflow.store.tracking.dbmodels import models  # noqa: F401 (declares the tables)

    engine = sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.pool.NullPool)

    @sqlalchemy.event.listens_for(engine, "connect")
    def unsynchronised(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")  # the file counts only once it is whole

    _initialize_tables(engine)
    engine.dispose()
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def failures_named(what: str) -> Iterator[None]:
    """Turn what MLflow raises into a RegistryError that says what was being done."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        raise RegistryError(
            f"{what}: MLflow says: {reason}. Is the server that MLFLOW_TRACKING_URI names running?"
            if os.environ.get("MLFLOW_TRACKING_URI")
            else f"{what}: MLflow says: {reason}"
        ) from error
