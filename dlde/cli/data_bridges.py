"""`dlde data import|export`: other formats in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlde.cli.console import Json, Preset, Root, Set, emit, progress, report
from dlde.files import storage_root

Texts = list[str] | None


def import_(
    name: Annotated[str, typer.Option("--name", help="What the dataset and its recipe are called.")],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", help="Files, folders or archives.")
    ] = None,
    map_: Annotated[
        Texts, typer.Option("--map", metavar="NEW=OLD", help="Import this array, under this name.")
    ] = None,
    dims: Annotated[
        Texts, typer.Option("--dims", metavar="FIELD=DIMS", help="Its dimensions: u=sample,time,x.")
    ] = None,
    coordinate: Annotated[
        Texts,
        typer.Option(
            "--coordinate",
            metavar="AXIS=WHERE",
            help="An array, or START:STOP; then perhaps :periodic, :wall, :open, or :closed (periodic, "
            "with both ends: the last point is left out).",
        ),
    ] = None,
    units: Annotated[
        Texts, typer.Option("--units", metavar="NAME=UNITS", help="Of a field or an axis.")
    ] = None,
    split: Annotated[
        Texts,
        typer.Option(
            "--split",
            metavar="SPLITS",
            help="train=0.8,test=0.2 (the default), counts, or a file for each: train=FILE.",
        ),
    ] = None,
    shuffle: Annotated[
        int | None,
        typer.Option("--shuffle", metavar="SEED", min=0, help="Mix the samples before they are divided."),
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="Instead of what the file looks like.")
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Make a dataset of files: npz, NetCDF, The Well, PDEBench, IDX, images, graphs.

    Its recipe is written to data/NAME.yaml here, so that pipelines find it. The same command again finds
    what is done, completes it, or repairs it.
    """
    from dlde.datasets.bridges.importing import import_files
    from dlde.datasets.bridges.options import Options

    options = Options.parse(
        rename=map_ or (),
        dims=dims or (),
        coordinates=coordinate or (),
        units=units or (),
        splits=split or (),
        format=format_,
        shuffle=shuffle,
    )
    with progress() as bars:
        done = import_files(
            files or [], name, options, storage_root(root), progress=report(bars, f"import {name}", "samples")
        )
    made, recipe = done.generated, done.recipe
    document = {
        "digest": made.digest,
        "store": str(made.store),
        "samples": recipe.samples,
        "recipe_digest": recipe.digest,
        "recipe": str(done.recipe_file),
        "seconds": round(made.seconds, 3),
        "parts": made.parts,
        "computed": made.computed,
        "repaired": made.repaired,
    }
    counts = ", ".join(f"{count} {its}" for its, count in recipe.samples.items())
    did = f"{made.computed} of {made.parts} parts imported" if made.computed or made.repaired else "found"
    human = [
        f"{name}: {counts}; {did}",
        *(
            f"field      {field}  {' '.join(('sample', *one.dims))}  {one.units}"
            for field, one in recipe.variables.items()
        ),
        *(
            f"axis       {axis}  {its.num_points} points from {its.start:g} to {its.stop:g}, {its.boundary}"
            for axis, its in recipe.axes.items()
        ),
        f"recipe     {done.recipe_file}",
        f"store      {made.store}",
        f"digest     {made.digest}",
    ]
    emit(document, "\n".join(human), as_json=as_json)


def export(
    target: Annotated[
        str, typer.Argument(metavar="RECIPE|STORE", help="A recipe's name or YAML file, or a store's folder.")
    ],
    format_: Annotated[str, typer.Option("--format", help="npz, netcdf, the-well or pdebench.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the files go.")],
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Only this one; may be given several times.")
    ] = None,
    set_: Set = None,
    preset: Preset = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Write a dataset as files of another format, one for each split."""
    from dlde.cli.data import _dataset
    from dlde.datasets.bridges.exporting import export as write

    dataset = _dataset(target, preset, set_, root)
    files = write(dataset, format_, output, split or ())
    document = {
        "digest": dataset.digest,
        "store": str(dataset.store),
        "format": format_,
        "files": {its: str(path) for its, path in files.items()},
    }
    emit(document, "\n".join(str(path) for path in files.values()), as_json=as_json)


def attach(app: typer.Typer) -> None:
    """Add the two commands to `dlde data`."""
    app.command("import")(import_)
    app.command("export")(export)
