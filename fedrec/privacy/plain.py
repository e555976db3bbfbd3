"""The ordinary way for a device to train: shuffled minibatches, no noise."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.errors import FedrecError, nearest
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.privacy.base import LocalSettings

OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def optimiser(settings: LocalSettings, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the fresh optimiser that the settings name."""
    if settings.optimiser not in OPTIMISERS:
        raise FedrecError(
            f"algorithm.optimiser={settings.optimiser} does not exist.{nearest(settings.optimiser, OPTIMISERS)}"
        )
    return OPTIMISERS[settings.optimiser](parameters, lr=settings.learning_rate)  # pyright: ignore[reportCallIssue]


class PlainStep:
    """Minibatch steps on every parameter of the model.

    A step follows the sum of the batch's gradients over `settings.denominator`, or their mean where it is None.
    """

    def __init__(self, model: TrainableRecommender, settings: LocalSettings, generator: np.random.Generator) -> None:
        self._model, self._settings, self._generator = model.train(), settings, generator
        self._optimiser = optimiser(settings, model.parameters())

    @property
    def looks_at_positives(self) -> bool:
        """Negatives may be drawn outside the device's own items."""
        return True

    def batches(self, examples: int) -> Iterator[NDArray[np.int64]]:
        """Yield `epochs` times all examples, shuffled, in batches of `batch_size`."""
        for _ in range(self._settings.epochs):
            order = self._generator.permutation(examples)
            for start in range(0, examples, self._settings.batch_size):
                yield order[start : start + self._settings.batch_size]

    def step(self, batch: Batch) -> float:
        """Take one step; return the summed loss. A batch without examples changes nothing."""
        if not len(batch.items):
            return 0.0
        loss = self._model.loss(batch).sum()
        self._optimiser.zero_grad(set_to_none=True)
        (loss / (self._settings.denominator or len(batch.items))).backward()
        self._optimiser.step()
        return float(loss.detach())
