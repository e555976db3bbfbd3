"""Steps of local training without noise: minibatch gradient descent, or another optimizer of torch."""

from collections.abc import Iterable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from fedrec.errors import FedrecError, suggest
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.training.batches import LocalTrainingConfig

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def optimizer(settings: LocalTrainingConfig, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the fresh optimizer that the settings name."""
    if settings.optimizer not in OPTIMIZERS:
        raise FedrecError(
            f"algorithm.optimizer={settings.optimizer} does not exist.{suggest(settings.optimizer, OPTIMIZERS)}"
        )
    return OPTIMIZERS[settings.optimizer](parameters, lr=settings.learning_rate)  # pyright: ignore[reportCallIssue]


class LocalStep(Protocol):
    """One step of local training."""

    def step(self, batch: Batch, /) -> float:
        """Take one step on the model, and return the summed loss of the batch; an empty batch is a step too."""
        ...


class SGDStep:
    """Minibatch steps on every parameter of the model.

    A step follows the sum of the batch's gradients over `settings.denominator`, or their mean where it is None.
    """

    def __init__(self, model: TrainableRecommender, settings: LocalTrainingConfig) -> None:
        self._model, self._settings = model.train(), settings
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # Plain descent needs no optimizer, and to build one for each device took longer than its step.
        self._optimizer = None if settings.optimizer == "sgd" else optimizer(settings, self._parameters)

    def step(self, batch: Batch) -> float:
        """Take one step; return the summed loss. A batch without examples changes nothing."""
        if not len(batch.items):
            return 0.0
        loss = self._model.loss(batch).sum()
        mean = loss / (self._settings.denominator or len(batch.items))
        if self._optimizer is None:
            self._descend(mean)
        else:
            self._optimizer.zero_grad(set_to_none=True)
            mean.backward()
            self._optimizer.step()
        return float(loss.detach())

    def _descend(self, mean: Tensor) -> None:
        """Take the step of `torch.optim.SGD`, to the bit: parameters that the loss does not use stay as they are."""
        gradients = torch.autograd.grad(mean, self._parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(self._parameters, cast(Sequence[Tensor | None], gradients), strict=True):
                if gradient is not None:
                    parameter.add_(gradient, alpha=-self._settings.learning_rate)
