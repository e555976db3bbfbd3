"""Local training in NumPy: the batches and negatives of `fedrec.training.local`, the steps of a `LightModel`."""

import numpy as np

from fedrec.data.devices import DeviceData
from fedrec.numpy_engine.model import LightModel
from fedrec.privacy.mechanisms.protocol import LocalSettings
from fedrec.training.batches import Histories, Outside
from fedrec.training.passes import epochs, open_draws


def train(
    model: LightModel, device: DeviceData, settings: LocalSettings, key: tuple[int, int, int]
) -> tuple[float, int]:
    """Train the model in place on one device's history; return (summed loss, examples seen), both exact.

    `key` is (seed, round, user): batches and negatives come from it, as on a device with torch.
    """
    histories, negatives = Histories.of(device), 0 if model.ratings else settings.negatives
    history, loss, examples = device.history.astype(np.int64), 0.0, 0
    for one in epochs(histories, settings, negatives, Outside(model.items), open_draws(*key[:2])):
        for slots in one.steps():
            rows = one.order[0, : one.count[0]][slots]
            if len(rows):
                items = np.concatenate([history[rows, None], one.negatives[0, slots][: len(rows)]], axis=1)
                rate = settings.learning_rate / (settings.denominator or len(rows))
                loss += model.step(items, device.values[rows], rate)
                examples += len(rows)
    return loss, examples
