"""Generates a recipe (a JSON file) under a root and prints this process's peak memory in bytes."""

import json
import resource
import sys
from pathlib import Path

from dlde.datasets.engines import Threads
from dlde.datasets.generate import generate
from dlde.datasets.recipe import Recipe

generate(
    Recipe.parse(json.loads(Path(sys.argv[1]).read_text()), source="test"), sys.argv[2], engine=Threads(2)
)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
