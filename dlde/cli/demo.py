"""`dlde demo`: the whole path on one problem, with a summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dlde.cli.console import Json, Root, Verbose, emit, say, table
from dlde.cli.jobs import watching
from dlde.files import storage_root

if TYPE_CHECKING:
    from dlde.demo import Summary


def demo(
    workers: Annotated[int, typer.Option("--workers", min=1, metavar="N", help="Ray Train workers.")] = 2,
    root: Root = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """The whole path on one problem, in minutes."""
    from dlde.demo import demo as walk

    with watching() as watch:
        done = walk(storage_root(root), workers=workers, watch=watch, say=say, verbose=verbose)
    document = {
        "metrics": done.metrics,
        "stages": {
            name: [{"stage": s.stage, "state": s.state, "seconds": s.seconds} for s in stages]
            for name, stages in done.stages.items()
        },
        "answer": done.answer.tolist(),
        "reference": done.reference.tolist(),
        "difference": done.difference,
        "model": done.model,
        "store": str(done.store),
        "pictures": [str(path) for path in done.pictures],
        "tracking_uri": done.tracking_uri,
    }
    emit(document, _text(done), as_json=as_json)


def _text(done: Summary) -> str:
    errors = [
        [f"{name.upper()} at {where}", f"{done.metrics[name][key]:.4f}"]
        for name, where, key in (
            ("fno", "the training resolution", "relative_l2"),
            ("fno", "8x the training resolution, unchanged", "relative_l2_fine"),
            ("fcn", "the training resolution", "relative_l2"),
            ("fcn", "8x the training resolution, unchanged", "relative_l2_fine"),
        )
    ]
    stages = [
        [name.upper(), stage.stage, stage.state, f"{stage.seconds:.1f}"]
        for name, of in done.stages.items()
        for stage in of
    ]
    stages += [
        ["FNO", "serve", "ready", f"{done.seconds_to_serve:.1f}"],
        ["FNO", "answer", "done", f"{done.seconds_to_answer:.3f}"],
    ]
    shown = range(0, len(done.x), len(done.x) // 8)
    answers = [
        [
            f"{done.x[i]:.3f}",
            f"{done.question[i]:+.4f}",
            f"{done.answer[i]:+.4f}",
            f"{done.reference[i]:+.4f}",
        ]
        for i in shown
    ]
    return "\n".join(
        [
            "",
            "Test error (relative L2, mean over the test split)",
            _indented(table(["network", "error"], errors)),
            "",
            "Seconds per stage",
            _indented(table(["network", "stage", "state", "seconds"], stages)),
            "",
            "One question over HTTP: a new initial state, and u at the last time",
            _indented(table(["x", "u(x, 0) asked", "model's answer", "reference solver"], answers)),
            f"  relative difference (L2): {done.difference:.4f}",
            "",
            "Where things are",
            f"  dataset   {done.store}",
            *(f"  picture   {path}" for path in done.pictures),
            f"  MLflow    .venv/bin/mlflow ui --backend-store-uri {done.tracking_uri}",
            f"  serve     .venv/bin/dlde serve {done.model}",
        ]
    )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
