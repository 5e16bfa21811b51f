"""Model versions in MLflow: registered once, found by name or alias, and traced to their origin.

A version's tag `dlde.digest` is the digest of its package. What is fetched is checked against it
before anything is read.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from dlde.errors import InputError, IntegrityError, RegistryError, UnknownNameError, nearest
from dlde.registry import package, store

DIGEST_TAG = "dlde.digest"
DEFAULT_ALIAS = "champion"
_NAME = r"[A-Za-z0-9][\w.-]*"
_REFERENCE = re.compile(rf"(?P<name>{_NAME})(?:@(?P<alias>{_NAME})|/(?P<version>\d+))?")


@dataclass(frozen=True)
class Version:
    """One version of a registered model; `created` says whether this call made it."""

    name: str
    version: int
    digest: str
    run_id: str
    aliases: tuple[str, ...] = ()
    created: bool = False
    source: str = ""
    time: float = 0.0  # of registration, seconds since 1970

    def dump(self) -> dict[str, Any]:
        """Plain data for a person or a program."""
        return {
            "name": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "digest": self.digest,
            "run_id": self.run_id,
            "time": self.time,
        }


def client(root: Path) -> Any:
    """An `MlflowClient` of the root's database or server; the database is created where missing."""
    return _client(store.prepare(root))


@cache
def _client(uri: str) -> Any:
    return store.mlflow().MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment(root: Path, name: str) -> str:
    """The id of an experiment, created where missing, with its files below the root."""
    api = client(root)
    with store.failures_named(f"experiment {name!r}"):
        known = api.get_experiment_by_name(name)
        if known is None:
            return str(api.create_experiment(name, artifact_location=store.artifact_root(root, name)))
        if known.lifecycle_stage != "active":
            api.restore_experiment(known.experiment_id)
        return str(known.experiment_id)


def register(
    root: Path,
    folder: Path,
    name: str,
    *,
    run_id: str,
    alias: str | None = DEFAULT_ALIAS,
    tags: Mapping[str, str] | None = None,
) -> Version:
    """Make a package a version of `name`, under `alias`, with its files in the MLflow run `run_id`.

    A package that already is a version stays that version; the alias is set in any case. Killed
    anywhere, the same call again completes it.
    """
    _check_name(name)
    if alias is not None:
        _check_name(alias)
    digest = package.digest(folder)
    api = client(root)
    with store.failures_named(f"registering {name!r}"):
        _ensure_model(api, name)
        found = _by_digest(api, name, digest)
        created = found is None
        if found is None:
            # a place of its own for every package: a version's files are never overwritten
            place = f"model/{digest[:16]}"
            api.log_artifacts(run_id, str(folder), place)
            source = f"{api.get_run(run_id).info.artifact_uri}/{place}"
            found = api.create_model_version(
                name, source, run_id=run_id, tags={**(tags or {}), DIGEST_TAG: digest}
            )
        if alias is not None:
            api.set_registered_model_alias(name, alias, found.version)
        return _version(api.get_model_version(name, found.version), created=created)


def resolve(root: Path, reference: str) -> Path:
    """The checked local folder of `NAME@alias`, `NAME/3`, `NAME` (champion, else the latest), or a path.

    From a server the files are fetched once, into `<root>/models`. Raises UnknownNameError with the
    nearest names, IntegrityError where the files are not those that were registered.
    """
    return locate(root, reference)[0]


def locate(root: Path, reference: str) -> tuple[Path, Version | None]:
    """`resolve`, with the registered version; None for a folder given by its path."""
    version = find(root, reference)
    if version is None:
        folder = Path(reference).expanduser()
        package.digest(folder)
        return folder, None
    return _fetched(root, version), version


def find(root: Path, reference: str) -> Version | None:
    """The version that a reference names, or None for a path to a package."""
    match = _REFERENCE.fullmatch(reference)
    if match is None or reference.startswith((".", "~")):
        folder = Path(reference).expanduser()
        if not package.is_package(folder):
            raise UnknownNameError(
                f"{reference!r} is neither a model (NAME, NAME@alias or NAME/version) nor a folder "
                "that holds a model package",
                name=reference,
            )
        return None
    name, alias, number = match["name"], match["alias"], match["version"]
    api = client(root)
    with store.failures_named(f"looking up {reference!r}"):
        known = {model.name: model for model in _models(api)}
        if name not in known:
            hint = f"; the folder of that name is meant by ./{reference}" if Path(reference).is_dir() else ""
            raise UnknownNameError(f"unknown model {name!r}; {nearest(name, known)}{hint}", name=name)
        aliases = {key: int(value) for key, value in known[name].aliases.items()}
        versions = {int(version.version): version for version in _versions(api, name)}
    if alias is not None and alias not in aliases:
        raise UnknownNameError(
            f"model {name!r} has no alias {alias!r}; {nearest(alias, aliases)}", name=alias
        )
    if alias is None and number is None:
        alias = DEFAULT_ALIAS if DEFAULT_ALIAS in aliases else None
    wanted = int(number) if number else aliases[alias] if alias else max(versions, default=0)
    if wanted not in versions:
        raise UnknownNameError(
            f"model {name!r} has no version {wanted}; {nearest(str(wanted), map(str, versions))}",
            name=reference,
        )
    return _version(versions[wanted], aliases=aliases)


def models(root: Path) -> list[Version]:
    """All versions of all models, the newest of each first."""
    api = client(root)
    with store.failures_named("listing models"):
        return [
            _version(version, aliases=model.aliases)
            for model in sorted(_models(api), key=lambda model: model.name)
            for version in sorted(_versions(api, model.name), key=lambda one: -int(one.version))
        ]


def inspect(root: Path, reference: str) -> dict[str, Any]:
    """What a model's package says, with its place in the registry."""
    folder, version = locate(root, reference)
    return {
        "registered": version.dump() if version else None,
        "digest": package.digest(folder),
        "folder": str(folder),
        "document": package.describe(folder),
        "card": (folder / "card.md").read_text(encoding="utf-8"),
    }


def set_alias(root: Path, reference: str, alias: str) -> Version:
    """Let `NAME@alias` mean the version that `reference` names, after checking its files."""
    _check_name(alias)
    _, version = locate(root, reference)
    if version is None:
        raise InputError(f"{reference!r} is a folder; an alias needs a registered model", name=reference)
    api = client(root)
    with store.failures_named(f"alias {alias!r} of {version.name!r}"):
        api.set_registered_model_alias(version.name, alias, str(version.version))
        return _version(api.get_model_version(version.name, str(version.version)))


def lineage(root: Path, reference: str) -> dict[str, Any]:
    """A model's origin: model, MLflow run, run, data with recipe and solver, code.

    `missing` names each link that is not there, or that two records tell differently.
    """
    folder, version = locate(root, reference)
    document = package.describe(folder)
    told = document["lineage"]
    missing = [
        f"the package does not name its {what}"
        for key, what in (("run", "run"), ("run_digest", "run's digest"), ("code", "code version"))
        if not told.get(key)
    ]
    problem = document["info"].get("problem")
    if problem and not (told.get("problem") or {}).get("digest"):
        missing.append("the package does not name its problem's digest")
    data = told.get("data") or {}
    for role, dataset in document["info"].get("data", {}).items():
        links = data.get(role) or {}
        missing += [
            f"data {role!r}: {what} unknown"
            for key, what in (
                ("recipe_digest", "recipe digest"),
                ("content_digest", "content digest"),
                ("solver_version", "solver version"),
            )
            if not links.get(key)
        ]
        if links.get("content_digest") not in (None, dataset["digest"]):
            missing.append(
                f"data {role!r}: lineage names content {links['content_digest']}, "
                f"the model's data info {dataset['digest']}"
            )
    run = None
    if version is None:
        missing.append("the model is not registered: its MLflow run is unknown")
    else:
        run, wrong = _run(root, version, told)
        missing += wrong
    return {
        "model": version.dump() if version else {"folder": str(folder)},
        "digest": package.digest(folder),
        "mlflow_run": run,
        "run": {key: told.get(key) for key in ("run", "run_digest", "seed")},
        "problem": told.get("problem"),
        "data": data,
        "code": told.get("code"),
        "complete": not missing,
        "missing": missing,
    }


def _run(root: Path, version: Version, told: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    from mlflow.exceptions import MlflowException

    try:
        run = client(root).get_run(version.run_id)
    except MlflowException:
        return None, [f"MLflow has no run {version.run_id!r}"]
    found = {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "experiment_id": run.info.experiment_id,
    }
    tag = run.data.tags.get("dlde.run")
    if tag is not None and tag not in (told.get("run"), told.get("run_digest")):
        return found, [f"the MLflow run is of run {tag}, the package of {told.get('run')}"]
    return found, []


def _fetched(root: Path, version: Version) -> Path:
    """A local folder with the version's files, checked against the version's digest."""
    label = f"{version.name}/{version.version}"
    if not re.fullmatch(r"[0-9a-f]{64}", version.digest):
        raise RegistryError(f"{label} was not registered by dlde (it has no tag {DIGEST_TAG}); refused")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return _verified(_below(root, version, label), version, label)
    kept = root.resolve() / "models" / version.digest
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetching-") as partial:
            _download(root, version, Path(partial), label)
            _verified(Path(partial), version, label)
            Path(partial).chmod(0o755)
            try:
                Path(partial).rename(kept)
            except OSError:  # another process was first; what it fetched is checked below
                if not kept.is_dir():
                    raise
            else:
                Path(partial).mkdir()  # the context wants something to remove
    try:
        return _verified(kept, version, label)
    except IntegrityError:
        shutil.rmtree(kept, ignore_errors=True)  # a damaged copy; the next call fetches it again
        raise


def _download(root: Path, version: Version, folder: Path, label: str) -> None:
    """Fetch the files of a package and no other, after looking at their names and sizes."""
    api = client(root)
    with store.failures_named(f"fetching {label}"):
        prefix = version.source.split("/artifacts/")[-1]
        listed = {item.path.rsplit("/", 1)[-1]: item for item in api.list_artifacts(version.run_id, prefix)}
        for name, limit in package.LIMITS.items():
            item = listed.get(name)
            if item is None or item.is_dir or (item.file_size or 0) > limit:
                raise RegistryError(f"{label}: the server has no usable {name} for it")
            store.mlflow().artifacts.download_artifacts(
                run_id=version.run_id,
                artifact_path=f"{prefix}/{name}",
                dst_path=str(folder / "fetched"),
                tracking_uri=store.tracking_uri(root),
            )
            found = next((folder / "fetched").rglob(name))
            found.replace(folder / name)
        shutil.rmtree(folder / "fetched")


def _verified(folder: Path, version: Version, label: str) -> Path:
    try:
        found = package.digest(folder)
    except IntegrityError as error:
        raise IntegrityError(f"{label}: {error.message}", **error.facts) from None
    if found != version.digest:
        raise IntegrityError(
            f"{label}: the files in {folder} are not those that were registered: "
            f"expected digest {version.digest}, found {found}",
            expected=version.digest,
            found=found,
        )
    return folder


def _below(root: Path, version: Version, label: str) -> Path:
    """The version's files below a root without a server, also after the root was moved."""
    artifacts = store.database(root).parent / "artifacts"
    place = unquote(urlparse(version.source).path).rpartition("/mlflow/artifacts/")[-1]
    folder = (artifacts / place).resolve()
    if not folder.is_relative_to(artifacts):
        raise RegistryError(f"{label}: its files lie outside {root}: {version.source}", source=version.source)
    if not folder.is_dir():
        raise RegistryError(f"{label}: its files are gone from {folder}", source=version.source)
    return folder


def _models(api: Any) -> list[Any]:
    return _pages(lambda token: api.search_registered_models(page_token=token))


def _versions(api: Any, name: str) -> list[Any]:
    return _pages(lambda token: api.search_model_versions(f"name='{name}'", page_token=token))


def _by_digest(api: Any, name: str, digest: str) -> Any | None:
    return next((one for one in _versions(api, name) if one.tags.get(DIGEST_TAG) == digest), None)


def _pages(search: Any) -> list[Any]:
    found, token = [], None
    while True:
        page = search(token)
        found += list(page)
        token = page.token
        if not token:
            return found


def _ensure_model(api: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        api.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version(one: Any, *, aliases: Mapping[str, Any] | None = None, created: bool = False) -> Version:
    number = int(one.version)
    named = one.aliases if aliases is None else [key for key, of in aliases.items() if int(of) == number]
    return Version(
        name=one.name,
        version=number,
        digest=one.tags.get(DIGEST_TAG, ""),
        run_id=one.run_id or "",
        aliases=tuple(sorted(named)),
        created=created,
        source=one.source or "",
        time=one.creation_timestamp / 1000,
    )


def _check_name(name: str) -> None:
    if not re.fullmatch(_NAME, name):
        raise InputError(
            f"{name!r} cannot name a model or an alias: letters, digits, '.', '_' and '-', "
            "beginning with a letter or a digit",
            name=name,
        )
