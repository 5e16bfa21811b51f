"""Runs of the generator in processes that a test ends at exact points.

    python -m tests.datasets.process RECIPE.json ROOT WORKERS [POINT ...]

A POINT such as `KILL-before-3` sends that signal to the run itself at its third atomic rename;
`run` is a run that nothing ends; `grow` gives the file system at ROOT more room. Each runs in a
fork of this process, which has imported everything and started no thread: Python starts once.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from dlde.datasets.generate import generate
from dlde.datasets.recipe import Recipe
from dlde.errors import DldeError


def signal_at(name: str, when: str, number: int) -> None:
    """Send this process a signal just before or after its rename of that number."""
    rename, numbers = Path.replace, itertools.count(1)

    def replace(path: Path, target: Path) -> Path:
        mine = next(numbers)  # chunks are renamed by several threads
        if mine == number and when == "before":
            os.kill(os.getpid(), signal.Signals[f"SIG{name}"])
        result = rename(path, target)
        if mine == number and when == "after":
            os.kill(os.getpid(), signal.Signals[f"SIG{name}"])
        return result

    Path.replace = replace  # type: ignore[assignment, method-assign]


def run(recipe: Recipe, root: str, workers: int) -> None:
    """One JSON line; exit code 1 and a message for an error of ours."""
    try:
        done = generate(recipe, root, workers=workers)
    except DldeError as error:
        sys.exit(f"{type(error).__name__}: {error.message}")
    document = {"digest": done.digest, "computed": done.computed, "repaired": done.repaired}
    print(json.dumps(document), flush=True)


def main(file: str, root: str, workers: str, *points: str) -> None:
    recipe = Recipe.parse(json.loads(Path(file).read_text()), source=file)
    if not points:
        run(recipe, root, int(workers))
    for point in points:
        if point == "grow":
            subprocess.run(["mount", "-o", "remount,size=20m", root], check=True)
            continue
        child = os.fork()
        if child == 0:
            if point != "run":
                name, when, number = point.split("-")
                signal_at(name, when, int(number))
            run(recipe, root, int(workers))
            sys.exit()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        committed = len(list((recipe.store(root) / "parts").glob("*.json")))
        print(json.dumps({"point": point, "code": code, "committed": committed}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
