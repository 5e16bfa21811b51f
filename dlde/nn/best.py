"""The best weights that a training has passed through, by a number that its method measures."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Best:
    """Keeps a copy of a model's state where a value (the lower, the better) was lowest.

    Named in a run's state, it resumes with it. `patience` is how many values in a row may fail to
    improve before `see` says that it is time to stop; None: no limit.
    """

    def __init__(self, model: nn.Module, *, patience: int | None = None) -> None:
        self.value = math.inf
        self.since = 0  # values without improvement
        self.patience = patience
        self._model = model
        self._weights = self._copy(model.state_dict())

    def see(self, value: float) -> bool:
        """Take in a value of the model as it is now; False once patience is over.

        NaN never improves. With several workers the value must be the same on all of them.
        """
        if value < self.value:
            self.value, self.since = value, 0
            self._weights = self._copy(self._model.state_dict())
        else:
            self.since += 1
        return self.patience is None or self.since < self.patience

    def restore(self) -> None:
        """Give the model its best state."""
        self._model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        value = None if math.isinf(self.value) else self.value
        return {"value": value, "since": self.since, "weights": self._weights}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.value = math.inf if content["value"] is None else content["value"]
        self.since, self._weights = content["since"], self._copy(content["weights"])

    @staticmethod
    def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.clone(tensor.detach()) for name, tensor in weights.items()}
