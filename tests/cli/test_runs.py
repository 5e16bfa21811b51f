"""`dlde runs` as a user calls it, on trainings that run, end, are stopped and are killed."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlde.registry.registry import client
from tests.conftest import command, environment, tiny
from tests.processes import DEADLINE, curve, has_rows, started, wait_for

Dlde = Callable[..., tuple[int, Any, str]]


def listed(dlde: Dlde) -> dict[str, str]:
    code, document, stderr = dlde("runs", "list")
    assert code == 0, stderr
    return {run["run"]: run["state"] for run in document["runs"]}


def test_stop_saves_and_the_same_command_goes_on(dlde: Dlde, tmp_path: Path) -> None:
    steps = 2500  # more than a fast machine takes while two commands run
    arguments = ("train", "neural-operator", *tiny(f"method.descent.steps={steps}"))
    with started(tmp_path, *arguments, "--json", stderr=subprocess.PIPE) as process:
        wait_for(lambda: has_rows(tmp_path, 15), process)
        (run,) = (path.parent.name for path in tmp_path.glob("runs/*/job.json"))
        assert listed(dlde) == {run: "running"}
        code, stopped, stderr = dlde("runs", "stop", run)
        assert code == 0, stderr
        assert stopped["state"] == "stopped"
        output, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 143
    assert "Traceback" not in stderr
    assert json.loads(output)["error"]["type"] == "StoppedError"
    assert 15 <= stopped["step"] < steps
    assert listed(dlde) == {run: "stopped"}
    (saved,) = {
        max(int("".join(filter(str.isdigit, Path(name).stem))) for name in shown["checkpoints"])
        for shown in [dlde("runs", "show", run)[1]]
    }
    assert saved == stopped["step"]
    before = (tmp_path / "runs" / run / "curves" / "fit.jsonl").read_text()
    code, _, stderr = dlde(*arguments)
    assert code == 0, stderr
    assert listed(dlde) == {run: "finished"}
    after = (tmp_path / "runs" / run / "curves" / "fit.jsonl").read_text()
    assert after.startswith(before)  # nothing was computed again
    assert [row["step"] for row in curve(tmp_path, run)] == list(range(1, steps + 1))


def test_the_life_of_runs(dlde: Dlde, tmp_path: Path) -> None:
    assert dlde("runs", "list")[1] == {"runs": []}
    wrong = ("method.descent.rate=1e30", "method.descent.warmup=0.0")
    assert dlde("train", "neural-operator", *tiny(*wrong))[0] == 1
    ((failed, state),) = listed(dlde).items()
    assert state == "failed"
    with started(tmp_path, "train", "neural-operator", *tiny("method.descent.steps=4000")) as process:
        wait_for(lambda: len(list(tmp_path.glob("runs/*/job.json"))) == 2, process)
        (killed,) = {path.parent.name for path in tmp_path.glob("runs/*/job.json")} - {failed}
        wait_for(lambda: (tmp_path / "runs" / killed / "curves" / "fit.jsonl").exists(), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    code, _, stderr = dlde("run", "neural-operator", *tiny())
    assert code == 0, stderr
    states = listed(dlde)
    (done,) = set(states) - {failed, killed}
    assert states == {failed: "failed", killed: "interrupted", done: "finished"}
    assert [run["run"] for run in dlde("runs", "list", "--state", "failed")[1]["runs"]] == [failed]
    code, document, _ = dlde("runs", "list", "--state", "done")
    assert code == 2
    assert "expected one of running, finished" in document["error"]["message"]

    shown = dlde("runs", "show", done)[1]
    assert (shown["step"], shown["pipeline"], shown["failure"]) == (60, "neural-operator", None)
    assert Path(shown["model"]).is_dir()
    assert shown["figures"]
    assert shown["metrics"]["relative_l2"] > 0
    assert "relative_l2" in dlde("runs", "show", failed)[1]["failure"]["message"]
    code, document, _ = dlde("runs", "show", f"{done}x")
    assert (code, document["error"]["type"]) == (2, "UnknownNameError")
    assert f"did you mean '{done}'" in document["error"]["message"]
    code, document, _ = dlde("runs", "stop", done)
    assert code == 2
    assert "is not running" in document["error"]["message"]

    code, document, _ = dlde("runs", "remove", done, "--yes")
    assert code == 2
    assert "is where the registered model neural-operator/1 comes from" in (document["error"]["message"])
    assert f"`dlde runs remove {done} --checkpoints`" in document["error"]["message"]
    code, document, _ = dlde("runs", "remove", killed, "--checkpoints")
    assert code == 2
    assert "is not finished" in document["error"]["message"]
    asked = subprocess.run(
        command("runs", "remove", failed), capture_output=True, text=True, check=False, cwd=tmp_path,
        env=environment(tmp_path), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert asked.returncode == 2
    assert "say --yes" in asked.stderr
    assert asked.stdout == ""
    assert listed(dlde) == states

    code, removed, _ = dlde("runs", "remove", done, "--checkpoints")
    assert code == 0
    assert removed["bytes"] == sum(shown["checkpoints"].values()) > 0
    assert dlde("runs", "show", done)[1]["checkpoints"] == {}
    mlflow_run = dlde("runs", "show", failed)[1]["mlflow_run"]
    code, removed, _ = dlde("runs", "remove", failed, killed, "--yes")
    assert code == 0
    assert removed["bytes"] > 0
    assert listed(dlde) == {done: "finished"}
    assert client(tmp_path).get_run(mlflow_run).info.lifecycle_stage == "deleted"
