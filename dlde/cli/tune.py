"""`dlde tune`: a search for good fields of a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dlde.cli.console import Fresh, Json, Preset, Root, Set, Verbose, Workers, emit, overrides, table
from dlde.cli.jobs import PipelineName, watching
from dlde.files import storage_root

if TYPE_CHECKING:
    from dlde.search.tune import Found

SHOWN = 10


def tune(
    pipeline: PipelineName,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, metavar="N", help="How many, instead of the pipeline's.")
    ] = None,
    register: Annotated[bool, typer.Option("--register", help="Register the best trial's model.")] = False,
    alias: Annotated[str, typer.Option("--alias", help="That the registered model takes.")] = "challenger",
    workers: Workers = None,
    set_: Set = None,
    preset: Preset = None,
    root: Root = None,
    fresh: Fresh = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Search the space that a pipeline names.

    The same command again goes on, also after a kill; with more --trials it grows. --workers makes every
    trial a distributed one.
    """
    from dlde.search.tune import tune as search

    fields = overrides(set_)
    if workers is not None:
        fields["search.workers"] = workers
    with watching() as watch:
        found = search(
            pipeline,
            storage_root(root),
            preset=preset,
            overrides=fields,
            trials=trials,
            fresh=fresh,
            register=register,
            alias=alias,
            watch=watch,
            verbose=verbose,
        )
    document = {
        "pipeline": found.pipeline.name,
        "metric": found.search.metric,
        "best": found.best.dump(),
        "importance": found.importance,
        "model": found.model,
        "schedules": found.schedules,
        "folder": str(found.folder),
        "trials": [outcome.dump() for outcome in found.outcomes],
    }
    emit(document, _told(found), as_json=as_json)


def _told(found: Found) -> str:
    from dlde.search.space import shown

    rows = [
        [
            outcome.number,
            outcome.state,
            "" if outcome.objective is None else f"{outcome.objective:.5g}",
            outcome.step,
            *(dict(shown(outcome.point))[path] for path in found.search.space),
        ]
        for outcome in found.outcomes[:SHOWN]
    ]
    best = table(["trial", "state", found.search.metric, "step", *found.search.space], rows)
    if len(found.outcomes) > SHOWN:
        best += f"\n… and {len(found.outcomes) - SHOWN} more"
    shares = table(
        ["field", "importance"], [[name, f"{share:.2f}"] for name, share in found.importance.items()]
    )
    rows = [
        [row["step"], *(dict(shown(row["point"]))[path] for path in found.search.space)]
        for row in found.schedules.get(found.best.number, [])
    ]
    went = "what the best went through:\n" + table(["from step", *found.search.space], rows)
    return "\n\n".join(
        [
            best,
            *([went] if rows else []),
            *([shares] if found.importance else []),
            f"{found.folder}\nthe best trial: dlde train {found.folder}/best.yaml"
            + (f"\nregistered as {found.model}" if found.model else ""),
        ]
    )
