"""The linear readout of time and path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dlde.methods.linear_path import LinearPath
from dlde.tasks.path_map import PathMap
from tests.fake_paths import info_of, run_over, walks


def test_it_is_least_squares_on_time_and_path(tmp_path: Path) -> None:
    data = walks(drivers=2)
    method = LinearPath(map=PathMap(lambdas=(0.0,)))
    method.check(info_of(data))
    model = method.train(run_over(data, tmp_path))
    w, y = (data.splits["train"][name] for name in ("control", "state"))
    t = np.broadcast_to(np.array(data.info.times)[None, :, None], (*w.shape[:2], 1))
    design = np.concatenate([np.ones_like(t), t, w], -1).reshape(-1, 4)
    expected = design @ np.linalg.lstsq(design, y.reshape(-1, 2), rcond=None)[0]
    given = {"time": torch.from_numpy(t[..., 0].copy()), "control": torch.from_numpy(w)}
    method.operations(info_of(data))["predict"].check(given)
    answer = method.predict(model, **given)["state"].reshape(-1, 2)
    np.testing.assert_allclose(answer.numpy(), expected, atol=1e-10)
    assert method.evaluate(model, run_over(data, tmp_path)).metrics["num_features"] == 3
