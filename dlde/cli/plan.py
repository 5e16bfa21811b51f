"""`dlde plan`: what datasets will cost, before they are made; afterwards, what they did cost."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from dlde.cli.console import Json, Preset, Root, Set, Workers, emit, overrides, say, table
from dlde.cli.data_inventory import size_text
from dlde.errors import UnknownNameError, nearest
from dlde.files import find_yaml, storage_root, yaml_files

if TYPE_CHECKING:
    from dlde.datasets.plan import Plan
    from dlde.datasets.recipe import Recipe


def plan(
    name: Annotated[str, typer.Argument(metavar="RECIPE|PIPELINE", help="A name, or a YAML file.")],
    workers: Workers = None,
    set_: Set = None,
    preset: Preset = None,
    no_trial: Annotated[
        bool, typer.Option("--no-trial", help="Counts and bytes alone; no part is computed.")
    ] = False,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Say what datasets will cost: samples, files, bytes, memory, hours.

    One part is made in a process beside, and thrown away. What is there already counts as done; of a
    complete dataset the forecast is shown against the fact.
    """
    from dlde.datasets import plan as planning

    recipes, planned = _recipes(name, preset, set_)
    workers = workers or planned or min(len(os.sched_getaffinity(0)), 8)
    place = storage_root(root)
    plans: dict[str, Plan] = {}
    for role, recipe in recipes.items():
        plans[role] = planning.plan(
            recipe,
            place,
            workers=workers,
            trial=not no_trial,
            before_trial=partial(say, f"{recipe.name}: a trial of one part ..."),
        )
    document = {
        "name": name,
        "workers": workers,
        "datasets": {role: made.dump() for role, made in plans.items()},
        "total": planning.total(plans),
    }
    shown = "\n\n".join(_shown(role, made) for role, made in plans.items())
    emit(document, shown or f"{name} needs no dataset: it learns from the equation alone", as_json=as_json)
    for made in plans.values():
        for text in made.warnings:
            say(f"warning: {made.recipe}: {text}")


def duration(seconds: float) -> str:
    """For a person: "42 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _recipes(
    name: str, preset: str | None, assignments: list[str] | None
) -> tuple[dict[str, Recipe], int | None]:
    """The datasets by role (of a recipe by its name), each store once; and the pipeline's workers."""
    from dlde.datasets.recipe import Recipe
    from dlde.pipeline import Pipeline
    from dlde.spec import read_yaml

    pipelines, recipes = yaml_files("pipelines"), yaml_files("data")
    path = name.endswith((".yaml", ".yml")) or os.sep in name
    if not path and name not in pipelines and name not in recipes:
        known = {*pipelines, *recipes}
        raise UnknownNameError(f"no recipe or pipeline {name!r}; {nearest(name, known)}", name=name)
    if (path and "method" not in read_yaml(find_yaml("data", name))) or (not path and name in recipes):
        recipe = Recipe.load(name, preset=preset, overrides=overrides(assignments))
        return {recipe.name: recipe}, None
    pipeline = Pipeline.load(name, preset=preset, overrides=overrides(assignments))
    found: dict[str, Recipe] = {}
    for role, recipe in pipeline.data.items():
        if recipe not in found.values():
            found[role] = recipe
    return found, pipeline.training.workers or 1


def _shown(role: str, made: Plan) -> str:
    todo = made.parts - made.done
    counts = ", ".join(f"{count} {split}" for split, count in made.samples.items())
    on_disk = (
        "unknown without a trial" if made.stored_bytes is None else f"about {size_text(made.stored_bytes)}"
    )
    rows = [
        ["samples", counts],
        ["parts", f"{made.parts}" + (f", {made.done} of them done" if made.done else "")],
        ["files", f"{made.files}"],
        ["bytes", f"{size_text(made.raw_bytes)}; on disk {on_disk}"],
    ]
    if trial := made.trial:
        each = (trial.compute_seconds, trial.write_seconds, trial.verify_seconds)
        rows += [
            ["one part", "compute {}, write {}, verify {}".format(*map(duration, each))],
            ["memory", f"{size_text(trial.peak_bytes)} for each worker"],
        ]
    if made.seconds is not None and todo:
        rows.append(["time", f"about {duration(made.seconds)} with {made.workers} worker{_s(made.workers)}"])
    if not todo:
        rows.append(["time", "nothing to do"])
    if fact := made.fact:
        told = f"{duration(fact.seconds)} for {fact.computed} part{_s(fact.computed)} with "
        told += f"{fact.workers} worker{_s(fact.workers)}"
        if made.fact_forecast is not None and fact.computed:
            told += f"; forecast {duration(made.fact_forecast)}"
        rows.append(["it took", told])
        if fact.bytes is not None:
            guess = "" if made.stored_bytes is None else f"; forecast {size_text(made.stored_bytes)}"
            rows.append(["on disk", size_text(fact.bytes) + guess])
        if fact.peak_bytes is not None:
            guess = "" if made.trial is None else f"; forecast {size_text(made.trial.peak_bytes)}"
            rows.append(["memory", size_text(fact.peak_bytes) + guess])
    title = made.recipe if role == made.recipe else f"{role}: {made.recipe}"
    return f"{title}\n{table(['', ''], rows).partition(chr(10))[2]}\nstore  {made.store}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
