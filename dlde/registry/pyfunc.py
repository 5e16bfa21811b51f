"""How `mlflow.pyfunc.load_model` opens a package: by `package.read`, with no pickle.

model = mlflow.pyfunc.load_model("models:/burgers@champion")
model.predict({"u": array})["u"]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dlde.errors import InputError
from dlde.registry import package


class Answerer:
    """What MLflow calls `predict` on; `params` may name another operation, and give its options."""

    def __init__(self, model: package.Model) -> None:
        self.model = model

    def predict(self, given: Any, params: Mapping[str, Any] | None = None) -> dict[str, NDArray[Any]]:
        """Outputs by name. `given`: arrays by name, or one array where the operation takes one input."""
        options = dict(params or {})
        name = str(options.pop("operation", next(iter(self.model.operations))))
        operation = self.model.operation(name)
        if not isinstance(given, Mapping):
            if len(operation.inputs) != 1:
                raise InputError(
                    f"{name!r} takes several inputs ({', '.join(operation.inputs)}): give a dict of arrays"
                )
            given = {next(iter(operation.inputs)): given}
        inputs = {key: torch.from_numpy(np.array(value)) for key, value in given.items()}
        outputs, _ = self.model.answer(name, inputs, options=options)
        return {key: tensor.numpy() for key, tensor in outputs.items()}


def _load_pyfunc(path: str) -> Answerer:
    """The name and signature that MLflow asks of a loader module."""
    return Answerer(package.read(Path(path)))
