"""Local training, the reference: one device at a time, exactly as it would run on that device.

A step is minibatch descent without noise, or DP-SGD.
"""

import numpy as np
import torch

from fedrec.data.interactions import DeviceData
from fedrec.messages import Arrays
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, Mechanism, NoiseSource
from fedrec.rng import Stream
from fedrec.training.batches import (
    Histories,
    LocalTrainingConfig,
    NegativeSampler,
    epochs,
    first_private,
    open_draws,
    samples,
)
from fedrec.training.sgd import LocalStep, SGDStep


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


def make_step(
    model: TrainableRecommender, settings: LocalTrainingConfig, public: DPSGDConfig | None, noise: NoiseSource
) -> LocalStep:
    """Return how one device steps: DP-SGD by Opacus with these public constants, ordinary minibatches without."""
    if public is None:
        return SGDStep(model, settings)
    from fedrec.training.dp_sgd import DPSGDStep  # Opacus takes 2 seconds to import

    return DPSGDStep(model, settings, public, noise)
