"""`dlde data …`: make, look at and check datasets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlde.cli import data_bridges, data_inventory
from dlde.cli.console import (
    ClusterFile,
    Json,
    Preset,
    Root,
    Set,
    Workers,
    emit,
    overrides,
    progress,
    report,
    table,
)
from dlde.errors import InputError
from dlde.files import storage_root

if TYPE_CHECKING:
    from dlde.datasets.dataset import Dataset
    from dlde.datasets.recipe import Recipe

app = typer.Typer(
    help="Datasets: generate, inspect, verify, plot, list, remove, import, export.", no_args_is_help=True
)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or its YAML file.")]
Target = Annotated[
    str, typer.Argument(metavar="RECIPE|STORE", help="A recipe's name or YAML file, or a store's folder.")
]


@app.command()
def generate(
    recipe: RecipeName,
    workers: Workers = None,
    cluster: ClusterFile = None,
    set_: Set = None,
    preset: Preset = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Make a dataset complete: begin it, continue it after a kill, let it grow, repair it."""
    from dlde.cluster import Cluster
    from dlde.datasets.generate import generate as generate_dataset

    place = Cluster.load(cluster) if cluster else Cluster()
    loaded = _recipe(recipe, preset, set_)
    with progress() as bars:
        done = generate_dataset(
            loaded,
            storage_root(root or place.root),
            engine=place.tasks(workers),
            progress=report(bars, f"generate {loaded.name}", "samples"),
        )
    document = {
        **_summary(done.dataset),
        "seconds": round(done.seconds, 3),
        "parts": done.parts,
        "computed": done.computed,
        "repaired": done.repaired,
        "quarantined": done.dataset.quarantined,
    }
    found = "nothing to do" if not (done.computed or done.repaired) else f"{done.seconds:.1f} s"
    human = [
        f"{loaded.name}: {_counts(loaded.samples)}; {done.computed} of {done.parts} parts computed ({found})",
        *(f"repaired   {name}{_numbers(samples)}" for name, samples in done.repaired.items()),
        *_quarantined(done.dataset),
        f"store      {done.store}",
        f"digest     {done.digest}",
    ]
    emit(document, "\n".join(human), as_json=as_json)


@app.command()
def inspect(
    target: Target, set_: Set = None, preset: Preset = None, root: Root = None, as_json: Json = False
) -> None:
    """Say what a dataset holds: variables, grid, times, counts, statistics, identity."""
    dataset = _dataset(target, preset, set_, root)
    info, recipe = dataset.info, dataset.recipe
    document = {
        **_summary(dataset),
        "recipe": recipe.dump(),
        "variables": {name: variable.dump() for name, variable in info.variables.items()},
        "axes": {name: axis.dump() for name, axis in info.axes.items()},
        "times": list(info.times),
        "statistics": {name: statistics.dump() for name, statistics in info.statistics.items()},
        "quarantined": dataset.quarantined,
        "bytes": dataset.bytes,
        "certificate": dataset.certificate.dump() if dataset.certificate else None,
    }
    problem = dict(recipe.dump()["problem"])
    if problem["name"] == "recorded":  # the rest of it stands below
        problem = {key: problem[key] for key in ("name", "format", "files", "parameters") if problem[key]}
    grid = [
        f"{name}: {axis.num_points} points from {axis.start:g} to {axis.stop:g}, {axis.boundary}"
        for name, axis in info.axes.items()
    ]
    statistics = [
        [name, variable.long_name, variable.units, " ".join(("sample", *variable.dims))]
        + [f"{value:.4g}" for value in (s.mean, s.std, min(s.rms_low), max(s.rms_high), s.rms_delta)]
        for name, variable in info.variables.items()
        for s in [info.statistics[name]]
    ]
    human = [
        f"{recipe.name}  {recipe.description}".rstrip(),
        "",
        f"problem    {problem.pop('name')}  "
        + ", ".join(f"{key} {_plain(value)}" for key, value in problem.items()),
        *(f"grid       {line}" for line in grid),
        f"times      {len(info.times)} from {info.times[0]:g} to {info.times[-1]:g}",
        f"samples    {_counts(info.samples)}",
        f"stored     {recipe.storage.dtype}, {recipe.storage.compression}, {dataset.bytes / 1e6:.1f} MB",
        f"store      {dataset.store}",
        f"recipe     {dataset.recipe_digest}",
        f"digest     {dataset.digest}",
        *_certified(dataset),
        *_quarantined(dataset),
        "",
        table(
            ["variable", "meaning", "units", "dimensions", "mean", "std", "rms min", "rms max", "rms change"],
            statistics,
        ),
    ]
    emit(document, "\n".join(human), as_json=as_json)


@app.command()
def verify(
    target: Target, set_: Set = None, preset: Preset = None, root: Root = None, as_json: Json = False
) -> None:
    """Read every value and compare it with what was committed; exit code 1 names what is damaged."""
    from dlde.datasets import dataset

    recipe, store = _recipe_and_store(target, preset, set_, root)
    health = dataset.verify(recipe, store)
    document = {
        "digest": health.digest,
        "store": str(store),
        "samples": recipe.samples,
        "recipe_digest": recipe.digest,
        "parts": health.parts,
        "whole": health.whole,
        "damage": health.damage,
        "missing": health.missing,
        "files": health.files,
    }
    lines = [
        *(f"damaged    {name}{_numbers(samples)}" for name, samples in health.damage.items()),
        *(f"missing    {name}{_numbers(samples)}" for name, samples in health.missing.items()),
        *(f"damaged    {name}" for name in health.files),
    ]
    if lines:
        lines.append(f"repair it: {recipe.command(store.parent.parent)}")
    else:
        lines.append(f"{recipe.name}: all {health.parts} parts ({_counts(recipe.samples)}) are whole")
        lines.append(f"digest     {health.digest}")
    emit(document, "\n".join(lines), as_json=as_json)
    if not health.whole:
        raise typer.Exit(1)


@app.command()
def certify(
    target: Target,
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many random instances.")] = 8,
    set_: Set = None,
    preset: Preset = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Measure a dataset's solver: error, order, conservation; exit code 1 says what does not hold.

    Of a store, the result is kept in it; a recipe that is not generated yet can be asked, too.
    """
    from dlde.datasets import certificate

    recipe, store = _recipe_and_store(target, preset, set_, root)
    found = certificate.certify(recipe, samples=samples)
    if store.is_dir():
        certificate.write(store, found)
    rows = [
        [f.name, f"{f.value:.3g}", f"{'at least' if f.at_least else 'at most'} {f.limit:.3g}",
         "holds" if f.passed else "does NOT hold"]
        for f in found.findings
    ]  # fmt: skip
    lines = [
        f"{recipe.name}: {'certified' if found.passed else 'NOT certified'} on {samples} random instances "
        f"({found.seconds:.1f} s)",
        "",
        table(["measured", "value", "limit", ""], rows),
        *(["", "refined    difference from the next finer solver"] if found.refinements else []),
        *(f"{factor:8g}x  {size:.3g}" for factor, size in found.refinements),
        *(["", *found.notes] if found.notes else []),
    ]
    emit({**found.dump(), "store": str(store)}, "\n".join(lines), as_json=as_json)
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def plot(
    target: Target,
    split: Annotated[
        str | None, typer.Option("--split", help="Which split to draw from (default: train, or the first).")
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, max=64, help="How many samples (default: what fits).")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which random samples.")] = 0,
    variable: Annotated[
        list[str] | None, typer.Option("--variable", help="Draw this one; may be given several times.")
    ] = None,
    time: Annotated[
        list[float] | None,
        typer.Option("--time", help="A frame nearest this time; may be given several times."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=".png, or .gif or .mp4 for what moves. Default: a .png under the storage root.",
        ),
    ] = None,
    set_: Set = None,
    preset: Preset = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Draw random samples: fields, trajectories, images or graphs, as their dimensions say.

    With -o FILE.gif or FILE.mp4 an animation of fields over time.
    """
    from dlde.datasets import plot as pictures
    from dlde.files import write_atomically

    suffix = pictures.check_output(output) if output else ".png"
    dataset = _dataset(target, preset, set_, root)
    held = dataset.info.samples
    split = split or ("train" if "train" in held else next(iter(held)))
    names = variable or ()
    if suffix == ".png":
        figure = pictures.plot(dataset, split, samples, seed, variables=names, times=time or ())
        content = pictures.png(figure)
    elif time:
        raise InputError(f"--time chooses frames of a picture; {output} shows all stored times")
    else:
        content = pictures.film(dataset, suffix, split, samples, seed, variables=names)
    path = output or dataset.store.parent.parent / "figures" / f"{dataset.store.stem}-{split}.png"
    write_atomically(path, content)
    emit({**_summary(dataset), "figure": str(path)}, str(path), as_json=as_json)


def _recipe(name: str, preset: str | None, assignments: list[str] | None) -> Recipe:
    from dlde.datasets.recipe import Recipe

    return Recipe.load(name, preset=preset, overrides=overrides(assignments))


def _is_store(target: str) -> bool:
    return target.rstrip(os.sep).endswith(".zarr") or (Path(target) / "manifest.json").is_file()


def _recipe_and_store(
    target: str, preset: str | None, assignments: list[str] | None, root: str | None
) -> tuple[Recipe, Path]:
    """A recipe and its store, from either; --set and --preset belong to a recipe."""
    if _is_store(target):
        from dlde.datasets.dataset import recipe_of
        from dlde.datasets.layout import read_manifest

        if preset or assignments:
            raise InputError(f"{target} is a store: --set and --preset go with a recipe")
        store = Path(target).resolve()
        return recipe_of(read_manifest(store)), store
    from dlde.datasets import tolerance

    recipe = tolerance.known(_recipe(target, preset, assignments), storage_root(root))
    return recipe, recipe.store(storage_root(root))


def _store(target: str, preset: str | None, assignments: list[str] | None, root: str | None) -> Path:
    """Of a recipe, or as it is given, whatever state it is in."""
    if not _is_store(target):
        return _recipe_and_store(target, preset, assignments, root)[1]
    if preset or assignments:
        raise InputError(f"{target} is a store: --set and --preset go with a recipe")
    return Path(target).absolute()


def _dataset(target: str, preset: str | None, assignments: list[str] | None, root: str | None) -> Dataset:
    from dlde.datasets.dataset import Dataset, open_dataset

    recipe, store = _recipe_and_store(target, preset, assignments, root)
    return open_dataset(store) if _is_store(target) else Dataset.open(recipe, storage_root(root))


def _summary(dataset: Dataset) -> dict[str, Any]:
    return {
        "digest": dataset.digest,
        "store": str(dataset.store),
        "samples": dataset.recipe.samples,
        "recipe_digest": dataset.recipe_digest,
    }


def _counts(samples: dict[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in samples.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_plain(part)}" for key, part in value.items()) + ")"
    return str(value)


def _numbers(samples: list[int]) -> str:
    if not samples:
        return ""
    from dlde.datasets.parts import ranges

    return f": samples {ranges(samples)}"


def _quarantined(dataset: Dataset) -> list[str]:
    return [
        f"replaced   {entry['split']} sample {entry['sample']}, draw {entry['attempt']}: not finite"
        for entry in dataset.quarantined
    ]


def _certified(dataset: Dataset) -> list[str]:
    found = dataset.certificate
    if found is None:
        return []
    kind = "in short, before it was generated; `dlde data certify` measures the order, too"
    findings = ", ".join(f"{finding.name} {finding.value:.2g}" for finding in found.findings)
    return [f"certified  {findings} ({kind if found.short else f'on {found.samples} random instances'})"]


data_inventory.attach(app, _store)
data_bridges.attach(app)
