"""The path as a user walks it: real processes, real kills, a real service."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from dlde.cli import main
from dlde.datasets.dataset import open_dataset
from dlde.registry import package
from tests.conftest import command, environment, tiny
from tests.processes import curve, has_rows, started, wait_for

Dlde = Callable[..., tuple[int, Any, str]]


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A storage root where the tiny pipeline was walked once, and what the command said."""
    root = tmp_path_factory.mktemp("walked")
    done = subprocess.run(
        [*command("run", "neural-operator", *tiny()), "--json"],
        capture_output=True, text=True, env=environment(root), check=True, cwd=root,
    )  # fmt: skip
    return root, json.loads(done.stdout)


def test_second_walk_finds_everything_done(dlde: Dlde, walked: tuple[Path, Any]) -> None:
    root, first = walked
    assert [(s["stage"], s["state"]) for s in first["stages"]] == [
        ("generate", "done"), ("train", "done"), ("evaluate", "done"), ("register", "done")
    ]  # fmt: skip
    code, second, _ = dlde("run", "neural-operator", *tiny(), root=root)
    assert code == 0
    assert [s["state"] for s in second["stages"]] == ["found"] * 4
    assert all(second[key] == first[key] for key in ("run", "model", "metrics"))
    assert first["model"] == "neural-operator/1"
    written = {path.name for path in root.iterdir()}
    assert written == {"data", "runs", "mlflow"}

    code, measured, _ = dlde("evaluate", "neural-operator@champion", root=root)
    assert code == 0
    assert measured["metrics"]["relative_l2"] == first["metrics"]["relative_l2"]
    code, lineage, _ = dlde("models", "lineage", "neural-operator@champion", root=root)
    assert code == 0
    assert lineage["complete"], lineage["missing"]


def test_driver_killed_twice_continues_to_the_undisturbed_end(dlde: Dlde, tmp_path: Path) -> None:
    """Bitwise: in process, one thread. SIGKILL leaves no time for anything."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    steps = "method.descent.steps=400"
    code, undisturbed, _ = dlde("train", "neural-operator", *tiny(steps), root=tmp_path / "a")
    assert code == 0
    run = undisturbed["run"]
    for rows in (3, 150):
        with started(tmp_path / "b", "train", "neural-operator", *tiny(steps)) as process:
            wait_for(lambda rows=rows: has_rows(tmp_path / "b", rows), process)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert rows <= len(curve(tmp_path / "b", run)) < 400
    code, resumed, _ = dlde("train", "neural-operator", *tiny(steps), root=tmp_path / "b")
    assert code == 0
    assert curve(tmp_path / "a", run) == curve(tmp_path / "b", run)
    assert undisturbed["metrics"] == resumed["metrics"]
    weights = [
        package.read(tmp_path / name / "runs" / run / "model").module.state_dict() for name in ("a", "b")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_served_model_answers_as_in_process_and_leaves_nothing_behind(walked: tuple[Path, Any]) -> None:
    root, walk = walked
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with started(root, "serve", "neural-operator@champion", "--port", str(port)) as process:
        assert process.stdout is not None
        while f":{port}" not in process.stdout.readline():
            assert process.poll() is None
        u = open_dataset(walk["stages"][0]["store"]).read("test", "u", time=0)[:2, ::2, None]
        body = json.dumps({"inputs": {"u": u.tolist()}}).encode()
        url = f"http://127.0.0.1:{port}/predict"
        kind = {"content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, body, kind), timeout=60) as response:
            answered = np.asarray(json.load(response)["outputs"]["u"], dtype=np.float32)
        wrong = json.dumps({"inputs": {"u": u[:, :5].tolist()}}).encode()
        with pytest.raises(urllib.error.HTTPError, match="422") as refused:
            urllib.request.urlopen(urllib.request.Request(url, wrong, kind), timeout=60)
        assert "x >= 12" in refused.value.read().decode()
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        assert process.returncode == 0
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    model = package.read(root / "runs" / walk["run"] / "model")
    outputs, _ = model.answer("predict", {"u": torch.from_numpy(u)})
    np.testing.assert_allclose(answered, outputs["u"].numpy(), rtol=1e-6, atol=1e-7)


@pytest.fixture
def called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Any, str]]:
    """`dlde … --json` in this process, through the console script's own function."""
    monkeypatch.setenv("DLDE_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*arguments: str, root: Path = tmp_path) -> tuple[int, Any, str]:
        monkeypatch.setenv("DLDE_ROOT", str(root))
        monkeypatch.setattr("sys.argv", ["dlde", *arguments, "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(captured.out), captured.err

    return call


def test_wrong_input_is_refused_with_every_mistake_and_nothing_started(called: Dlde, tmp_path: Path) -> None:
    for arguments, message in (
        (["run", "neural-operater"], "unknown pipeline 'neural-operater'; did you mean 'neural-operator'?"),
        (["train", "neural-operator", "--preset", "papr"], "no preset 'papr'; did you mean 'paper'?"),
        (["train", "neural-operator", "--set", "method.name=fnoo"], "unknown method 'fnoo'"),
        (
            ["train", "neural-operator", "--set", "data.solutions=burgers-1d"],
            "did you mean 'burgers-1d-grf'",
        ),
        (["train", "neural-operator", "--set", "data.x.y=1"], "no data in the role 'x'"),
        (["train", "neural-operator", "--workers", "3"], "batch=20 cannot be shared equally by 3 workers"),
        (["evaluate", "nothing"], "unknown model 'nothing'"),
        (["show", "fn"], "nothing is called 'fn'"),
    ):
        code, document, stderr = called(*arguments)
        assert code == 2, (arguments, stderr)
        assert message in document["error"]["message"], arguments
        assert message in stderr
    code, document, _ = called(
        "train", "neural-operator", "--set", "method.widht=3", "--set", "seed=-1",
        "--set", "data.solutions.samples.train=0", "--set", "method.descent.rate=fast",
    )  # fmt: skip
    assert code == 2
    text = document["error"]["message"]
    for part in ("did you mean 'width'?", "seed: ", "samples.train", "method.descent.rate"):
        assert part in text
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("what", ["problems", "recipes", "methods", "pipelines"])
def test_list_and_show(called: Dlde, what: str) -> None:
    code, listed, _ = called("list", what)
    assert code == 0
    assert listed[what]
    for name, summary in listed[what].items():
        assert summary, f"{name} does not say what it is"
        code, shown, _ = called("show", name)
        assert code == 0
        assert shown[what.removesuffix("s")]


def test_altered_model_is_refused(called: Dlde, walked: tuple[Path, Any]) -> None:
    root, _ = walked
    weights = next(path for path in (root / "mlflow").rglob("model.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        for word in ("evaluate", "serve"):
            code, document, _ = called(word, "neural-operator@champion", root=root)
            assert code == 1
            assert document["error"]["type"] == "IntegrityError"
            assert "expected" in document["error"]["message"]
            assert "found" in document["error"]["message"]
    finally:
        weights.write_bytes(whole)


def test_training_refuses_damaged_data(called: Dlde, walked: tuple[Path, Any]) -> None:
    root, walk = walked
    chunk = next((Path(walk["stages"][0]["store"]) / "train" / "u").glob("c.1*"))
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    try:
        code, document, _ = called("train", "neural-operator", *tiny("seed=9"), root=root)
        assert code == 1
        assert document["error"]["type"] == "DamagedDataError"
        assert "part train-00001" in document["error"]["message"]
        assert "dlde data generate" in document["error"]["message"]
    finally:
        chunk.write_bytes(whole)


def test_import_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys, dlde.cli; sys.exit(bool({'torch', 'ray', 'mlflow', 'dask', 'zarr'} & set(sys.modules)))"
    )
    python = command()[0]
    assert subprocess.run([python, "-c", code], check=False).returncode == 0
