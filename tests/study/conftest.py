"""A study that trains in a second, of methods that are there already."""

from __future__ import annotations

from pathlib import Path

import pytest

FIELDS = "map: {num_points: 32}, descent: {steps: 20, batch: 8, rate: 1e-3}"
STUDY = f"""
description: A study in seconds
data:
  solutions:
    recipe: burgers-1d-grf
    set:
      problem.initial_condition: {{kind: gaussian, num_modes: 8}}
      num_points: [64]
      times: {{stop: 0.5, count: 3}}
      samples: {{train: 40, test: 12}}
      solver: {{num_points: 64, dt: 0.01}}
method: {{name: fno, modes: 6, width: 8, projection: 16, {FIELDS}}}
study:
  seeds: [100, 101]
  curves: [relative_l2]
  group: 2
  variants:
    fno: {{}}
    fcn: {{method: {{name: fcn, width: 8, kernel: 5, {FIELDS}}}}}
    fcn-dilated:
      study.exclusive: true
      method: {{name: fcn, width: 8, kernel: 5, dilations: [2], {FIELDS}}}
  figures:
    - {{metric: relative_l2, level: 0.04}}
    - {{metric: relative_l2, over: step}}
presets:
  wide: {{method.width: 12}}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The study's file."""
    path = tmp_path / "small-study.yaml"
    path.write_text(STUDY)
    return path
