from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dlde.errors import InputError
from dlde.registry import package, registry, store
from dlde.registry.registry import Version


def test_mlflow_loads_a_package_without_pickle(
    packed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    u = torch.randn(2, 8, 1)
    expected = package.read(packed[0]).answer("predict", {"u": u})[0]["u"].numpy()
    loaded = store.mlflow().pyfunc.load_model(str(packed[0]))
    np.testing.assert_array_equal(loaded.predict({"u": u.numpy()})["u"], expected)
    np.testing.assert_array_equal(loaded.predict(u.numpy())["u"], expected)


def test_mlflow_loads_by_alias_and_the_package_stays_valid(
    root: Path, champion: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri(root))
        loaded = store.mlflow().pyfunc.load_model("models:/linear@champion")
    assert loaded.predict(np.ones((1, 8, 1), "float32"))["u"].shape == (1, 8, 1)
    assert package.digest(registry.resolve(root, "linear")) == champion.digest


def test_other_operations_by_parameter(packed: tuple[Path, str]) -> None:
    from dlde.registry.pyfunc import _load_pyfunc

    answerer = _load_pyfunc(str(packed[0]))
    ones = np.ones((1, 8, 1), "float32")
    added = answerer.predict({"u": ones, "v": ones}, {"operation": "add"})
    np.testing.assert_array_equal(added["u"], 2 * ones)
    with pytest.raises(InputError, match=r"'add' takes several inputs \(u, v\)"):
        answerer.predict(ones, {"operation": "add"})
