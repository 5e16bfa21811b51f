"""What a study leaves: its table, the verdict as JSON, and a page with a figure for a person.

<root>/studies/<pipeline>-<digest>/
  table.csv  table.parquet  table.zarr   the long table, in three formats of the same columns
  result.json                            claim, conditions, trials, digests, machine, durations
  result.md  result.svg                  the same for a person
"""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from dlde import figures
from dlde.claims import Table
from dlde.files import unwritable_named, write_atomically, write_json
from dlde.pipeline import Study, StudyFigure
from dlde.training.job import code_version

if TYPE_CHECKING:
    from dlde.study.reproduce import Reproduction

CURVES = ("step", "seconds", "at")  # columns that only points of curves have
FORMAT = 1  # of result.json
FIXED = ("variant", "seed", "metric", "step", "seconds", "at", "value")  # columns beside those of the axes


def write(result: Reproduction, results: Path | None) -> None:
    """All of it under the storage root; page, verdict and figure also into `results`."""
    save_table(result.table, result.folder)
    document = describe(result)
    places = [(result.folder, "result"), *([(results, result.pipeline)] if results else [])]
    for folder, name in places:
        write_json(folder / f"{name}.json", document)
        write_atomically(folder / f"{name}.svg", draw(result.table, result.study))
        write_atomically(folder / f"{name}.md", page(document, picture=f"{name}.svg"))


def describe(result: Reproduction) -> dict[str, Any]:
    """The verdict and everything it rests on, as plain data."""
    preset = f" --preset {result.preset}" if result.preset else ""
    environments = [outcome.execution.get("environment", {}) for outcome in result.outcomes]
    return {
        "format": FORMAT,
        "pipeline": result.pipeline,
        "command": f"dlde reproduce {result.pipeline}{preset}",
        "claim": result.claim,
        "holds": result.holds,
        "conditions": [check.dump() for check in result.conditions],
        "summary": summary(result.table),
        "trials": [
            {
                **outcome.trial.columns,
                "run": outcome.run,
                "seconds": round(outcome.seconds, 3) if math.isfinite(outcome.seconds) else None,
                "workers": outcome.execution.get("workers"),
                "alone": outcome.execution.get("alone"),
                "data": outcome.data,
            }
            for outcome in result.outcomes
        ],
        "environments": [dict(one) for one in {tuple(sorted(env.items())) for env in environments}],
        "code": code_version(),
    }


def summary(table: Table) -> list[dict[str, Any]]:
    """Mean, lowest and highest over the seeds, for every metric, variant and point of the axes."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    axes = axes_of(table)
    for row in table.rows:
        if not _on_curve(row):
            key = (row["metric"], row["variant"], *(row.get(axis) for axis in axes))
            groups.setdefault(key, []).append(float(row["value"]))
    return [
        {
            "metric": metric,
            "variant": variant,
            **{axis: label for axis, label in zip(axes, labels, strict=True) if label is not None},
            "mean": math.fsum(values) / len(values),
            "lowest": min(values),
            "highest": max(values),
            "seeds": len(values),
        }
        for (metric, variant, *labels), values in sorted(groups.items(), key=lambda item: item[0][0])
    ]


def _on_curve(row: Mapping[str, Any]) -> bool:
    """Whether a row is a point of a curve, and no measurement of a whole trial."""
    return any(row.get(column) is not None for column in CURVES)


def axes_of(table: Table) -> list[str]:
    """Columns that are axes of the study."""
    return list(dict.fromkeys(key for row in table.rows for key in row if key not in FIXED))


def save_table(table: Table, folder: Path) -> None:
    """The long table as CSV, Parquet and Zarr. Raises StorageFullError."""
    frame = _frame(table)
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_atomically(folder / "table.parquet", buffer.getvalue())
    write_atomically(folder / "table.csv", frame.to_csv(index=False))
    partial = folder / ".table.zarr.partial"
    with unwritable_named(folder):
        shutil.rmtree(partial, ignore_errors=True)
        _dataset(frame).to_zarr(partial, zarr_format=3, consolidated=False)
        shutil.rmtree(folder / "table.zarr", ignore_errors=True)
        partial.rename(folder / "table.zarr")


def _frame(table: Table) -> pd.DataFrame:
    """Columns of one type each: numbers with NaN, or text, for what a row does not have."""
    columns: dict[str, Any] = {}
    for key in ("variant", *axes_of(table), *FIXED[1:]):
        cells = [row.get(key) for row in table.rows]
        if all(cell is None or isinstance(cell, (int, float)) for cell in cells):
            numbers = np.array([math.nan if cell is None else cell for cell in cells], dtype=float)
            columns[key] = numbers.astype(np.int64) if key == "seed" else numbers
        else:
            columns[key] = ["" if cell is None else str(cell) for cell in cells]
    return pd.DataFrame(columns)


def _dataset(frame: pd.DataFrame) -> xr.Dataset:
    """Text as numbers with their meanings (CF: flag_values), which every reader of Zarr opens."""
    variables = {}
    for key in frame.columns:
        if frame[key].dtype.kind in "if":
            variables[key] = xr.Variable("row", frame[key].to_numpy())
            continue
        codes, meanings = pd.factorize(frame[key])
        attributes = {
            "flag_values": list(range(len(meanings))),
            "flag_meanings": " ".join(str(meaning).replace(" ", "_") for meaning in meanings),
        }
        variables[key] = xr.Variable("row", codes.astype(np.int64), attributes)
    return xr.Dataset(variables)


def page(document: Mapping[str, Any], *, picture: str) -> str:
    """The page for a person, in Markdown."""
    held = sum(condition["holds"] for condition in document["conditions"])
    verdict = "holds" if document["holds"] else "does not hold"
    lines = [
        f"# {document['pipeline']}: the claim {verdict}",
        "",
        f"Written by `{document['command']}`: {held} of {len(document['conditions'])} conditions hold.",
        "",
        *document["claim"].splitlines(),
        "",
        *_table(
            ["holds", "left", "right", "condition", "seeds"],
            [
                [
                    "yes" if condition["holds"] else "**no**",
                    _number(condition["left"]),
                    _number(condition["right"]),
                    condition["text"],
                    ", ".join(map(str, condition["seeds"])),
                ]
                for condition in document["conditions"]
            ],
        ),
        "",
        f"![What was measured]({picture})",
        "",
        "## What was measured",
        "",
        "Mean over the seeds, and the lowest and highest of them.",
        "",
        *_measured(document["summary"]),
        "",
        "## Where it ran",
        "",
        *(
            f"- {', '.join(f'{key} {value}' for key, value in env.items())}"
            for env in document["environments"]
        ),
        "- dlde " + ", ".join(f"{key} {value}" for key, value in document["code"].items() if key != "dlde"),
        "",
        *_table(
            ["trial", "seed", "run", "s of training", "alone", "data"],
            [
                [
                    _label(trial, ("seed", "run", "seconds", "workers", "alone", "data")),
                    trial["seed"],
                    trial["run"],
                    _number(trial["seconds"]),
                    "yes" if trial["alone"] else "no",
                    ", ".join(digest[:12] for digest in trial["data"].values()) or "none",
                ]
                for trial in document["trials"]
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def _measured(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One row for each metric, variant and point."""
    fixed = ("metric", "mean", "lowest", "highest", "seeds")
    return _table(
        ["metric", "trial", "mean", "lowest", "highest", "seeds"],
        [
            [row["metric"], _label(row, fixed), *(_number(row[key]) for key in fixed[1:4]), row["seeds"]]
            for row in rows
        ],
    )


def _label(row: Mapping[str, Any], without: Sequence[str]) -> str:
    """The variant, and where it stands on the axes."""
    parts = [str(value) if key == "variant" else f"{key} {value}" for key, value in row.items()
             if key not in without]  # fmt: skip
    return ", ".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows),
    ]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def draw(table: Table, study: Study) -> str:
    """The study's figures side by side, as SVG; the same table gives the same bytes."""
    wanted = study.figures or (StudyFigure(metric=str(table.rows[0]["metric"])),)
    return figures.as_svg(figures.study([_panel(table, one) for one in wanted]))


def _panel(table: Table, wanted: StudyFigure) -> figures.Panel:
    over_curve = wanted.over in CURVES
    rows = [
        row
        for row in table.rows
        if row["metric"] == wanted.metric
        and _on_curve(row) == over_curve
        and all(row.get(key) == value for key, value in wanted.where.items())
    ]
    return figures.Panel(
        lines=_lines(rows, wanted.over),
        horizontal=wanted.over or "",
        vertical=wanted.label or wanted.metric,
        level=wanted.level,
        title=", ".join(f"{key} {value}" for key, value in wanted.where.items()),
    )


def _lines(rows: Sequence[Mapping[str, Any]], over: str | None) -> dict[str, list[list[tuple[Any, float]]]]:
    """Variant -> for each seed its points (place, value); without `over` the place is the axes' labels."""
    lines: dict[str, dict[int, list[tuple[Any, float]]]] = {}
    for row in rows:
        if over is None:
            place = ", ".join(str(row[key]) for key in row if key not in FIXED) or row["variant"]
        else:
            place = row.get(over)
        if place is not None:
            lines.setdefault(row["variant"], {}).setdefault(row["seed"], []).append((place, row["value"]))
    return {variant: list(by_seed.values()) for variant, by_seed in lines.items()}
