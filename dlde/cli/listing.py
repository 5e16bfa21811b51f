"""`dlde list` and `dlde show`: what there is, by name."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from dlde.cli.console import Json, Preset, emit, table
from dlde.errors import UnknownNameError, nearest
from dlde.files import find_yaml, yaml_files


class What(StrEnum):
    """The kinds of named things."""

    problems = "problems"
    recipes = "recipes"
    methods = "methods"
    pipelines = "pipelines"


def list_names(
    what: Annotated[What, typer.Argument(help="What to list.")],
    as_json: Json = False,
) -> None:
    """List problems, recipes, methods, pipelines."""
    rows = _names(what)
    emit({what.value: rows}, table(["name", "what it is"], list(rows.items())), as_json=as_json)


def show(
    name: Annotated[str, typer.Argument(help="A problem, recipe, method or pipeline.")],
    preset: Preset = None,
    as_json: Json = False,
) -> None:
    """Show one of them with all its fields."""
    from dlde.spec import read_yaml

    kinds = [what for what in What if name in _names(what, summaries=False)]
    if name.endswith((".yaml", ".yml")):
        kinds = [What.pipelines if "method" in read_yaml(find_yaml("pipelines", name)) else What.recipes]
    if not kinds:
        known = [known for what in What for known in _names(what, summaries=False)]
        raise UnknownNameError(f"nothing is called {name!r}; {nearest(name, known)}", name=name)
    shown = {what.value.removesuffix("s"): _shown(what, name, preset) for what in kinds}
    emit(
        {"name": name, **shown},
        "\n\n".join(_yaml(kind, value) for kind, value in shown.items()),
        as_json=as_json,
    )


def _names(what: What, *, summaries: bool = True) -> dict[str, str]:
    from dlde import catalog
    from dlde.spec import read_yaml

    if what in (What.recipes, What.pipelines):
        files = yaml_files("data" if what is What.recipes else "pipelines")
        return {
            name: str(read_yaml(path).get("description", "")) if summaries else ""
            for name, path in files.items()
        }
    kind: Any = what.value.removesuffix("s")
    names = sorted(catalog.places(kind))
    return {name: catalog.find(kind, name).summary() if summaries else "" for name in names}


def _shown(what: What, name: str, preset: str | None) -> dict[str, Any]:
    from dlde import catalog

    if what is What.pipelines:
        from dlde.pipeline import Pipeline

        return Pipeline.load(name, preset=preset).dump()
    if what is What.recipes:
        from dlde.datasets.recipe import Recipe

        return Recipe.load(name, preset=preset).dump()
    kind: Any = what.value.removesuffix("s")
    found = catalog.find(kind, name)
    return {"about": (found.__doc__ or "").strip(), "fields": _fields(found)}


def _fields(noun: Any, place: str = "", default: Any = None) -> dict[str, dict[str, Any]]:
    """Type and default of every field, those of nested nouns by their dotted place."""
    from pydantic_core import PydanticUndefined, to_jsonable_python

    from dlde.spec import Spec

    found: dict[str, dict[str, Any]] = {}
    for key, field in noun.model_fields.items():
        value = getattr(default, key) if default is not None else field.default
        if isinstance(value, Spec):
            found |= _fields(type(value), f"{place}{key}.", value)
        else:
            kind = getattr(field.annotation, "__name__", "") if not str(field.annotation).count("[") else ""
            found[f"{place}{key}"] = {
                "type": kind or str(field.annotation).replace("typing.", ""),
                "default": "required" if value is PydanticUndefined else to_jsonable_python(value),
            }
    return found


def _yaml(kind: str, value: dict[str, Any]) -> str:
    import yaml

    if "about" in value:
        rows = [[name, field["default"], field["type"]] for name, field in value["fields"].items()]
        return f"{kind}: {value['about']}\n\n{table(['field', 'default', 'type'], rows)}"
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=100).rstrip()
