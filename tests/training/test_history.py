"""What a run's folder says of it: its state, its last row, its size; and what may not be removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlde.errors import InputError, UnknownNameError
from dlde.files import locked
from dlde.training import history


def make(root: Path, name: str, *, started: float = 1.0, rows: int = 3) -> Path:
    folder = root / "runs" / name
    (folder / "curves").mkdir(parents=True)
    (folder / "checkpoints" / "fit").mkdir(parents=True)
    (folder / "checkpoints" / "fit" / "3.pt").write_bytes(bytes(1000))
    job = {"run": name, "job": {"seed": 0}, "code": {"dlde": "0"}, "started": started}
    (folder / "job.json").write_text(json.dumps(job))
    (folder / "pipeline.yaml").write_text("name: small\ndescription: none\n")
    text = [json.dumps({"step": step, "seconds": 0.1, "loss": 1 / step}) for step in range(1, rows + 1)]
    (folder / "curves" / "fit.jsonl").write_text("".join(f"{line}\n" for line in text))
    return folder


def finish(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "model.json").write_text('{"lineage": {"data": {}}}')


def state(root: Path, name: str) -> str:
    return {entry.run: entry.state for entry in history.entries(root)}[name]


def test_states(tmp_path: Path) -> None:
    folder = make(tmp_path, "fno-1")
    assert state(tmp_path, "fno-1") == "interrupted"
    (folder / "failure.json").write_text('{"type": "NonFiniteError", "message": "not finite"}')
    assert state(tmp_path, "fno-1") == "failed"
    (folder / "failure.json").write_text('{"type": "StoppedError", "message": "stopped"}')
    assert state(tmp_path, "fno-1") == "stopped"
    finish(folder)
    assert state(tmp_path, "fno-1") == "finished"
    with locked(tmp_path / "runs" / ".locks" / "fno-1", "run fno-1"):
        assert state(tmp_path, "fno-1") == "running"
    assert state(tmp_path, "fno-1") == "finished"


def test_entries_are_the_newest_first_with_their_last_whole_row(tmp_path: Path) -> None:
    make(tmp_path, "old", started=1.0)
    folder = make(tmp_path, "new", started=2.0, rows=7)
    with (folder / "curves" / "fit.jsonl").open("a") as file:
        file.write('{"step": 8, "sec')  # being written
    new, old = history.entries(tmp_path)
    assert (new.run, new.pipeline, new.step, new.losses) == ("new", "small", 7, {"loss": 1 / 7})
    assert (old.run, old.step) == ("old", 3)
    assert new.bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert history.inspect(tmp_path, "new")["checkpoints"] == {"checkpoints/fit/3.pt": 1000}


def test_a_folder_with_nothing_but_its_job_is_listed(tmp_path: Path) -> None:
    (tmp_path / "runs" / "bare").mkdir(parents=True)
    (tmp_path / "runs" / "bare" / "job.json").write_text(
        '{"run": "bare", "job": {}, "code": {}, "started": 1}'
    )
    (entry,) = history.entries(tmp_path)
    assert (entry.state, entry.step, entry.losses, entry.pipeline) == ("interrupted", 0, {}, "")


def test_nothing_is_removed_where_one_may_not_be(tmp_path: Path) -> None:
    done, half = make(tmp_path, "done"), make(tmp_path, "half")
    finish(done)
    with pytest.raises(InputError, match="'half' is not finished: without its checkpoints"):
        history.remove(tmp_path, ["done", "half"], checkpoints_only=True)
    with (
        locked(tmp_path / "runs" / ".locks" / "half", "run half"),
        pytest.raises(InputError, match="`dlde runs stop half` first"),
    ):
        history.remove(tmp_path, ["done", "half"])
    with pytest.raises(UnknownNameError, match="did you mean 'done'"):
        history.remove(tmp_path, ["done", "dne"])
    assert (done / "checkpoints" / "fit" / "3.pt").exists()
    assert half.exists()


def test_removal_frees_what_it_says_and_leaves_nothing(tmp_path: Path) -> None:
    done, half = make(tmp_path, "done"), make(tmp_path, "half")
    finish(done)
    assert history.remove(tmp_path, ["done"], checkpoints_only=True) == 1000
    assert not (done / "checkpoints").exists()
    assert state(tmp_path, "done") == "finished"
    size = {entry.run: entry.bytes for entry in history.entries(tmp_path)}["half"]
    assert history.remove(tmp_path, ["half"]) == size
    assert not half.exists()
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [".locks", "done"]


def test_nobody_is_asked_to_stop_what_does_not_run(tmp_path: Path) -> None:
    folder = make(tmp_path, "half")
    with pytest.raises(InputError, match="is not running"):
        history.stop(tmp_path, "half")
    assert not (folder / "stop").exists()
