"""A pipeline's study: variants times seeds, one long table, and the claim read off it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlde.claims import Check, Table
from dlde.errors import SpecError
from dlde.files import write_json
from dlde.pipeline import Pipeline, Walk, Watch
from dlde.spec import digest_of


@dataclass(frozen=True)
class Reproduction:
    """What a study yielded: the table, its claim in words, and each condition with its figures."""

    table: Table
    claim: str
    conditions: tuple[Check, ...]
    runs: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every condition does."""
        return all(check.holds for check in self.conditions)


def reproduce(
    name: str,
    root: Path,
    *,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    seeds: tuple[int, ...] | None = None,
    watch: Watch | None = None,
    verbose: bool = False,
) -> Reproduction:
    """Train and evaluate every trial of the study (finished ones are found), then read the claim.

    Raises SpecError where the pipeline has no study or its method no claim.
    """
    base = Pipeline.load(name, preset=preset, overrides=overrides)
    if base.study is None or base.claim is None:
        what = "study" if base.study is None else "claim in its method's file"
        raise SpecError(f"pipeline {base.name!r} has no {what}: nothing to reproduce", mistakes=["study"])
    trials = [
        (
            variant,
            seed,
            Pipeline.load(
                name, preset=preset, overrides={**(overrides or {}), "seed": seed}, variant=variant
            ),
        )
        for seed in seeds or base.study.seeds
        for variant in base.study.variants
    ]
    rows: list[dict[str, Any]] = []
    runs = []
    walks = [
        (variant, seed, Walk(trial, root, watch=watch, verbose=verbose)) for variant, seed, trial in trials
    ]
    for variant, seed, walk in walks:
        walk.generate()
        walk.train()
        metrics = walk.evaluate().detail["metrics"]
        runs.append(walk.job.run)
        rows.extend(
            {"variant": variant, "seed": seed, "metric": metric, "value": value}
            for metric, value in metrics.items()
        )
    table = Table(tuple(rows))
    result = Reproduction(table, (base.claim.__doc__ or "").strip(), tuple(base.claim(table)), tuple(runs))
    write_json(
        root / "studies" / f"{base.name}-{digest_of(runs)[:12]}.json",
        {"table": rows, "conditions": [check.dump() for check in result.conditions], "runs": runs},
    )
    return result


def parse_seeds(text: str | None) -> tuple[int, ...] | None:
    """ "0,1,2" as numbers. Raises SpecError."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise SpecError(f"--seeds {text}: expected whole numbers such as 0,1,2", mistakes=["--seeds"])
    return tuple(map(int, parts))
