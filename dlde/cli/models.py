"""`dlde models …`: what the registry holds, and where it came from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from dlde.cli.console import Json, Root, emit, table
from dlde.files import storage_root

app = typer.Typer(help="Registered models: list, inspect, lineage, alias.", no_args_is_help=True)

Reference = Annotated[
    str, typer.Argument(metavar="MODEL", help="NAME, NAME@alias, NAME/version, or the path of a package.")
]


@app.command("list")
def list_models(root: Root = None, as_json: Json = False) -> None:
    """All registered models, with their versions and aliases."""
    from dlde.registry import registry

    versions = registry.models(storage_root(root))
    rows = [
        [one.name, one.version, ", ".join(one.aliases), one.digest[:12], _time(one.time)] for one in versions
    ]
    human = table(["model", "version", "aliases", "digest", "registered"], rows)
    emit(
        {"models": [one.dump() for one in versions]},
        human if rows else "no model is registered yet; `dlde run PIPELINE` registers one",
        as_json=as_json,
    )


@app.command()
def inspect(model: Reference, root: Root = None, as_json: Json = False) -> None:
    """A model's card: problem, grid, metrics, operations; its files are checked."""
    from dlde.registry import registry

    found = registry.inspect(storage_root(root), model)
    card = found["card"].partition("\n---\n")[2].strip()
    human = f"{_title(found['registered'], found['folder'])}\ndigest {found['digest']}\n\n{card}"
    emit(found, human, as_json=as_json)


@app.command()
def lineage(model: Reference, root: Root = None, as_json: Json = False) -> None:
    """Model, run, data, recipe, solver, code: where a model came from, and which link is missing."""
    from dlde.registry import registry

    found = registry.lineage(storage_root(root), model)
    emit(found, _chain(found), as_json=as_json)


@app.command()
def alias(
    model: Reference,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="Such as champion or challenger.")],
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Let ALIAS mean this version; its files are checked first."""
    from dlde.registry import registry

    version = registry.set_alias(storage_root(root), model, name)
    emit(version.dump(), f"{version.name}@{name} is now version {version.version}", as_json=as_json)


def _chain(found: dict[str, Any]) -> str:
    model, run, code = found["model"], found["mlflow_run"], found["code"] or {}
    lines = [
        _title(model if "name" in model else None, model.get("folder", "")),
        f"  package     {found['digest']}",
        f"  MLflow run  {run['run_id']} ({run['status'].lower()})" if run else "  MLflow run  unknown",
        f"  run         {found['run']['run']} (digest {found['run']['run_digest']})",
    ]
    if found["problem"]:
        lines.append(f"  problem     {found['problem']['name']} (digest {found['problem']['digest']})")
    for role, data in found["data"].items():
        lines += [
            f"  data        {role}: content {data.get('content_digest')}",
            f"    recipe    {data.get('recipe')} (digest {data.get('recipe_digest')})",
            f"    solver    {data.get('problem')}, version {data.get('solver_version')}",
        ]
    lines.append("  code        " + ", ".join(f"{key} {value}" for key, value in code.items()))
    lines += [f"missing: {link}" for link in found["missing"]] or ["the chain is complete"]
    return "\n".join(lines)


def _title(registered: dict[str, Any] | None, folder: str) -> str:
    if registered is None:
        return folder
    aliases = "".join(f" @{alias}" for alias in registered["aliases"])
    return f"{registered['name']}/{registered['version']}{aliases}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
