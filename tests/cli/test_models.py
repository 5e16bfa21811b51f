from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from linear_fixtures import make_package
from typer.testing import CliRunner

from dlde.cli.models import app
from dlde.errors import IntegrityError, UnknownNameError
from dlde.registry import registry
from dlde.registry.registry import Version


def said(root: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--root", str(root)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def document(root: Path, *arguments: str) -> Any:
    return json.loads(said(root, *arguments, "--json"))


def test_list_shows_versions_and_aliases(root: Path, champion: Version) -> None:
    (one,) = document(root, "list")["models"]
    assert (one["name"], one["version"], one["aliases"]) == ("linear", 1, ["champion"])
    assert one["digest"] == champion.digest
    header, row = said(root, "list").splitlines()
    assert header.split() == ["model", "version", "aliases", "digest", "registered"]
    assert row.split()[:4] == ["linear", "1", "champion", champion.digest[:12]]


def test_list_of_nothing_says_how_to_get_something(root: Path) -> None:
    assert document(root, "list") == {"models": []}
    assert "dlde run PIPELINE" in said(root, "list")


def test_inspect_shows_the_card(root: Path, champion: Version, packed: tuple[Path, str]) -> None:
    found = document(root, "inspect", "linear@champion")
    assert found["registered"]["version"] == 1
    assert found["document"]["method"]["name"] == "linear"
    human = said(root, "inspect", "linear")
    assert human.startswith(f"linear/1 @champion\ndigest {champion.digest}\n\n# linear on decay-small")
    assert "library_name" not in human
    assert document(root, "inspect", str(packed[0]))["registered"] is None


def test_lineage_names_every_link(root: Path, champion: Version, packed: tuple[Path, str]) -> None:
    found = document(root, "lineage", "linear")
    assert found["complete"]
    human = said(root, "lineage", "linear")
    for link in (
        champion.digest,
        champion.run_id,
        "abab",
        "c0ffee",
        "fefe",
        "decay, version 1",
        "commit 1212",
    ):
        assert link in human
    assert human.endswith("the chain is complete\n")
    assert "missing: the model is not registered" in said(root, "lineage", str(packed[0]))


def test_alias_moves(root: Path, champion: Version, tmp_path: Path) -> None:
    make_package(tmp_path / "other", seed=1)
    registry.register(root, tmp_path / "other", "linear", run_id=champion.run_id, alias=None)
    assert document(root, "alias", "linear/2", "champion")["aliases"] == ["champion"]
    assert registry.find(root, "linear").version == 2
    assert said(root, "alias", "linear/1", "champion") == "linear@champion is now version 1\n"


def test_errors_rise_for_the_program_to_print(root: Path, champion: Version) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        said(root, "inspect", "linaer")
    (registry.resolve(root, "linear") / "card.md").write_text("other")
    with pytest.raises(IntegrityError, match=r"card\.md was altered"):
        said(root, "inspect", "linear")
