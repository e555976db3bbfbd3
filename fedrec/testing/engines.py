"""What every engine promises: each device contributes what it would alone (`fedrec.training.local`), draw by draw."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.algorithms.base import Contribution, RoundContext
from fedrec.algorithms.fedavg import FedAvg
from fedrec.data.interactions import DeviceTable
from fedrec.federated.node import Engine
from fedrec.models.base import TrainableRecommender
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Mechanism
from fedrec.privacy.noise import SeededNoise
from fedrec.training.batches import CohortData
from fedrec.training.kernels.engine import KernelEngine
from fedrec.training.vectorized.engine import VectorizedEngine

ENGINES: Mapping[str, Any] = {"kernel": KernelEngine, "vectorized": VectorizedEngine}
SIZES = (1, 0, 7, 30, 2, 120, 5, 64)
SEED, ROUND = 3, 2
WITHIN = 1e-5  # of the norm of an update
GRID = 2.0**12  # steps of the norm of an update, as releases have them
EDGES = 5e-3  # of whole numbers
FINER = 4  # steps of the grid of vectors: the longest slope that one input is multiplied by


class Quiet(SeededNoise):
    """Seeded draws without noise."""

    def discrete_gaussian(self, shape: tuple[int, ...], variance: int) -> NDArray[np.int32]:
        """Return zeros."""
        return np.zeros(shape, np.int32)


class QuietInteraction(InteractionLevel):
    """Interaction level as it is, with the noise off."""

    def random(self, *key: int) -> Quiet:
        """Return the draws of the key, without noise."""
        return Quiet(*key)


TRAININGS: Mapping[str, tuple[FedAvg, Mechanism]] = {
    "minibatches": (FedAvg(epochs=3, batch_size=8, learning_rate=0.05, negatives=4), NoPrivacy()),
    "whole histories": (FedAvg(epochs=4, batch_size=10_000, learning_rate=0.5, negatives=2), NoPrivacy()),
    "a fixed denominator": (FedAvg(epochs=2, batch_size=16, learning_rate=0.1, denominator=8.0), NoPrivacy()),
    "DP-SGD": (
        FedAvg(learning_rate=0.5, negatives=5),
        QuietInteraction(noise_multiplier=1.0, clip=0.3, sample_rate=0.3, local_steps=4, denominator=8.0),
    ),
}


def devices(items: int, sizes: tuple[int, ...] = SIZES) -> DeviceTable:
    """Return devices of so many interactions; items repeat, and some device may hold most of the catalogue."""
    rng, start = np.random.default_rng(1), np.cumsum([0, *sizes])
    rated = rng.integers(1, 6, start[-1]).astype(np.float32)
    return DeviceTable(start, start[1:], start[1:], rng.integers(0, items, start[-1]).astype(np.int32), rated, items)


@dataclass(frozen=True, slots=True)
class Differences:
    """How far an engine is from the reference: its updates, squared and summed over devices, and theirs; the worst
    private number and relative loss; whole numbers that another order of sums rounds to the other side, of how many."""

    squared: float
    size: float
    private: float
    loss: float
    edges: int
    numbers: int

    @property
    def update(self) -> float:
        """How far the updates are apart, of their norm."""
        return (self.squared / self.size) ** 0.5


def differences(
    engine: str, model: TrainableRecommender, settings: FedAvg, mechanism: Mechanism, table: DeviceTable
) -> Differences:
    """Train devices by an engine in single precision and one by one in double, and return how far apart they are."""
    users, made = np.arange(len(table)), copy.deepcopy(model).float()
    fast_engine: Engine = ENGINES[engine](made, settings)
    sent, private = made.shared_arrays(), fast_engine.first_private(SEED, users)
    fast = fast_engine.train(sent, CohortData(table, users), private, mechanism, (SEED, ROUND))
    alone, found = copy.deepcopy(model).double(), list[Differences]()
    wide: Any = {name: array.astype(np.float64) for name, array in sent.items()}
    for place, user in enumerate(fast.users.tolist()):
        mine: Any = {name: array[user].astype(np.float64) for name, array in private.items()}
        slow = settings.contribute(alone, wide, table[user], mine, RoundContext(ROUND, SEED, mechanism))
        if int(fast.examples[place]) != slow.examples:
            raise AssertionError(f"device {user}: {fast.examples[place]} examples, not {slow.examples}")
        kept = {name: array[place] for name, array in fast.private.items()}
        mine = Contribution(fast.stack.update_of(place), kept, float(fast.loss[place]), slow.examples)
        found.append(compared(mine, slow, getattr(fast.stack, "units", {})))
    total: dict[str, Any] = {n: sum(getattr(one, n) for one in found) for n in ("squared", "size", "edges", "numbers")}
    return Differences(**total, private=max(one.private for one in found), loss=max(one.loss for one in found))


def compared(fast: Contribution, slow: Contribution, units: Mapping[str, float]) -> Differences:
    """Return how two contributions of one device differ; whole numbers are of `units`, else of the update's grid."""
    theirs: Mapping[str, Any] = slow.update.arrays
    if fast.update.arrays.keys() != theirs.keys():
        raise AssertionError(f"{sorted(fast.update.arrays)} contributed, not {sorted(theirs)}")
    size = {name: float(np.square(array).sum()) for name, array in theirs.items()}
    squared, edges, numbers = 0.0, 0, 0
    for name, array in theirs.items():
        apart: Any = fast.update.arrays[name] - array
        if name in units:  # whole steps are counted as such
            apart = apart - np.rint(apart / units[name]) * units[name]
        squared += float(np.square(apart).sum())
        step = units.get(name, sum(size.values()) ** 0.5 / GRID) or 1.0
        away = np.abs(np.rint(fast.update.arrays[name] / step) - np.rint(array / step))
        # On the finer grid, an input that is rounded to the other side moves a number by a slope.
        most = FINER * max(units.values()) / step if name in units and step < max(units.values()) else 1
        if away.max(initial=0) > most:
            raise AssertionError(f"{name}: {away.max():.0f} steps of the grid apart")
        edges, numbers = edges + int(np.count_nonzero(away)), numbers + away.size
    private = max((float(np.abs(fast.private[n] - array).max()) for n, array in slow.private.items()), default=0.0)
    loss = abs(fast.loss - slow.loss) / max(abs(slow.loss), 1)
    return Differences(squared, sum(size.values()), private, loss, edges, numbers)
