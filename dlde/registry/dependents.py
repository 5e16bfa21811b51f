"""Which registered models were made from which data."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dlde.errors import RegistryError
from dlde.registry import registry, store

DATA_TAG = "dlde.data."  # of an MLflow run, before the role


def by_content(root: Path) -> dict[str, list[str]]:
    """Content digest -> models (NAME/version) that were made from it.

    A root without a registry has none. A model whose files are gone or damaged, and whose MLflow run does
    not tell, needs nothing. Raises RegistryError where the registry does not answer.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI") and not store.database(root).is_file():
        return {}
    found: dict[str, list[str]] = {}
    for version in registry.models(root):
        label = f"{version.name}/{version.version}"
        for digest in _of_run(root, version.run_id) or _of_package(root, label):
            found.setdefault(digest, []).append(label)
    return found


def _of_run(root: Path, run: str) -> set[str]:
    from mlflow.exceptions import MlflowException

    try:
        tags = registry.client(root).get_run(run).data.tags
    except MlflowException:
        return set()
    return {value for key, value in tags.items() if key.startswith(DATA_TAG)}


def _of_package(root: Path, label: str) -> set[str]:
    try:
        folder = registry.resolve(root, label)
        lineage = json.loads((folder / "model.json").read_text())["lineage"]
    except (RegistryError, OSError):
        return set()
    return {data["content_digest"] for data in lineage.get("data", {}).values() if data.get("content_digest")}
