from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dlde.datasets import inventory
from dlde.datasets.dataset import open_dataset
from dlde.datasets.generate import Generated, generate
from dlde.datasets.recipe import Recipe
from dlde.errors import DataError, InputError, RunningError
from dlde.files import locked
from tests.datasets.conftest import HEAT

Heat = Callable[..., Recipe]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Generated]:
    root = tmp_path_factory.mktemp("root")
    return root, generate(Recipe.parse({"name": "heat", **HEAT}, source="test"), root)


@pytest.fixture
def made(original: tuple[Path, Generated], tmp_path: Path) -> Generated:
    """A dataset of this test's own."""
    shutil.copytree(original[0], tmp_path, dirs_exist_ok=True)
    return replace(original[1], dataset=open_dataset(tmp_path / "data" / original[1].store.name))


def only(root: Path, models: inventory.Models | None = None) -> inventory.Entry:
    (entry,) = inventory.entries(root, models)
    return entry


def test_a_complete_store(made: Generated, tmp_path: Path) -> None:
    entry = only(tmp_path, {made.digest: ["heat/1", "heat/2"], "ab" * 32: ["other/1"]})
    assert (entry.name, entry.problem, entry.state) == ("heat", HEAT["problem"]["name"], "complete")
    assert entry.samples == {"train": 20, "test": 5}
    assert (entry.parts, entry.missing, entry.digest) == (4, 0, made.digest)
    assert entry.bytes == made.dataset.bytes
    assert entry.contents == {made.digest: {"train": 20, "test": 5}}
    assert entry.models == ("heat/1", "heat/2")
    assert (entry.certificate, entry.damage) == ("passed", "")
    json.dumps(entry.dump())


def test_no_values_are_read(made: Generated, tmp_path: Path) -> None:
    for chunk in made.store.glob("train/u/c.*"):
        chunk.write_bytes(b"damaged")
    assert only(tmp_path).state == "complete"


def test_growth_keeps_the_older_content_and_its_models(made: Generated, heat: Heat, tmp_path: Path) -> None:
    grown = generate(heat(samples={"train": 40, "test": 5}), tmp_path)
    entry = only(tmp_path, {made.digest: ["heat/1"]})
    assert entry.digest == grown.digest != made.digest
    assert entry.contents == {
        made.digest: {"train": 20, "test": 5},
        grown.digest: {"train": 40, "test": 5},
    }
    assert entry.models == ("heat/1",)
    generate(heat(), tmp_path)
    assert only(tmp_path).digest == made.digest


def test_parts_that_are_missing_are_counted(made: Generated, tmp_path: Path) -> None:
    (made.store / "parts" / "train-00001.json").unlink()
    (made.store / "parts" / "test-00000.json").write_text("{")
    entry = only(tmp_path)
    assert (entry.state, entry.parts, entry.missing, entry.digest) == ("incomplete", 4, 2, None)


def test_a_part_that_holds_fewer_samples_than_are_asked_for_now_is_missing(
    made: Generated, heat: Heat, tmp_path: Path
) -> None:
    path = made.store / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["recipe"]["samples"]["train"] = 24
    path.write_text(json.dumps(manifest))
    entry = only(tmp_path)
    assert (entry.state, entry.parts, entry.missing) == ("incomplete", 4, 1)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_manifest_is_listed_as_such(made: Generated, tmp_path: Path, text: str) -> None:
    (made.store / "manifest.json").write_text(text)
    entry = only(tmp_path)
    assert (entry.state, entry.name) == ("damaged", made.store.stem)
    assert entry.damage
    assert entry.bytes > 0


@pytest.mark.parametrize("key", ["recipe", "contents", "files", "recipe_digest"])
def test_a_manifest_that_is_not_ours_is_listed_as_damaged(made: Generated, tmp_path: Path, key: str) -> None:
    path = made.store / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: 3}))
    assert only(tmp_path).state in ("damaged", "incomplete")


def test_altered_metadata_are_named(made: Generated, tmp_path: Path) -> None:
    (made.store / "train" / "zarr.json").write_text("{}")
    (made.store / "test" / "time" / "c.0").unlink()
    entry = only(tmp_path)
    assert (entry.state, entry.damage) == ("damaged", "altered or lost: test/time/c.0, train/zarr.json")


def test_other_folders_do_not_disturb(made: Generated, tmp_path: Path) -> None:
    (tmp_path / "data" / "empty.zarr").mkdir()
    (tmp_path / "data" / "notes.txt").touch()
    (tmp_path / "data" / ".heat.zarr.removed").mkdir()
    states = {entry.name: entry.state for entry in inventory.entries(tmp_path)}
    assert states == {"heat": "complete", "empty": "damaged"}
    assert inventory.entries(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"passed": true}', "passed"),
        ('{"passed": false}', "failed"),
        ("{", "unreadable"),
        ("3", "unreadable"),
    ],
)
def test_the_certificate_s_verdict(made: Generated, tmp_path: Path, text: str, verdict: str) -> None:
    (made.store / "certificate.json").write_text(text)
    assert only(tmp_path).certificate == verdict
    (made.store / "certificate.json").unlink()
    assert only(tmp_path).certificate is None


def test_remove_frees_what_it_says(made: Generated, heat: Heat, tmp_path: Path) -> None:
    size = inventory.size(made.store)
    freed = inventory.remove(made.store)
    assert size <= freed <= size + 16  # its lock
    assert not any((tmp_path / "data").iterdir())
    assert generate(heat(), tmp_path).digest == made.digest


def test_a_model_s_data_stay(made: Generated, heat: Heat, tmp_path: Path) -> None:
    generate(heat(samples={"train": 40, "test": 5}), tmp_path)
    models = {made.digest: ["heat/1", "heat/3"]}
    with pytest.raises(InputError, match=r"data of the registered models heat/1, heat/3, .*say --force"):
        inventory.remove(made.store, models)
    assert only(tmp_path).state == "complete"
    assert inventory.remove(made.store, models, force=True) > 0
    assert not made.store.exists()


def test_where_contents_are_unknown_models_might_need_them(made: Generated) -> None:
    (made.store / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot be told whether a registered model was made from it"):
        inventory.remove(made.store, {"ab" * 32: ["heat/1"]})
    inventory.remove(made.store)
    assert not made.store.exists()


def test_what_somebody_works_on_stays(made: Generated) -> None:
    with (
        locked(made.store, "dataset 'heat'"),
        pytest.raises(RunningError, match="is being worked on by process"),
    ):
        inventory.remove(made.store, force=True)
    assert made.dataset.verify().whole


def test_only_stores_are_removed(made: Generated, tmp_path: Path) -> None:
    other = tmp_path / "data" / "precious.zarr"
    other.mkdir()
    with pytest.raises(DataError, match="there is no dataset in"):
        inventory.remove(other)
    with pytest.raises(DataError, match=rf"of that name there are: {made.store.name}"):
        inventory.remove(made.store.with_name("heat-000000000000.zarr"))
    link = tmp_path / "data" / "link.zarr"
    link.symlink_to(made.store)
    with pytest.raises(InputError, match=r"is a link; remove what it points to"):
        inventory.remove(link)
    assert other.is_dir()
    assert made.dataset.verify().whole


def test_a_removal_that_was_killed_does_not_block_the_next(made: Generated) -> None:
    left = made.store.with_name(f".{made.store.name}.removed")
    (left / "train").mkdir(parents=True)
    inventory.remove(made.store)
    assert not left.exists()
