"""A real `dlde serve` process: Ray Serve, over HTTP, started once for this file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from linear_fixtures import make_package
from ray.thirdparty_files import psutil

from dlde.registry import package

TOKEN = "a token of this test"  # noqa: S105


class Served:
    """A process that serves a package, and what it said when it was ready."""

    def __init__(self, folder: Path, port: int, home: Path) -> None:
        environment = {**os.environ, "DLDE_TOKEN": TOKEN, "HOME": str(home), "OMP_NUM_THREADS": "1"}
        for name in [name for name in environment if name.startswith("RAY_")]:
            del environment[name]
        command = [sys.executable, "-m", "dlde", "serve", str(folder), "--port", str(port), "--json"]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self.process.stdout is not None
        lines = []
        while line := self.process.stdout.readline():
            lines.append(line)
            if line == b"}\n":
                break
        if not lines:
            _, stderr = self.process.communicate()
            raise AssertionError(stderr.decode())
        self.ready: dict[str, Any] = json.loads(b"".join(lines))
        self.folder = folder
        self.tree = psutil.Process(self.process.pid).children(recursive=True)
        self.client = httpx.Client(
            base_url=self.ready["url"], headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
        )


@pytest.fixture(scope="module")
def served(plugin: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, home = tmp_path_factory.mktemp("served") / "linear", tmp_path_factory.mktemp("home")
    make_package(folder)
    running = Served(folder, 18231, home)
    try:
        yield running
    finally:
        running.client.close()
        if running.process.poll() is None:
            running.process.terminate()
            running.process.wait(60)


def test_answers_are_bitwise_those_in_process(served: Served) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = package.read(served.folder, expected_digest=served.ready["digest"])
        u = torch.randn(5, 8, 1)
        expected = model.answer("predict", {"u": u})[0]["u"]
    finally:
        torch.set_num_threads(before)
    answered = served.client.post("/predict", json={"inputs": {"u": u.tolist()}}).json()
    assert torch.equal(torch.tensor(answered["outputs"]["u"]), expected)
    assert answered["model"]["digest"] == model.digest


def test_example_of_the_command_works(served: Served, tmp_path: Path) -> None:
    python = Path(sys.executable).parent
    environment = {**os.environ, "DLDE_TOKEN": TOKEN, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", served.ready["curl"]], cwd=tmp_path, env=environment, check=True)
    with np.load(tmp_path / "answer.npz", allow_pickle=False) as answer:
        assert answer["u"].shape == (1, 8, 1)


def test_token_is_asked_for(served: Served) -> None:
    assert httpx.get(f"{served.ready['url']}/model").status_code == 401
    assert served.client.get("/model").status_code == 200
    assert served.client.get("/docs").status_code == 200
    assert served.client.get("/nope").status_code == 404


def test_hostile_requests_leave_it_answering(served: Served) -> None:
    kind = {"content-type": "application/json"}
    for body in (b"", b"{", b'{"inputs": {"u": [[1], 2]}}', b"[" * 100_000, os.urandom(2000)):
        assert served.client.post("/predict", content=body, headers=kind).status_code == 422
        archive = {"content-type": "application/x-npz"}
        assert served.client.post("/predict", content=body, headers=archive).status_code == 422
    large = served.client.post("/predict", content=bytes(65 << 20), headers=kind)
    assert large.status_code == 413
    with ThreadPoolExecutor(8) as pool:
        question = {"inputs": {"u": np.ones((1, 8, 1)).tolist()}}
        codes = pool.map(lambda _: served.client.post("/predict", json=question).status_code, range(24))
        assert set(codes) == {200}
    assert served.client.get("/healthz").json()["status"] == "ok"


def test_nothing_listens_on_other_addresses(served: Served) -> None:
    listening = [
        connection.laddr.ip
        for process in [psutil.Process(served.process.pid), *served.tree]
        if process.is_running()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} <= {"127.0.0.1", "::1"}


def test_ray_refuses_who_has_no_token(served: Served) -> None:
    """Another program of this machine finds Ray's port, and is turned away."""
    ports = {
        connection.laddr.port
        for process in served.tree
        if process.is_running() and process.name() == "gcs_server"
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    code = (
        "import sys, ray\n"
        "from ray._raylet import GcsClient\n"
        "try: GcsClient(address=f'127.0.0.1:{sys.argv[1]}').get_all_node_info()\n"
        "except Exception as error: print(type(error).__name__, str(error)[:60])\n"
        "else: print('let in')"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "wrong",
        "RAY_gcs_rpc_server_connect_timeout_s": "1",
    }
    for port in ports:
        done = subprocess.run(
            [sys.executable, "-c", code, str(port)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=100,
        )
        assert "AuthenticationError" in done.stdout, done.stdout + done.stderr


def test_ctrl_c_ends_every_process_cleanly(served: Served, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Last in this file: as a terminal does it, the whole group gets the signal."""
    tree = psutil.Process(served.process.pid).children(recursive=True)
    assert any("raylet" in process.name() for process in tree)
    os.killpg(served.process.pid, signal.SIGINT)
    stdout, stderr = served.process.communicate(timeout=60)
    assert served.process.returncode == 0, stderr.decode()
    assert stdout == b""
    assert stderr.decode().splitlines()[-1] == "ended"
    assert "Traceback" not in stderr.decode()
    _, alive = psutil.wait_procs(tree, timeout=10)
    assert alive == []
    home = next(path for path in tmp_path_factory.getbasetemp().glob("home*"))
    assert not (home / ".ray").exists()
