from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from dlde.cli.data import app
from dlde.datasets.generate import generate
from dlde.datasets.recipe import Recipe
from dlde.errors import DataError, DldeError, InputError
from dlde.registry import dependents, registry
from tests.cli.test_data import RECIPE, SMALL

if TYPE_CHECKING:
    from dlde.registry.registry import Version


@pytest.fixture
def data(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`dlde data …` in this process, on a root with an empty registry."""
    monkeypatch.setenv("DLDE_ROOT", str(root))

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, list(arguments))
        if isinstance(result.exception, DldeError):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.stdout

    return run


@pytest.fixture
def store(root: Path) -> Path:
    from dlde.spec import parse_assignments

    recipe = Recipe.load("burgers-1d-grf", overrides=parse_assignments(SMALL))
    return generate(recipe, root).store


def model_of(root: Path, store: Path, new_run: Callable[[], str]) -> str:
    """A registered model whose MLflow run says that it was made from that store."""
    digest = next(iter(json.loads((store / "manifest.json").read_text())["contents"]))
    run = new_run()
    registry.client(root).set_tag(run, "dlde.data.train", digest)
    return run


def test_an_empty_root(data: Any) -> None:
    assert "no dataset under" in data("list")
    assert json.loads(data("list", "--json"))["datasets"] == []


def test_list_and_remove(data: Any, root: Path, store: Path) -> None:
    (listed,) = json.loads(data("list", "--json"))["datasets"]
    assert (listed["name"], listed["state"], listed["store"]) == ("burgers-1d-grf", "complete", str(store))
    assert listed["digest"] in listed["contents"]
    line = data("list").splitlines()[1]
    for word in ("burgers-1d-grf", "complete", "12 train, 4 test", "none", listed["digest"][:12]):
        assert word in line
    with pytest.raises(InputError, match=r"removes .* for good; say --yes"):
        data("remove", *RECIPE)
    removed = json.loads(data("remove", *RECIPE, "--yes", "--json"))
    assert removed["removed"] == str(store)
    assert not store.exists()
    with pytest.raises(DataError, match="there is no dataset in"):
        data("remove", *RECIPE, "--yes")


def test_what_a_registered_model_was_made_from(
    data: Any, root: Path, store: Path, packed: tuple[Path, str], new_run: Callable[[], str]
) -> None:
    registry.register(root, packed[0], "linear", run_id=model_of(root, store, new_run))
    (listed,) = json.loads(data("list", "--json"))["datasets"]
    assert listed["models"] == ["linear/1"]
    assert "linear/1" in data("list")
    for target in (RECIPE, [str(store)]):
        with pytest.raises(InputError, match=r"data of the registered model linear/1, .*say --force"):
            data("remove", *target, "--yes")
    assert "freed" in data("remove", str(store), "--yes", "--force")
    assert not store.exists()


def test_the_package_tells_where_the_run_does_not(root: Path, champion: Version) -> None:
    assert dependents.by_content(root) == {"c0ffee" * 10: [f"linear/{champion.version}"]}


def test_looking_makes_no_registry(tmp_path: Path) -> None:
    assert dependents.by_content(tmp_path) == {}
    assert not any(tmp_path.iterdir())


def test_a_damaged_store_is_listed_and_removed(data: Any, store: Path) -> None:
    (store / "manifest.json").write_text("{")
    text = data("list")
    assert "damaged" in text
    assert f"{store}: manifest.json is damaged" in text
    data("remove", str(store), "--yes")
    assert not store.exists()


def test_a_store_takes_no_overrides(data: Any, store: Path) -> None:
    with pytest.raises(InputError, match="--set and --preset go with a recipe"):
        data("remove", str(store), "--yes", "--preset", "paper")
