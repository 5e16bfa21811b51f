"""`dlde predict`: a model's answers to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlde.cli.console import Json, Root, Verbose, Workers, emit, overrides, progress, report, say
from dlde.errors import InputError
from dlde.files import storage_root


def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="NAME, NAME@alias, NAME/version, or the path of a package.")
    ],
    source: Annotated[str, typer.Argument(metavar="IN", help="Inputs: .npz, .nc, or a Zarr folder.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Outputs: .npz, .nc or .zarr.")],
    operation: Annotated[
        str | None, typer.Option("--operation", metavar="NAME", help="Instead of the model's first.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=NUMBER", help="An option of the operation.")
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select", metavar="DIM=INDEX", help="One entry of a dimension of the file, as time=0."
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, metavar="N", help="Rows at once.")] = None,
    workers: Workers = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT where it exists.")] = False,
    root: Root = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Answer all of a file's inputs.

    In batches, on Ray's workers with --workers. The answers are those of `dlde serve`.
    """
    from dlde.prediction import predict as answer

    chosen = overrides(select)
    for name, index in chosen.items():
        if not isinstance(index, int) or isinstance(index, bool):
            raise InputError(f"--select {name}={index}: expected a whole number")
    with progress() as bars:
        done = answer(
            model,
            Path(source),
            Path(target),
            storage_root(root),
            operation=operation,
            options=overrides(option),
            select=chosen,
            batch=batch,
            workers=workers,
            force=force,
            progress=report(bars, "predict", "rows"),
            verbose=verbose,
        )
    for text in done.warnings:
        say(f"warning: {text}")
    shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in done.outputs.items())
    emit(
        done.dump(),
        f"{done.path}: {shapes}\n{done.operation} of {done.model} ({done.digest[:12]})",
        as_json=as_json,
    )
