"""Local training, the reference: one device at a time, exactly as it would run on that device."""

import numpy as np
import torch

from fedrec.data.devices import DeviceData
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.privacy.mechanisms.protocol import LocalSettings, Mechanism
from fedrec.training.batches import Histories, Outside
from fedrec.training.passes import TRAIN_STREAM, epochs, open_draws, samples
from fedrec.training.private import first_private
from fedrec.update import Arrays


def first_of(model: TrainableRecommender, seed: int, user: int) -> Arrays:
    """Return the private arrays that one device starts from."""
    shapes = {name: array.shape for name, array in model.private_arrays().items()}
    many = first_private(shapes, model.private_std, seed, np.array([user]))
    return {name: array[0] for name, array in many.items()}


def train(
    model: TrainableRecommender,
    device: DeviceData,
    settings: LocalSettings,
    mechanism: Mechanism,
    key: tuple[int, int, int],
) -> tuple[float, int]:
    """Train the model in place on one device's history; return (summed loss, examples seen), both exact.

    `key` is (seed, round, user): batches and negatives come from it, or from the mechanism's own source.
    """
    histories = Histories.of(device)
    negatives = settings.negatives if model.negatives_useful else 0
    public, stepper = mechanism.dp_sgd(), mechanism.on_device(model, settings, mechanism.random(*key))
    if public is None:
        passes = epochs(histories, settings, negatives, Outside(model.items), open_draws(*key[:2]))
    else:
        passes = samples(histories, public, negatives, model.items, mechanism.random(*key[:2], TRAIN_STREAM))
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
