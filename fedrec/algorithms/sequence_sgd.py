"""Federated training of sequential models: one gradient a round from each device, followed by Adam on the server.

FedSGD (McMahan et al. 2017) with the server optimizer of Kingma & Ba, "Adam: a method for stochastic optimization",
2015, bias correction included, and a learning rate that rises linearly and falls along a half cosine.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrec.algorithms.base import Contribution, RoundContext, TrainingAlgorithm
from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import Arrays
from fedrec.models.base import Recommender
from fedrec.models.sequential import SequentialRecommender
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import Aggregate
from fedrec.training.batches import Histories
from fedrec.training.sequences import SequenceEngine

TAKEN = "steps/taken"


@dataclass(frozen=True, slots=True)
class FedSGDSequences(TrainingAlgorithm):
    """A device sends minus the gradient of its loss over a window of its history, drawn anew each round.

    `negatives` are the items that it compares with. The server's learning rate rises over `warm_up` rounds, and falls
    to nothing over `decay_over` rounds in all (null: it stays).
    """

    name: ClassVar[str] = "sequences"
    negatives: int = 400
    server_learning_rate: float = 0.004
    warm_up: int = 50
    decay_over: int | None = None
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-8

    accepts: ClassVar[tuple[type[Recommender], ...]] = (SequentialRecommender,)

    def __post_init__(self) -> None:
        for name, least in (("negatives", 1), ("warm_up", 0), ("decay_over", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise FedrecError(f"algorithm.{name}={value} must be at least {least}")
        for name in ("server_learning_rate", "tau"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise FedrecError(f"algorithm.{name}={getattr(self, name)} must be a positive number")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise FedrecError(f"algorithm.{name}={getattr(self, name)} must lie in [0, 1)")

    def init(self, model: Recommender, catalogue: Catalogue) -> Arrays:
        """Start from the model's own first values, and empty moments of what is trained."""
        if isinstance(model, SequentialRecommender):
            model.begin()
        shared = model.shared_arrays()
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        moments = {f"{kind}/{name}": np.zeros_like(shared[name]) for name in trained for kind in ("first", "second")}
        return {**shared, **moments, TAKEN: np.zeros(1, np.float32)}

    def sensitivity(self, unit: Unit) -> float | None:
        """The mechanism's clip bounds a device's whole gradient.

        Nothing bounds what one interaction changes: it stands in the window of every later position.
        """
        return None if unit == Unit.INTERACTION else math.inf

    def shapes(self, state: Arrays) -> dict[str, tuple[int, ...]]:
        """A gradient has the shapes of what was broadcast, less what is frozen and so has no moments."""
        return {name: array.shape for name, array in self.broadcast(state).items() if f"first/{name}" in state}

    def contribute(
        self, model: Recommender, broadcast: Arrays, device: DeviceData, private: Arrays, context: RoundContext
    ) -> Contribution:
        """Return one device's descent; a history of fewer than two items predicts nothing and gives zeros."""
        if not isinstance(model, SequentialRecommender):
            raise FedrecError(f"{type(self).__name__} can't train {type(model).__name__}")
        if context.mechanism.dp_sgd() is not None:
            mechanism = type(context.mechanism).__name__
            raise RefusedError(f"{type(self).__name__} sends plain gradients, and {mechanism} asks for DP-SGD")
        key = (context.seed, context.round)
        made = SequenceEngine(model, self.negatives).descents(broadcast, [Histories.of(device)], key)
        update = made.stack.weighted_sum(np.ones(1))
        return Contribution(update, {}, float(made.loss[0]), int(made.examples[0]))

    def rate(self, taken: float) -> float:
        """Return the learning rate of the step after `taken` others."""
        rise = min(1.0, (taken + 1) / (self.warm_up + 1))
        if self.decay_over is None:
            return self.server_learning_rate * rise
        return self.server_learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, taken / self.decay_over)))

    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        """Follow the mean descent with Adam."""
        taken = float(state[TAKEN][0])
        after = {**state, TAKEN: state[TAKEN] + 1}
        for name, descent in total.mean().items():
            first = self.beta1 * state[f"first/{name}"] + (1 - self.beta1) * descent
            second = self.beta2 * state[f"second/{name}"] + (1 - self.beta2) * np.square(descent)
            scale = math.sqrt(1 - self.beta2 ** (taken + 1)) / (1 - self.beta1 ** (taken + 1))
            move = self.rate(taken) * scale * first / (np.sqrt(second) + self.tau)
            after |= {f"first/{name}": first, f"second/{name}": second, name: state[name] + move}
        return {name: array.astype(np.float32) for name, array in after.items()}
