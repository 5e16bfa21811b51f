"""The whole path against an MLflow server on PostgreSQL and S3, and without it when it is gone."""

from __future__ import annotations

import glob
import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import command, environment, tiny
from tests.processes import DEADLINE, has_rows, wait_for

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",  # the S3 server of this module asks for no true one
    "AWS_DEFAULT_REGION": "us-east-1",
}


def program(name: str) -> str | None:
    beside = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    return beside[-1] if beside else shutil.which(name)


def missing() -> str:
    absent = [name for name in ("initdb", "postgres") if program(name) is None]
    absent += [name for name in ("moto", "boto3", "psycopg2") if importlib.util.find_spec(name) is None]
    if os.geteuid() == 0 and (shutil.which("setpriv") is None or not unprivileged()):
        absent.append("a user for PostgreSQL, which does not run as root")
    return ", ".join(absent)


def unprivileged() -> str:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return ""


pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not here: {missing()}")


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):  # noqa: S310
            return True
    except OSError:
        return False


class Servers:
    """PostgreSQL and S3 for the module, and an MLflow server that may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = (folder / "servers.log").open("w")
        self.ended = ExitStack()
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.tracker: subprocess.Popen[Any] | None = None
        self.s3 = self._s3()
        self.database = self._postgres()

    def _start(self, *arguments: str, **extra: str) -> subprocess.Popen[Any]:
        process = subprocess.Popen(
            arguments, stdout=self.log, stderr=self.log, start_new_session=True, cwd=self.folder,
            env={**environment(self.folder), **KEYS, **extra},
        )  # fmt: skip
        self.ended.callback(self._end, process, signal.SIGTERM)
        return process

    @staticmethod
    def _end(process: subprocess.Popen[Any], by: signal.Signals) -> None:
        """The process and all that it started, which share its session."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, by)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _s3(self) -> str:
        import boto3

        port = free_port()
        address = f"http://127.0.0.1:{port}"
        process = self._start(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
        wait_for(lambda: answers(f"{address}/moto-api/"), process)
        boto3.client(
            "s3",
            endpoint_url=address,
            region_name=KEYS["AWS_DEFAULT_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        ).create_bucket(Bucket="models")
        return address

    def _postgres(self) -> str:
        cluster = Path(tempfile.mkdtemp(prefix="dlde-pg-"))  # where another user may come
        self.ended.callback(shutil.rmtree, cluster, ignore_errors=True)
        as_user: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam(unprivileged())
            os.chown(cluster, user.pw_uid, user.pw_gid)
            as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        initdb, postgres = program("initdb"), program("postgres")
        assert initdb
        assert postgres
        subprocess.run(
            [*as_user, initdb, "-D", str(cluster / "data"), "-U", "dlde", "--auth=trust", "--no-sync"],
            check=True, stdout=self.log, stderr=self.log, cwd=cluster,
        )  # fmt: skip
        port = free_port()
        process = self._start(
            *as_user, postgres, "-D", str(cluster / "data"), "-p", str(port),
            "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={cluster}",
        )  # fmt: skip

        def connects() -> bool:
            import psycopg2

            with suppress(psycopg2.OperationalError):
                psycopg2.connect(host="127.0.0.1", port=port, user="dlde", dbname="postgres").close()
                return True
            return False

        wait_for(connects, process)
        return f"postgresql+psycopg2://dlde@127.0.0.1:{port}/postgres"

    def begin(self) -> None:
        self.tracker = self._start(
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.database,
            "--artifacts-destination", "s3://models", "--serve-artifacts",
            "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            MLFLOW_S3_ENDPOINT_URL=self.s3, MLFLOW_DISABLE_TELEMETRY="true",
        )  # fmt: skip
        wait_for(lambda: answers(f"{self.address}/health"), self.tracker)

    def kill(self) -> None:
        assert self.tracker is not None
        self._end(self.tracker, signal.SIGKILL)
        assert not answers(f"{self.address}/health")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("servers"))
    try:
        servers.begin()
        yield servers
    finally:
        servers.ended.close()
        servers.log.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


def dlde(root: Path, servers: Servers, *arguments: str) -> tuple[Any, str]:
    done = subprocess.run(
        [*command(*arguments), "--json"], capture_output=True, text=True, check=False, cwd=root, timeout=240,
        env=environment(root, MLFLOW_TRACKING_URI=servers.address),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def api(servers: Servers) -> Any:
    from dlde.registry import store

    return store.mlflow().MlflowClient(tracking_uri=servers.address, registry_uri=servers.address)


def runs_of(servers: Servers, name: str) -> list[Any]:
    known = api(servers).get_experiment_by_name("neural-operator").experiment_id
    return [run for run in api(servers).search_runs([known]) if run.data.tags.get("dlde.run") == name]


def steps(servers: Servers, run: Any) -> list[int]:
    history = api(servers).get_metric_history(run.info.run_id, "fit/relative_l2")
    return sorted(point.step for point in history)


def test_the_whole_path_to_the_server_and_back(servers: Servers, root: Path, tmp_path: Path) -> None:
    dlde(root, servers, "run", "neural-operator", *tiny())
    (listed,) = dlde(root, servers, "runs", "list")[0]["runs"]
    (run,) = runs_of(servers, listed["run"])
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")  # through the server: no key of S3 here
    assert steps(servers, run) == list(range(1, 61))
    figures = {Path(item.path).name for item in api(servers).list_artifacts(run.info.run_id, "figures")}
    folder = root / "runs" / listed["run"]
    assert figures == {path.name for path in (folder / "figures").glob("*.png")} != set()
    (version,) = dlde(root, servers, "models", "list")[0]["models"]
    assert version["run_id"] == run.info.run_id
    lineage, _ = dlde(root, servers, "models", "lineage", version["name"])
    assert lineage["complete"]
    stores = [path.parent for path in (root / "data").rglob("zarr.json") if path.parent.suffix == ".zarr"]
    data = min(stores, key=lambda path: len(path.parts))
    evaluated, _ = dlde(tmp_path, servers, "evaluate", f"{version['name']}@champion", "--data", str(data))
    metrics = json.loads((folder / "evaluation.json").read_text())["metrics"]
    assert evaluated["metrics"]["relative_l2"] == pytest.approx(metrics["relative_l2"], rel=1e-5)
    assert not (root / "mlflow" / "mlflow.db").exists()


def test_a_server_that_dies_stops_no_training_and_has_it_whole_afterwards(
    servers: Servers, root: Path
) -> None:
    arguments = ("train", "neural-operator", *tiny("method.descent.steps=1500", "seed=7"), "--json")
    process = subprocess.Popen(
        command(*arguments), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root,
        env=environment(root, MLFLOW_TRACKING_URI=servers.address), start_new_session=True,
    )  # fmt: skip
    before = set((root / "runs").glob("*/tracking.json"))

    def sent() -> bool:
        new = set((root / "runs").glob("*/tracking.json")) - before
        return any(json.loads(path.read_text()).get("curves") for path in new)

    try:
        wait_for(lambda: has_rows(root, 61) and sent(), process)
        servers.kill()
        output, stderr = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, stderr
    assert "MLflow is not up to date, everything else goes on" in stderr
    document = json.loads(output)
    servers.begin()
    (run,) = runs_of(servers, document["run"])
    assert run.info.status == "RUNNING"
    assert 0 < len(steps(servers, run)) < 1500
    again, stderr = dlde(root, servers, *arguments[:-1])
    assert again["run"] == document["run"]
    assert "not up to date" not in stderr
    (whole,) = runs_of(servers, document["run"])
    assert whole.info.run_id == run.info.run_id
    assert whole.info.status == "FINISHED"
    assert steps(servers, whole) == list(range(1, 1501))
