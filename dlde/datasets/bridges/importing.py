"""From foreign files to a store and its recipe: everything is read and checked before anything is written.

A killed import leaves a store that is not finished and no recipe; the same command completes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml

from dlde.datasets import parts
from dlde.datasets.bridges.options import Options
from dlde.datasets.bridges.source import Source
from dlde.datasets.engines import Threads
from dlde.datasets.generate import Generated, Progress, complete
from dlde.datasets.parts import Part
from dlde.datasets.recipe import Recipe
from dlde.errors import DataError, InputError, SpecError, UnknownNameError, UnwritableError
from dlde.files import write_atomically, yaml_files
from dlde.problems.recorded import Recorded


@dataclass(frozen=True)
class Imported:
    """A finished import: its store and the recipe that names it."""

    generated: Generated
    recipe: Recipe
    recipe_file: Path


def import_files(
    files: Sequence[Path | str],
    name: str,
    options: Options,
    root: Path | str,
    *,
    folder: Path | str = "data",
    progress: Progress | None = None,
) -> Imported:
    """Make a dataset of files; its recipe goes to `folder`/`name`.yaml.

    The same files and options find what is there, complete it or repair it. Raises InputError,
    GridError, SpecError, UnknownNameError for what cannot be imported, NonFiniteError for samples that
    are not finite; nothing is written then.
    """
    with ExitStack() as opened:
        source = Source.of([Path(file) for file in files], options, opened)
        recipe = source.recipe(name)
        target = Path(folder) / f"{name}.yaml"
        _check_free(recipe, target)

        def make(recipe: Recipe, store: Path, part: Part, count: int) -> Part:
            start, stop = part.start, part.start + part.held(count)
            values = {
                field: source.read(part.split, field, start, stop).astype(recipe.storage.dtype)
                for field in recipe.variables
            }
            parts.commit(recipe, store, part, values)
            return part

        generated = complete(recipe, root, make, engine=Threads(1), progress=progress)
    text = recipe_text(recipe)
    if not target.is_file() or target.read_text() != text:
        try:
            write_atomically(target, text)
        except UnwritableError as error:
            raise DataError(
                f"{generated.store} is whole, but its recipe {target} cannot be written: {error.reason}; "
                "run the same command where you may write"
            ) from None
    return Imported(generated, recipe, target)


def _check_free(recipe: Recipe, target: Path) -> None:
    """Raises InputError where the name is another recipe's."""
    known = target if target.is_file() else yaml_files("data").get(recipe.name)
    if known is None or known.read_text() == recipe_text(recipe):
        return
    try:
        if Recipe.load(str(known)) == recipe:
            return
    except (SpecError, UnknownNameError):  # whatever it is, it is not ours
        pass
    raise InputError(
        f"there is another recipe {recipe.name!r} ({known}); choose another --name, or remove that file"
    )


def recipe_text(recipe: Recipe) -> str:
    """The recipe as its file holds it."""
    assert isinstance(recipe.problem, Recorded)
    plain = recipe.model_dump(
        mode="json", exclude={"name", "problem", "seed", "solver"}, exclude_defaults=True
    )
    plain["problem"] = {"name": "recorded", **recipe.problem.model_dump(mode="json", exclude_defaults=True)}
    keys = ("description", "problem", "num_points", "times", "samples", "storage")
    ordered = {key: plain[key] for key in keys if key in plain}
    text = yaml.safe_dump(ordered, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return f"# Imported by `{recipe.problem.command(recipe.name)}`.\n{text}"
