from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from linear_fixtures import LINEAGE, make_package

from dlde.errors import InputError, IntegrityError, RegistryError, UnknownNameError
from dlde.registry import package, registry, store
from dlde.registry.registry import Version

NewRun = Callable[[], str]


def test_registered_package_is_found_by_every_name(root: Path, champion: Version) -> None:
    assert champion.created
    for reference in ("linear", "linear@champion", "linear/1"):
        folder = registry.resolve(root, reference)
        assert package.digest(folder) == champion.digest
        assert folder.is_relative_to(root)


def test_folder_is_a_reference_too(root: Path, packed: tuple[Path, str]) -> None:
    assert registry.locate(root, str(packed[0])) == (packed[0], None)


def test_registering_twice_is_one_version(
    root: Path, champion: Version, packed: tuple[Path, str], new_run: NewRun
) -> None:
    again = registry.register(root, packed[0], "linear", run_id=new_run(), alias="challenger")
    assert (again.version, again.created) == (1, False)
    assert again.aliases == ("challenger", "champion")
    assert len(registry.models(root)) == 1


def test_killed_between_files_and_version_is_completed(
    root: Path, packed: tuple[Path, str], new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run()
    with monkeypatch.context() as patch:
        patch.setattr(registry.client(root), "create_model_version", _killed, raising=False)
        with pytest.raises(KeyboardInterrupt):
            registry.register(root, packed[0], "linear", run_id=run)
    with pytest.raises(UnknownNameError, match="no version"):
        registry.resolve(root, "linear")
    assert registry.register(root, packed[0], "linear", run_id=run).created
    registry.resolve(root, "linear@champion")


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_new_model_moves_the_alias_and_old_versions_stay(
    root: Path, champion: Version, tmp_path: Path, new_run: NewRun
) -> None:
    make_package(tmp_path / "better", seed=1)
    second = registry.register(root, tmp_path / "better", "linear", run_id=champion.run_id)
    assert second.version == 2
    assert registry.find(root, "linear@champion") == registry.find(root, "linear/2")
    assert package.digest(registry.resolve(root, "linear/1")) == champion.digest
    back = registry.set_alias(root, "linear/1", "champion")
    assert back.aliases == ("champion",)
    assert registry.find(root, "linear").version == 1
    assert [(one.version, one.aliases) for one in registry.models(root)] == [(2, ()), (1, ("champion",))]


def test_bare_name_without_champion_is_the_latest(root: Path, tmp_path: Path, new_run: NewRun) -> None:
    for seed in (0, 1):
        make_package(tmp_path / "m", seed=seed)
        registry.register(root, tmp_path / "m", "linear", run_id=new_run(), alias=None)
    assert registry.find(root, "linear").version == 2


def test_unknown_names_name_the_nearest(root: Path, champion: Version) -> None:
    for reference, message in (
        ("liner", "unknown model 'liner'; did you mean 'linear'"),
        ("linear@champoin", "no alias 'champoin'; did you mean 'champion'"),
        ("linear/7", "model 'linear' has no version 7; known: 1"),
        ("./linear", "neither a model .* nor a folder"),
        ("../../etc", "neither a model .* nor a folder"),
        ("linear'; DROP TABLE x", "neither a model .* nor a folder"),
        ("", "neither a model"),
    ):
        with pytest.raises(UnknownNameError, match=message):
            registry.resolve(root, reference)


@pytest.mark.parametrize("name", ["a/b", "a@b", "", "../x", "a:b", "a b"])
def test_bad_names_are_refused(root: Path, packed: tuple[Path, str], name: str) -> None:
    with pytest.raises(InputError, match="cannot name a model or an alias"):
        registry.register(root, packed[0], name, run_id="x")
    with pytest.raises(InputError, match="cannot name a model or an alias"):
        registry.set_alias(root, "linear", name)


@pytest.mark.parametrize("name", sorted(package.LIMITS))
def test_altered_file_in_the_registry_is_refused(root: Path, champion: Version, name: str) -> None:
    path = registry.resolve(root, "linear") / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    for call in (registry.resolve, registry.inspect, registry.lineage):
        with pytest.raises(IntegrityError, match=r"linear/1: .*expected .* found|not as dlde"):
            call(root, "linear@champion")
    with pytest.raises(IntegrityError):
        registry.set_alias(root, "linear/1", "challenger")


def test_package_replaced_in_the_registry_is_refused(root: Path, champion: Version) -> None:
    make_package(registry.resolve(root, "linear"), seed=1)
    with pytest.raises(IntegrityError, match=f"expected digest {champion.digest}, found"):
        registry.resolve(root, "linear")


def test_version_that_points_elsewhere_or_has_no_digest_is_refused(
    root: Path, champion: Version, packed: tuple[Path, str]
) -> None:
    api = registry.client(root)
    api.create_model_version("linear", "file:///etc", tags={registry.DIGEST_TAG: packed[1]})
    api.create_model_version(
        "linear", "file:///x/mlflow/artifacts/../../..", tags={registry.DIGEST_TAG: packed[1]}
    )
    api.create_model_version("linear", champion.source)
    with pytest.raises(RegistryError, match=r"gone|outside"):
        registry.resolve(root, "linear/2")
    with pytest.raises(RegistryError, match="outside"):
        registry.resolve(root, "linear/3")
    with pytest.raises(RegistryError, match="not registered by dlde"):
        registry.resolve(root, "linear/4")


def test_lost_files_are_named(root: Path, champion: Version) -> None:
    shutil.rmtree(registry.resolve(root, "linear"))
    with pytest.raises(RegistryError, match="linear/1: its files are gone"):
        registry.resolve(root, "linear")


def test_moved_root_is_still_whole(root: Path, champion: Version, tmp_path: Path) -> None:
    root.rename(tmp_path / "moved")
    folder = registry.resolve(tmp_path / "moved", "linear@champion")
    assert folder.is_relative_to(tmp_path / "moved")


def test_lineage_goes_back_to_the_recipe(root: Path, champion: Version) -> None:
    found = registry.lineage(root, "linear@champion")
    assert found["complete"], found["missing"]
    assert found["model"]["version"] == 1
    assert found["mlflow_run"]["run_id"] == champion.run_id
    assert found["run"]["run_digest"] == LINEAGE["run_digest"]
    assert found["data"] == LINEAGE["data"]
    assert found["code"] == LINEAGE["code"]


def test_broken_lineage_names_the_missing_link(
    root: Path, champion: Version, tmp_path: Path, packed: tuple[Path, str]
) -> None:
    registry.client(root).set_tag(champion.run_id, "dlde.run", "another")
    assert "MLflow run is of run another" in registry.lineage(root, "linear")["missing"][0]
    registry.client(root).delete_run(champion.run_id)
    unregistered = registry.lineage(root, str(packed[0]))
    assert unregistered["missing"] == ["the model is not registered: its MLflow run is unknown"]
    assert not unregistered["complete"]


def test_experiment_is_made_once_with_its_files_below_the_root(root: Path) -> None:
    first = registry.experiment(root, "a b/c")
    assert registry.experiment(root, "a b/c") == first
    registry.client(root).delete_experiment(first)
    assert registry.experiment(root, "a b/c") == first
    location = registry.client(root).get_experiment(first).artifact_location
    assert location == (root / "mlflow" / "artifacts" / "a_b_c").as_uri()


def test_new_database_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "_create", _half_made)
        with pytest.raises(KeyboardInterrupt):
            store.prepare(tmp_path)
    assert not store.database(tmp_path).exists()


def _half_made(path: Path) -> None:
    path.write_bytes(b"half")
    raise KeyboardInterrupt


def test_nothing_is_printed(fresh_store: Path, tmp_path: Path) -> None:
    """A new database, a new experiment and a listing, in a process of their own."""
    code = (
        "from pathlib import Path; from dlde.registry import registry; root = Path('r');"
        "registry.experiment(root, 'x'); assert registry.models(root) == []"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not [line for line in done.stderr.splitlines() if "mlflow" in line.lower() or "alembic" in line]


@pytest.fixture
def server(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same database, but as a server of somebody's: its files are fetched, not used in place."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri(root))
    monkeypatch.chdir(tmp_path)  # MLflow's own place for files is below it
    return tmp_path / "mlruns"


def test_files_of_a_server_are_fetched_once_and_checked(server: Path, root: Path, champion: Version) -> None:
    assert not list(root.glob("mlflow/artifacts"))
    folder = registry.resolve(root, "linear@champion")
    assert folder == root / "models" / champion.digest
    (stored,) = server.rglob("card.md")
    stored.write_text("altered at the server")
    assert registry.resolve(root, "linear@champion") == folder
    (folder / "card.md").write_text("altered here")
    with pytest.raises(IntegrityError, match=r"linear/1: .*card\.md was altered"):
        registry.resolve(root, "linear")
    with pytest.raises(IntegrityError, match=r"linear/1: .*card\.md was altered"):
        registry.resolve(root, "linear")
    assert list((root / "models").iterdir()) == []


def test_server_cannot_hand_over_other_files(server: Path, root: Path, champion: Version) -> None:
    (stored,) = server.rglob("card.md")
    (stored.parent / "weights.pkl").write_bytes(b"\x80\x04.")
    folder = registry.resolve(root, "linear")
    assert sorted(path.name for path in folder.iterdir()) == sorted(package.LIMITS)
    shutil.rmtree(root / "models")
    stored.unlink()
    with pytest.raises(RegistryError, match=r"linear/1: the server has no usable card\.md"):
        registry.resolve(root, "linear")


def test_unreachable_server_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_URI names running"):
        registry.models(root)
