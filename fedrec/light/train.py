"""Local training in NumPy: the batches and negatives of `fedrec.training.local`, the steps of a `LightModel`."""

from collections.abc import Iterator

import numpy as np

from fedrec.data.devices import DeviceData
from fedrec.light.base import Items, LightModel
from fedrec.privacy.base import LocalSettings
from fedrec.training.negatives import draw_outside


def batches(generator: np.random.Generator, examples: int, settings: LocalSettings) -> Iterator[Items]:
    """Yield `epochs` times all examples, shuffled, in batches of `batch_size`."""
    for _ in range(settings.epochs):
        order = generator.permutation(examples)
        for start in range(0, examples, settings.batch_size):
            yield order[start : start + settings.batch_size]


def train(
    model: LightModel, device: DeviceData, settings: LocalSettings, key: tuple[int, int, int]
) -> tuple[float, int]:
    """Train the model in place on one device's history; return (summed loss, examples seen), both exact.

    `key` is (seed, round, user): batches and negatives come from it, as on a device with torch.
    """
    generator = np.random.default_rng(np.random.SeedSequence(key))
    used = np.zeros(model.items, bool)
    used[device.history] = True
    history = device.history.astype(np.int64)
    negatives = 0 if model.ratings else settings.negatives
    loss, examples = 0.0, 0
    for rows in batches(generator, len(history), settings):
        drawn = draw_outside(generator, used, (len(rows), negatives))
        items = np.concatenate([history[rows, None], drawn], axis=1)
        rate = settings.learning_rate / (settings.denominator or len(rows))
        loss += model.step(items, device.values[rows], rate)
        examples += len(rows)
    return loss, examples
