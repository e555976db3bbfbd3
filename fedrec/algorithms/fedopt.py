"""FedAdam and FedAdagrad: the server follows the mean change with an adaptive optimizer.

Reddi et al., "Adaptive federated optimization", 2021, algorithm 2.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrec.algorithms.fedavg import FedAvg
from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError
from fedrec.models.base import Recommender
from fedrec.privacy.mechanisms.protocol import Aggregate
from fedrec.update import Arrays


@dataclass(frozen=True, slots=True)
class FedAdam(FedAvg):
    """m and v are running means of the change and its square; model += server_learning_rate * m / (sqrt(v) + tau)."""

    name: ClassVar[str] = "fedadam"
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        FedAvg.__post_init__(self)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise FedrecError(f"algorithm.{name}={getattr(self, name)} must lie in [0, 1)")
        if not self.tau > 0:
            raise FedrecError(f"algorithm.tau={self.tau} must be positive")

    def init(self, model: Recommender, catalogue: Catalogue) -> Arrays:
        """Start from the model's own first values and empty moments."""
        self.check_model(model)
        shared = model.shared_arrays()
        moments = {f"{kind}/{name}": np.zeros_like(a) for name, a in shared.items() for kind in ("first", "second")}
        return {**shared, **moments}

    def second(self, previous: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Return the next second moment."""
        return self.beta2 * previous + (1 - self.beta2) * np.square(change)

    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        """Follow the moments of the mean change."""
        after = dict(state)
        for name, change in total.mean().items():
            first = self.beta1 * state[f"first/{name}"] + (1 - self.beta1) * change
            second = self.second(state[f"second/{name}"], change)
            move = self.server_learning_rate * first / (np.sqrt(second) + self.tau)
            after |= {f"first/{name}": first, f"second/{name}": second, name: state[name] + move}
        return {name: array.astype(np.float32) for name, array in after.items()}


@dataclass(frozen=True, slots=True)
class FedAdagrad(FedAdam):
    """As `FedAdam`, with no first moment by default and a second moment that only grows."""

    name: ClassVar[str] = "fedadagrad"
    beta1: float = 0.0

    def second(self, previous: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Return the next second moment: the sum of squares."""
        return previous + np.square(change)
