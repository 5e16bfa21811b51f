"""`dlde reproduce`: run a study, read its claim off the table, and keep everything that led to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlde.claims import Check, Table
from dlde.errors import SpecError
from dlde.files import yaml_files
from dlde.pipeline import Pipeline, Study, Watch
from dlde.spec import digest_of, read_yaml
from dlde.study import report
from dlde.study.trials import Outcome, run_all, trials_of


@dataclass(frozen=True)
class Reproduction:
    """What a study yielded: its trials, the table, the claim in words, and each condition."""

    pipeline: str
    preset: str | None
    study: Study
    outcomes: tuple[Outcome, ...]
    table: Table
    claim: str
    conditions: tuple[Check, ...]
    folder: Path  # where its table, verdict, page and figure lie

    @property
    def holds(self) -> bool:
        """Whether every condition does."""
        return all(check.holds for check in self.conditions)

    @property
    def runs(self) -> tuple[str, ...]:
        """The trials' runs, in order."""
        return tuple(outcome.run for outcome in self.outcomes)


def reproduce(
    name: str,
    root: Path,
    *,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    seeds: tuple[int, ...] | None = None,
    workers: int = 1,
    results: Path | None = None,
    watch: Watch | None = None,
    verbose: bool = False,
) -> Reproduction:
    """Train and evaluate every trial of the study (finished ones are found), then read the claim.

    `results` is a folder that gets the page, the verdict and the figure as `<pipeline>.md|json|svg`.
    Raises SpecError where the pipeline has no study or its method no claim.
    """
    base = Pipeline.load(name, preset=preset, overrides=overrides)
    if base.study is None or base.claim is None:
        what = "study" if base.study is None else "claim in its method's file"
        raise SpecError(f"pipeline {base.name!r} has no {what}: nothing to reproduce", mistakes=["study"])
    trials = trials_of(name, preset=preset, overrides=overrides, seeds=seeds)
    outcomes = run_all(trials, root, workers=workers, watch=watch, verbose=verbose)
    table = Table(tuple(row for outcome in outcomes for row in outcome.rows))
    digest = digest_of([outcome.run for outcome in outcomes])
    result = Reproduction(
        pipeline=base.name,
        preset=preset,
        study=base.study,
        outcomes=tuple(outcomes),
        table=table,
        claim=base.claim.words,
        conditions=tuple(base.claim(table)),
        folder=root / "studies" / f"{base.name}-{digest[:12]}",
    )
    report.write(result, results)
    return result


def reproducible() -> list[str]:
    """Names of the pipelines that have a study."""
    return [name for name, path in sorted(yaml_files("pipelines").items()) if read_yaml(path).get("study")]


def parse_seeds(text: str | None) -> tuple[int, ...] | None:
    """ "0,1,2" as numbers. Raises SpecError."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise SpecError(f"--seeds {text}: expected whole numbers such as 0,1,2", mistakes=["--seeds"])
    return tuple(map(int, parts))
