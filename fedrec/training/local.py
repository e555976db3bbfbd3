"""Local training, the reference: one device at a time, exactly as it would run on that device."""

import numpy as np
import torch

from fedrec.data.devices import DeviceData
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.privacy.base import LocalSettings, Mechanism
from fedrec.training.negatives import draw_outside, draw_uniform

NEGATIVE_STREAM = 6  # keeps the draw of negatives apart from that of noise and batches


def train(
    model: TrainableRecommender,
    device: DeviceData,
    settings: LocalSettings,
    mechanism: Mechanism,
    key: tuple[int, int, int],
) -> tuple[float, int]:
    """Train the model in place on one device's history; return (summed loss, examples seen), both exact.

    `key` is (seed, round, user): batches and negatives come from it; negatives avoid the train items. Where the
    guarantee rests on the negatives of one interaction being independent of all others, they are uniform over the
    catalogue and come from the mechanism's own source: drawn in turn from a seed that the adversary knows, an
    interaction more or less would shift the negatives of every later one, and clipping would bound nothing.
    """
    generator = np.random.default_rng(np.random.SeedSequence(key))
    secret = mechanism.random(*key, NEGATIVE_STREAM)
    stepper = mechanism.on_device(model, settings, generator, mechanism.random(*key))
    used = np.zeros(model.items, bool)
    used[device.history] = True
    history, values = device.history.astype(np.int64), torch.from_numpy(device.values)
    negatives = settings.negatives if model.negatives_useful else 0
    loss, examples = 0.0, 0
    for rows in stepper.batches(len(history)):
        size = (len(rows), negatives)
        open_to_all = stepper.looks_at_positives
        drawn = draw_outside(generator, used, size) if open_to_all else draw_uniform(secret, model.items, size)
        batch = np.concatenate([history[rows, None], drawn], axis=1)
        loss += stepper.step(Batch(torch.from_numpy(batch), values[torch.from_numpy(rows)]))
        examples += len(rows)
    return loss, examples
