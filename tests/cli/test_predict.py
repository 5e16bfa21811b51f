"""`dlde predict` at a terminal: one document, exit codes, and refusals that write nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import command, environment


@pytest.fixture
def source(tmp_path: Path) -> str:
    rows = np.random.default_rng(0).standard_normal((4, 8, 1)).astype(np.float32)
    rows[2] *= 1000
    np.savez(tmp_path / "in.npz", u=rows)
    return str(tmp_path / "in.npz")


def test_a_file_is_answered(
    dlde: Callable[..., tuple[int, Any, str]], packed: tuple[Path, str], source: str, tmp_path: Path
) -> None:
    code, document, stderr = dlde("predict", str(packed[0]), source, str(tmp_path / "out.nc"), "--batch", "2")
    assert code == 0, stderr
    assert document["digest"] == packed[1]
    assert (document["rows"], document["batches"], document["outputs"]) == (4, 2, {"u": [4, 8, 1]})
    assert "rows 2 to 3" in document["warnings"][0]
    assert "warning: rows 2 to 3" in stderr
    assert (tmp_path / "out.nc").is_file()


def test_a_registered_model_answers_by_its_alias(
    champion: Any, root: Path, source: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        command("predict", "linear@champion", source, str(tmp_path / "out.npz")),
        env=environment(root),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "u (4, 8, 1)" in done.stdout
    assert "predict of linear/1" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--select", "time=first"), "expected a whole number"),
        (("--operation", "predit"), "did you mean 'predict'"),
        (("--option", "steps=3"), "unknown option 'steps'"),
        (("--batch", "0"), "greater than or equal to 1"),
    ],
)
def test_wrong_input_ends_with_2(
    options: tuple[str, str], message: str, packed: tuple[Path, str], source: str, tmp_path: Path
) -> None:
    target = tmp_path / "out.nc"
    done = subprocess.run(
        command("predict", str(packed[0]), source, str(target), *options),
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not target.exists()
