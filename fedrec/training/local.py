"""Local training, the reference: one device at a time, exactly as it would run on that device.

A step is minibatch descent without noise, or DP-SGD.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from fedrec.data.devices import DeviceData
from fedrec.errors import FedrecError, suggest
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, Mechanism, NoiseSource
from fedrec.rng import Stream
from fedrec.training.batches import Histories, NegativeSampler, epochs, first_private, open_draws, samples
from fedrec.training.config import LocalTrainingConfig
from fedrec.update import Arrays


class LocalStep(Protocol):
    """One step of local training."""

    def step(self, batch: Batch, /) -> float:
        """Take one step on the model, and return the summed loss of the batch; an empty batch is a step too."""
        ...


def first_of(model: TrainableRecommender, seed: int, user: int) -> Arrays:
    """Return the private arrays that one device starts from."""
    shapes = {name: array.shape for name, array in model.private_arrays().items()}
    many = first_private(shapes, model.private_std, seed, np.array([user]))
    return {name: array[0] for name, array in many.items()}


def train(
    model: TrainableRecommender,
    device: DeviceData,
    settings: LocalTrainingConfig,
    mechanism: Mechanism,
    key: tuple[int, int, int],
) -> tuple[float, int]:
    """Train the model in place on one device's history; return (summed loss, examples seen), both exact.

    `key` is (seed, round, user): batches and negatives come from it, or from the mechanism's own source.
    """
    histories = Histories.of(device)
    negatives = settings.negatives if model.negatives_useful else 0
    public = mechanism.dp_sgd()
    stepper = make_step(model, settings, None if mechanism.pools_users else public, mechanism.random(*key))
    if public is None:
        passes = epochs(histories, settings, negatives, NegativeSampler(model.items), open_draws(*key[:2]))
    else:
        passes = samples(histories, public, negatives, model.items, mechanism.random(*key[:2], Stream.TRAIN))
    place = next(model.parameters()).device
    values = torch.from_numpy(device.values.copy())
    loss, examples = 0.0, 0
    for one in passes:
        for slots in one.steps():
            rows = one.order[0, : one.count[0]][slots]
            items = device.history[rows, None].astype(np.int64)
            batch = np.concatenate([items, one.negatives[0, slots][: len(rows)]], axis=1)
            worth = values[torch.from_numpy(rows.copy())].to(place)
            loss += stepper.step(Batch(torch.from_numpy(batch).to(place), worth))
            examples += len(rows)
    return loss, examples


OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def optimizer(settings: LocalTrainingConfig, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the fresh optimizer that the settings name."""
    if settings.optimizer not in OPTIMIZERS:
        raise FedrecError(
            f"algorithm.optimizer={settings.optimizer} does not exist.{suggest(settings.optimizer, OPTIMIZERS)}"
        )
    return OPTIMIZERS[settings.optimizer](parameters, lr=settings.learning_rate)  # pyright: ignore[reportCallIssue]


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


def make_step(
    model: TrainableRecommender, settings: LocalTrainingConfig, public: DPSGDConfig | None, noise: NoiseSource
) -> LocalStep:
    """Return how one device steps: DP-SGD by Opacus with these public constants, ordinary minibatches without."""
    if public is None:
        return SGDStep(model, settings)
    from fedrec.training.dp_sgd import DPSGDStep  # Opacus takes 2 seconds to import

    return DPSGDStep(model, settings, public, noise)
