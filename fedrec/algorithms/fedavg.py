"""Federated averaging: devices train the model, the server adds their mean change (McMahan et al. 2017).

FedAdam and FedAdagrad: the server follows the mean change with an adaptive optimizer.

Reddi et al., "Adaptive federated optimization", 2021, algorithm 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrec.algorithms.base import Contribution, PooledContribution, RoundContext, TrainingAlgorithm
from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError
from fedrec.messages import Arrays, ModelUpdate
from fedrec.models.base import Recommender, TrainableRecommender
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import Aggregate
from fedrec.training.batches import LocalTrainingConfig
from fedrec.training.gateway import train_pooled
from fedrec.training.local import first_of, train


@dataclass(frozen=True, slots=True)
class FedAvg(LocalTrainingConfig, TrainingAlgorithm):
    """Local training, then model += server_learning_rate * mean change over the public denominator."""

    name: ClassVar[str] = "fedavg"
    server_learning_rate: float = 1.0

    accepts: ClassVar[tuple[type[Recommender], ...]] = (TrainableRecommender,)
    pools_users: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("negatives", 0)):
            if getattr(self, name) < least:
                raise FedrecError(f"algorithm.{name}={getattr(self, name)} must be at least {least}")
        for name in ("learning_rate", "server_learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise FedrecError(f"algorithm.{name}={getattr(self, name)} must be a positive number")
        if self.denominator is not None and not self.denominator > 0:
            raise FedrecError(
                f"algorithm.denominator={self.denominator} must be a positive number, or null for the mean"
            )
        if self.optimizer not in ("sgd", "adam"):
            raise FedrecError(f"algorithm.optimizer={self.optimizer} must be sgd or adam")

    def init(self, model: Recommender, catalogue: Catalogue) -> Arrays:
        """Start from the model's own first values."""
        self.check_model(model)
        return model.shared_arrays()

    def check_model(self, model: Recommender) -> None:
        """Raise where the model's loss compares with negatives and none would be drawn."""
        if isinstance(model, TrainableRecommender) and model.negatives_useful and self.negatives == 0:
            raise FedrecError("algorithm.negatives=0: this loss compares a positive with at least 1 negative")

    def sensitivity(self, unit: Unit) -> float | None:
        """A trained change is unbounded by itself: the mechanism's clip bounds it, at either unit."""
        return math.inf

    def contribute(
        self, model: Recommender, broadcast: Arrays, device: DeviceData, private: Arrays, context: RoundContext
    ) -> Contribution:
        """Train on one device and return how its shared arrays changed."""
        if not isinstance(model, TrainableRecommender):
            raise FedrecError(f"{type(self).__name__} can't train {type(model).__name__}")
        model.load(broadcast)
        model.load(private or first_of(model, context.seed, device.user))
        loss, examples = train(model, device, self, context.mechanism, (context.seed, context.round, device.user))
        change = {name: array - broadcast[name] for name, array in model.shared_arrays().items()}
        return Contribution(ModelUpdate(change, 1), model.private_arrays(), loss, examples)

    def contribute_pooled(
        self,
        model: Recommender,
        broadcast: Arrays,
        devices: Sequence[DeviceData],
        private: Sequence[Arrays],
        context: RoundContext,
    ) -> PooledContribution | None:
        """Train the users of a gateway as one, where the mechanism asks for it."""
        if not context.mechanism.pools_users or not isinstance(model, TrainableRecommender):
            return None
        model.load(broadcast)
        now = [p or first_of(model, context.seed, device.user) for p, device in zip(private, devices, strict=True)]
        made = train_pooled(model, devices, now, self, context.mechanism, (context.seed, context.round))
        return PooledContribution(ModelUpdate(made.change, len(devices)), made.private, made.loss, made.examples)

    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        """Add the mean change."""
        mean = total.mean()
        rate = np.float32(self.server_learning_rate)
        return {**state, **{name: (state[name] + rate * mean[name]).astype(np.float32) for name in mean}}


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
