"""What becomes of a training whose processes are stopped, hang or lose their node, or whose disk is full."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import environment, tiny
from tests.processes import DEADLINE, children, curve, has_rows, started, wait_for

Dlde = Callable[..., tuple[int, Any, str]]
STEPS = 300
LONG = tiny(f"method.descent.steps={STEPS}", "training.checkpoint_steps=50")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The training that nothing happens to: its document, its losses, and a root that holds its data."""
    root = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run(
        [sys.executable, "-m", "dlde", "train", "neural-operator", *LONG, "--json"],
        env=environment(root), capture_output=True, text=True, check=True, cwd=root,
    )  # fmt: skip
    document = json.loads(done.stdout)
    return {**document, "losses": losses(root, document["run"]), "data": root / "data"}


@pytest.fixture
def root(undisturbed: dict[str, Any], tmp_path: Path) -> Path:
    """A root with the data, and no run."""
    shutil.copytree(undisturbed["data"], tmp_path / "data")
    return tmp_path


def losses(root: Path, run: str) -> list[float]:
    rows = curve(root, run)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["relative_l2"] for row in rows]


def close(found: list[float], expected: list[float]) -> None:
    """Several workers add in another order, and Adam amplifies it."""
    assert len(found) == len(expected)
    np.testing.assert_allclose(found[:50], expected[:50], rtol=1e-4)
    assert np.mean(found[-20:]) == pytest.approx(np.mean(expected[-20:]), rel=0.02)


def test_a_signal_saves_and_ends_and_the_same_command_goes_on_to_the_same_bits(
    dlde: Dlde, root: Path, undisturbed: dict[str, Any]
) -> None:
    with started(root, "train", "neural-operator", *LONG, "--json") as process:
        wait_for(lambda: has_rows(root, 60), process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 143
    error = json.loads(output)["error"]
    assert error["type"] == "StoppedError"
    step = int(error["message"].split("at step ")[1].split()[0])
    assert 60 <= step < STEPS
    saved = root / "runs" / undisturbed["run"] / "checkpoints" / "fit" / f"step-{step:09d}.pt"
    assert saved.is_file()
    code, document, stderr = dlde("train", "neural-operator", *LONG, root=root)
    assert code == 0, stderr
    assert document["metrics"] == undisturbed["metrics"]
    assert losses(root, document["run"]) == undisturbed["losses"]


def test_a_stopped_pair_of_workers_goes_on_in_one_process(
    dlde: Dlde, root: Path, undisturbed: dict[str, Any]
) -> None:
    with started(root, "train", "neural-operator", *LONG, "--workers", "2", "--json") as process:
        wait_for(lambda: has_rows(root, 60), process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 143, output
    assert "stopped (SIGTERM) in phase 'fit' at step" in json.loads(output)["error"]["message"]
    code, document, stderr = dlde("train", "neural-operator", *LONG, root=root)
    assert code == 0, stderr
    close(losses(root, document["run"]), undisturbed["losses"])


def test_a_worker_that_hangs_is_named_and_all_start_again(root: Path, undisturbed: dict[str, Any]) -> None:
    with started(
        root, "train", "neural-operator", *LONG, "--set", "training.hang_seconds=2.0", "--workers", "2",
        "--json", stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        wait_for(lambda: has_rows(root, 60), process)
        children(process, "RayTrainWorker")[1].suspend()
        output, stderr = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, stderr
    assert "hung for 2 s at step" in stderr
    assert "all workers start again from the last checkpoint" in stderr
    close(losses(root, json.loads(output)["run"]), undisturbed["losses"])


def test_a_killed_driver_leaves_nothing_behind_that_disturbs_the_next(
    dlde: Dlde, root: Path, undisturbed: dict[str, Any]
) -> None:
    """Its workers may go on for a while beside those of the next start: they see that it has taken over."""
    with started(root, "train", "neural-operator", *LONG, "--workers", "2") as process:
        wait_for(lambda: has_rows(root, 60), process)
        process.kill()
    code, document, stderr = dlde("train", "neural-operator", *LONG, "--workers", "2", root=root)
    assert code == 0, stderr
    close(losses(root, document["run"]), undisturbed["losses"])


def test_a_full_disk_stops_with_the_last_good_checkpoint_intact(
    root: Path, undisturbed: dict[str, Any], small_disk: Callable[[str], list[str]]
) -> None:
    """A real small file system that grows before the second start."""
    runs = root / "runs"
    runs.mkdir()
    train = f"{sys.executable} -m dlde train neural-operator --json " + " ".join(f"'{part}'" for part in LONG)
    script = (
        f"mount -t tmpfs -o size=150k tmpfs {runs} && {train}; echo; "
        f"ls -l {runs}/*/checkpoints/fit >&2; mount -o remount,size=20m {runs} && {train}"
    )
    done = subprocess.run(
        small_disk(script), env=environment(root), cwd=REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(done.stdout.strip())
    assert first["error"]["type"] == "StorageFullError", done.stderr
    assert "no space left while writing" in first["error"]["message"]
    assert "run the same command again; it continues" in first["error"]["message"]
    assert "step-0000000" in done.stderr
    again = json.loads(done.stdout.strip()[end:])
    assert again["metrics"] == undisturbed["metrics"], done.stderr


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Three real nodes of Ray on this machine: one for the driver, which has no place for workers."""
    from dlde import ray_session

    ray = ray_session._ray()
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.parametrize("spare", [True, False])
def test_a_lost_node_is_replaced_by_a_spare_or_ends_at_the_deadline(
    dlde: Dlde, root: Path, undisturbed: dict[str, Any], cluster: Any, spare: bool
) -> None:
    import threading

    import torch

    from dlde.errors import TrainingError
    from dlde.pipeline import Pipeline, Walk
    from dlde.spec import parse_assignments

    torch.set_num_threads(1)
    lost = cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    if spare:
        cluster.add_node(num_cpus=1, resources={"spare": 1})
    sets = [*LONG[1::2], "training.workers=2", "training.wait_seconds=24.0", "training.checkpoint_steps=20"]
    walk = Walk(Pipeline.load("neural-operator", overrides=parse_assignments(sets)), root, tracked=False)
    removed = threading.Event()
    found: list[Exception] = []

    def training() -> None:
        try:
            walk.train()
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=training)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
        if not removed.is_set() and has_rows(root, 40):
            cluster.remove_node(lost, allow_graceful=False)  # in the main thread, as Ray wants it
            removed.set()
    assert removed.is_set(), found
    if spare:
        assert not found
    else:
        (error,) = found
        assert isinstance(error, TrainingError)
        assert "no place for 2 workers" in error.message
        assert "go on from the last checkpoint" in error.message
        code, _, stderr = dlde("train", "neural-operator", *LONG, root=root)
        assert code == 0, stderr
    close(losses(root, undisturbed["run"]), undisturbed["losses"])
