"""What a study leaves: the same table in three formats, a verdict, a page, a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from dlde.claims import Table
from dlde.cli import main
from dlde.pipeline import Study, StudyFigure
from dlde.study import report
from dlde.study import reproduce as reproducing
from dlde.study.reproduce import reproduce

ROWS = (
    *(
        {"variant": variant, "seed": seed, **point, "metric": metric, "value": 0.1 * seed + len(variant)}
        for variant, point in (("a", {"width": 4}), ("a", {"width": 8}), ("bb", {"kind": "smooth"}))
        for seed in (0, 1)
        for metric in ("error", "cost")
    ),
    {"variant": "a", "seed": 0, "width": 4, "metric": "loss", "value": 1.5, "step": 3, "seconds": 0.25},
)


def test_three_formats_hold_the_same_table(tmp_path: Path) -> None:
    report.save_table(Table(ROWS), tmp_path)
    report.save_table(Table(ROWS), tmp_path)  # again: nothing of the first is left over
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "table.parquet", "table.zarr"]
    parquet = pd.read_parquet(tmp_path / "table.parquet")
    csv = pd.read_csv(
        tmp_path / "table.csv",
        keep_default_na=False,
        na_values=dict.fromkeys(("width", "step", "seconds", "at"), ""),
    )
    pd.testing.assert_frame_equal(parquet, csv, check_dtype=False)
    zarr = xr.open_zarr(tmp_path / "table.zarr", consolidated=False)
    assert list(parquet["width"].dropna().unique()) == [4, 8]
    assert list(parquet["kind"].unique()) == ["", "smooth"]
    for name in parquet.columns:
        values = zarr[name].to_numpy()
        if parquet[name].dtype.kind in "if":
            np.testing.assert_array_equal(values, parquet[name])
        else:
            meanings = parquet[name].unique()
            assert [meanings[code] for code in values] == list(parquet[name])
    assert zarr["variant"].attrs["flag_meanings"] == "a bb"


def test_summary_over_the_seeds() -> None:
    rows = report.summary(Table(ROWS))
    assert {"metric": "error", "variant": "a", "width": 8, "mean": pytest.approx(1.05), "lowest": 1.0,
            "highest": 1.1, "seeds": 2} in rows  # fmt: skip
    assert len(rows) == 6


def test_the_picture_is_the_same_every_time() -> None:
    study = Study(
        variants={"a": {}, "bb": {}},
        figures=(StudyFigure(metric="error"), StudyFigure(metric="error", over="width"),
                 StudyFigure(metric="loss", over="step", where={"width": 4}, level=1.0)),
    )  # fmt: skip
    picture = report.draw(Table(ROWS), study)
    assert picture == report.draw(Table(ROWS), study)
    for word in ("<svg", "error", "width 4", "smooth"):
        assert word in picture


@pytest.fixture
def reproduced(study: Path, tmp_path: Path) -> Any:
    torch.set_num_threads(1)
    return reproduce(str(study), tmp_path / "root", seeds=(100,), results=tmp_path / "results")


def test_page_and_verdict(reproduced: Any, tmp_path: Path) -> None:
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "small-study.json", "small-study.md", "small-study.svg"
    ]  # fmt: skip
    verdict = json.loads((tmp_path / "results" / "small-study.json").read_text())
    assert verdict["holds"] is False
    assert len(verdict["conditions"]) == 5
    assert [trial["variant"] for trial in verdict["trials"]] == ["fno", "fcn", "fcn-dilated"]
    assert [trial["alone"] for trial in verdict["trials"]] == [False, False, True]
    assert all(trial["seconds"] > 0 and len(trial["data"]["solutions"]) == 64 for trial in verdict["trials"])
    assert verdict["environments"][0]["torch"] == torch.__version__
    page = (tmp_path / "results" / "small-study.md").read_text()
    for part in ("the claim does not hold", "| **no** |", "![What was measured](small-study.svg)",
                 reproduced.runs[0], verdict["trials"][0]["data"]["solutions"][:12]):  # fmt: skip
        assert part in page
    rows = reproduced.table.curves("relative_l2", variant="fno")[100]
    assert [row["step"] for row in rows] == list(range(1, 21))


def test_all_studies_by_one_command(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(study.read_text().replace("rate: 1e-3", "rate: 1e30"))
    files = {str(broken): broken, str(study): study}
    monkeypatch.setattr(reproducing, "yaml_files", lambda folder: files)

    def call(*arguments: str) -> tuple[int, dict[str, Any], str]:
        monkeypatch.setattr(
            "sys.argv", ["dlde", "reproduce", *arguments, "--json", "--root", str(tmp_path / "r")]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(captured.out), captured.err

    code, document, stderr = call()
    assert (code, document["error"]["message"]) == (2, "name one PIPELINE, or give --all")
    code, document, _ = call("--all", "--preset", "paper")
    assert code == 2
    code, document, stderr = call("--all", "--seeds", "100")
    assert code == 1
    assert document["failed"] == [str(broken)]
    assert [one["pipeline"] for one in document["studies"]] == ["small-study"]
    assert "trials failed, the first: fno, seed 100" in stderr
