"""`dlde data list|remove`: the datasets of a storage root."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlde.cli.console import Json, Preset, Root, Set, emit, say, table
from dlde.errors import InputError, RegistryError
from dlde.files import storage_root

if TYPE_CHECKING:
    from dlde.datasets.inventory import Entry

Force = Annotated[
    bool, typer.Option("--force", help="Also where a registered model was made from it, or none can tell.")
]


def list_datasets(root: Root = None, as_json: Json = False) -> None:
    """All datasets under the storage root.

    With the digest of what they hold, the verdict of their certificate, and the registered models that were
    made from them. No values are read: `dlde data verify` does that.
    """
    from dlde.datasets import inventory
    from dlde.registry import dependents

    place = storage_root(root)
    try:
        models, unknown = dependents.by_content(place), ""
    except RegistryError as error:
        models, unknown = {}, error.message
        say(f"warning: which models depend on them is not known: {unknown}")
    found = inventory.entries(place, models)
    document = {
        "root": str(place),
        "datasets": [{**entry.dump(), **({"models": None} if unknown else {})} for entry in found],
    }
    header = ["dataset", "problem", "state", "samples", "size", "certificate", "models", "digest"]
    human = table(header, [row for entry in found for row in _rows(entry)])
    damaged = [f"{entry.store}: {entry.damage}" for entry in found if entry.damage]
    nothing = f"no dataset under {place}; `dlde data generate RECIPE` makes one"
    emit(document, "\n".join([human, *damaged]) if found else nothing, as_json=as_json)


def attach(app: typer.Typer, locate: Callable[[str, str | None, list[str] | None, str | None], Path]) -> None:
    """Add the commands to `dlde data`; `locate` finds the store of a recipe or store, as they are given."""

    def remove(
        target: Annotated[
            str,
            typer.Argument(metavar="RECIPE|STORE", help="A recipe's name or YAML file, or a store's folder."),
        ],
        force: Force = False,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
        set_: Set = None,
        preset: Preset = None,
        root: Root = None,
        as_json: Json = False,
    ) -> None:
        """Remove a dataset.

        Refused while somebody works on it, and while a registered model was made from it.
        """
        from dlde.datasets import inventory
        from dlde.registry import dependents

        store = locate(target, preset, set_, root)
        inventory.check_store(store)
        if not yes:
            if not sys.stdin.isatty():
                raise InputError(f"`dlde data remove {target}` removes {store} for good; say --yes")
            typer.confirm(f"Remove {store} for good?", abort=True, err=True)
        models = {} if force else dependents.by_content(store.parent.parent)
        freed = inventory.remove(store, models, force=force)
        emit(
            {"removed": str(store), "bytes": freed},
            f"removed {store}: {size_text(freed)} freed",
            as_json=as_json,
        )

    app.command("list")(list_datasets)
    app.command("remove")(remove)


def size_text(count: float) -> str:
    """Bytes for a person: "12.3 MB"."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1e3:.1f} kB"


def _rows(entry: Entry) -> list[list[str]]:
    """One for what the recipe asks for now, and one for each older content that models may refer to."""
    state = entry.state
    if state == "incomplete":
        lacking = f"{entry.missing} of {entry.parts} parts missing" if entry.missing else "no statistics yet"
        state = f"incomplete: {lacking}"
    first = [
        entry.name,
        entry.problem,
        state,
        _counts(entry.samples),
        size_text(entry.bytes),
        entry.certificate or "none",
        ", ".join(entry.models) or "none",
        (entry.digest or "")[:12],
    ]
    older = [digest for digest in entry.contents if digest != entry.digest]
    return [
        first,
        *(["", "", "  earlier", _counts(entry.contents[one]), "", "", "", one[:12]] for one in older),
    ]


def _counts(samples: dict[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in samples.items())
