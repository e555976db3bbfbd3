"""Gradients of sequential models: of one device, of many summed at once, or of many each apart.

Shapes: C devices, n positions of a window, k negatives, m = n + 1 + k items that a device reads, V items.

Which windows and negatives devices learn from in a round: the same draws for one device or many at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from fedrec.messages import Arrays, ModelUpdate
from fedrec.models.sequential import SequentialRecommender, Windows
from fedrec.privacy.contributions import Scales
from fedrec.privacy.grid import Floats, Whole
from fedrec.privacy.mechanisms.protocol import Mechanism
from fedrec.rng import random_below
from fedrec.training.batches import CohortData, Histories, Keyed, open_draws
from fedrec.training.vectorized.updates import Contributions, Factors, RowIndex, StackedUpdates, TileUpdates

START, NEGATIVES = 0, 1  # indices of the draws: one for the place of the window, then the negatives


@dataclass(frozen=True, slots=True)
class Draws:
    """What is drawn for each device: a window of `length` + 1 items, `negatives` out of `items`."""

    length: int
    negatives: int
    items: int

    def windows(self, histories: Histories, random: Keyed) -> Windows:
        """Return a window at a uniform place of each history, all of it where it is short, and negatives.

        Negatives are uniform over the catalogue, drawn without looking at anybody's items.
        """
        sizes, users = histories.sizes, histories.users
        spare = np.maximum(sizes - self.length - 1, 0)
        start = random_below(random.keyed(users, np.full((1, 1), START)), spare[:, None] + 1)  # [C, 1]
        width = min(self.length + 1, max(int(sizes.max(initial=0)), 2))
        place = np.minimum(start + np.arange(width), max(histories.items.shape[1] - 1, 0))
        items = np.take_along_axis(histories.items, place, axis=1) if histories.items.shape[1] else place
        negatives = random_below(random.keyed(users, NEGATIVES + np.arange(self.negatives)[None]), self.items)
        real = np.clip(sizes - 1, 0, self.length)
        parts = (items.astype(np.int64), real, negatives)
        return Windows(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


PART = 64  # devices whose activations, or gradients apart, are held at once


def losses(model: SequentialRecommender, windows: Windows) -> Tensor:
    """Return each device's loss [C]: the sum over its positions."""
    tables = dict(model.named_parameters())
    touched = windows.touched()
    return model(windows, {name: torch.nn.functional.embedding(touched, tables[name]) for name in model.by_item})


def trained(model: SequentialRecommender) -> dict[str, Tensor]:
    """Return the model's parameters that devices have gradients of: not what is frozen."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


@dataclass(frozen=True)
class Descents:
    """What C devices contribute, in parts of some devices: the steepest descent of each one's loss.

    It is minus the gradient over the model's window, a public constant. Where all devices count in full, one backward
    pass gives the sum; else each is computed apart. `loss` [C] is filled in by then; the model must not change before.
    """

    model: SequentialRecommender
    parts: tuple[Windows, ...]
    loss: NDArray[np.float64]

    @property
    def count(self) -> int:
        """How many devices."""
        return len(self.loss)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array of one device's update."""
        return {name: tuple(value.shape) for name, value in trained(self.model).items()}

    def squared_norms(self) -> dict[str, NDArray[np.float64]]:
        """Return each array's squared norm for every device [C]."""
        return self.apart.squared_norms()

    def weighted_sum(self, factors: Factors) -> ModelUpdate:
        """Return the sum over devices, each array of device c times its `factors[c]`."""
        if not isinstance(factors, Mapping) and bool((factors == 1).all()):
            return ModelUpdate(self._summed(), self.count)
        return self.apart.weighted_sum(factors)

    def whole_squares(self, scales: Scales) -> dict[str, Floats]:
        """Return the squared norm [C] of each array in `scales`, scaled and rounded to whole numbers."""
        return self.apart.whole_squares(scales)

    def whole_sum(self, scales: Scales) -> dict[str, Whole]:
        """Return the sum over devices of their arrays, scaled by [C] and rounded to whole numbers."""
        return self.apart.whole_sum(scales)

    def update_of(self, device: int) -> ModelUpdate:
        """Return what one device alone contributes."""
        return self.apart.update_of(device)

    def _summed(self) -> Arrays:
        named, first = trained(self.model), 0
        found = {name: np.zeros(value.shape) for name, value in named.items()}
        for windows in self.parts:
            with torch.enable_grad():
                each = losses(self.model, windows)
                slopes = torch.autograd.grad(each.sum(), list(named.values()))
            self.loss[first : first + len(each)] = each.detach().cpu().numpy()
            first += len(each)
            for name, slope in zip(named, slopes, strict=True):
                found[name] -= slope.cpu().numpy() / self.model.window
        kinds = {name: str(value.dtype).removeprefix("torch.") for name, value in named.items()}
        return {name: array.astype(kinds[name]) for name, array in found.items()}

    @cached_property
    def apart(self) -> StackedUpdates[TileUpdates]:
        """Each device's own descent: of the dense parameters, and of the rows that it touches."""
        tiles = list[TileUpdates]()
        for windows in self.parts:
            first = sum(tile.count for tile in tiles)
            tile, loss = self._tile(windows)
            self.loss[first : first + tile.count] = loss.cpu().numpy()
            tiles.append(tile)
        return StackedUpdates(tuple(tiles))

    def _tile(self, windows: Windows) -> tuple[TileUpdates, Tensor]:
        named = {name: value.detach() for name, value in trained(self.model).items()}
        dense = {name: value for name, value in named.items() if name not in self.model.by_item}
        touched = windows.touched()
        rows = {name: named[name][touched] for name in self.model.by_item}

        def loss(dense: dict[str, Tensor], rows: dict[str, Tensor], *parts: Tensor) -> Tensor:
            return functional_call(self.model, dense, (Windows(*parts), rows))

        each = vmap(grad_and_value(loss, argnums=(0, 1)), in_dims=(None, 0, 0, 0, 0))
        (flat, apart), value = each(dense, rows, windows.items, windows.real, windows.negatives)
        return self._coalesced(touched, flat, apart), value

    def _coalesced(self, touched: Tensor, dense: dict[str, Tensor], rows: dict[str, Tensor]) -> TileUpdates:
        """Return the descents with each (device, item) pair once."""
        catalogue, count, scale = self.model.items, len(touched), -1 / self.model.window
        device, first = touched.device, np.arange(count)[:, None] * catalogue
        pairs, number = RowIndex().number((touched.cpu().numpy() + first).ravel(), count * catalogue)
        place = torch.from_numpy(number).to(device)
        once = {
            name: slope.new_zeros(len(pairs), *slope.shape[2:]).index_add_(0, place, slope.flatten(0, 1) * scale)
            for name, slope in rows.items()
        }
        items, owner = (torch.from_numpy(part).to(device) for part in (pairs % catalogue, pairs // catalogue))
        return TileUpdates(catalogue, count, items, owner, once, {name: slope * scale for name, slope in dense.items()})


class SequenceEngine:
    """Computes the gradients of many devices of one sequential model, which is the engine's own from then on."""

    def __init__(self, model: SequentialRecommender, negatives: int) -> None:
        self._model, self._draws = model, Draws(model.window, negatives, model.items)

    def first_private(self, seed: int, users: NDArray[np.int64]) -> Arrays:
        """Return nothing: all that is private is the history."""
        return {}

    def bytes_in_flight(self, chosen: CohortData, mechanism: Mechanism) -> int:
        """Return nothing: gradients are computed when they are summed, some devices at a time."""
        return 0

    def train(
        self, broadcast: Arrays, chosen: CohortData, private: Arrays, mechanism: Mechanism, key: tuple[int, int]
    ) -> Contributions[Descents]:
        """Return what the devices contribute in the round of `key`: (seed, round)."""
        everyone = np.arange(len(chosen.users))
        parts = (chosen.part(everyone[start : start + PART]) for start in range(0, len(everyone), PART))
        return self.descents(broadcast, parts, key)

    def descents(
        self, broadcast: Arrays, histories: Iterable[Histories], key: tuple[int, int]
    ) -> Contributions[Descents]:
        """Return what devices with these histories contribute."""
        self._model.load(broadcast)
        parts, device = list(histories), next(self._model.parameters()).device
        windows = tuple(self._draws.windows(part, open_draws(*key)).to(device) for part in parts)
        examples = np.concatenate([part.real.cpu().numpy() for part in windows])
        loss = np.zeros(len(examples))
        users = np.concatenate([part.users for part in parts])
        return Contributions(users, Descents(self._model, windows, loss), {}, loss, examples)
