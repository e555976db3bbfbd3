"""How a node's devices are trained: many at once where that is exact, in groups on threads, else one by one.

The sum is the same for any number of threads.
"""

import copy
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.algorithms.base import RoundContext
from fedrec.algorithms.fedavg import FedAvg
from fedrec.algorithms.sequence_sgd import FedSGDSequences
from fedrec.data.interactions import DeviceTable
from fedrec.experiment.experiment import Experiment
from fedrec.models.base import Recommender, TrainableRecommender
from fedrec.models.sequential import SequentialRecommender
from fedrec.privacy.mechanisms.protocol import CohortUpdates, Mechanism
from fedrec.rng import Stream
from fedrec.storage.private_arrays import MmapPrivateStore
from fedrec.training.batches import CohortData
from fedrec.training.sequences import PART, SequenceEngine
from fedrec.training.vectorized.engine import VectorizedEngine, own_noise, unsupported_reason
from fedrec.training.vectorized.updates import Contributions
from fedrec.update import Arrays, ModelUpdate, UpdateSum

MOST, HELD_BYTES = 512, 3 << 24  # devices of a group, and about what they changed, which is held together
THREADS = torch.get_num_threads()  # as many as torch would use for itself: OMP_NUM_THREADS, or the cores there are
Trained = tuple[ModelUpdate, float, int]
Total = tuple[UpdateSum, float, int]


def split_into_groups(users: NDArray[np.int64], most: int = MOST, held: int = 0) -> list[NDArray[np.int64]]:
    """Return the users in groups of at most `most`, and of about `HELD_BYTES` of the `held` bytes that all change.

    Their sizes never follow from the machine. There are as few as there may be: the steps of a small group cost as
    much as those of a large one, and two threads of small steps wait for each other.
    """
    many = max(-(-len(users) // most), min(-(-held // HELD_BYTES), len(users)), 1)
    return [part for part in np.array_split(users, many) if len(part)]


class Engine(Protocol):
    """Trains many devices at once, with the result of each alone."""

    def first_private(self, seed: int, users: NDArray[np.int64]) -> Arrays:
        """Return the private arrays [C, ...] that devices start from."""
        ...

    def bytes_in_flight(self, chosen: CohortData, mechanism: Mechanism) -> int:
        """Return how many bytes the changes of these devices may take until they are summed: no item is met twice."""
        ...

    def train(
        self, broadcast: Arrays, chosen: CohortData, private: Arrays, mechanism: Mechanism, key: tuple[int, int]
    ) -> Contributions[CohortUpdates]:
        """Return what the devices contribute in the round of `key`: (seed, round).

        The losses may be known only once a sum has been asked for.
        """
        ...


class ThreadedExecutor:
    """Trains devices by engines, one on each of `threads` threads, `most` devices at most; `engine` makes one."""

    def __init__(self, engine: Callable[[], Engine], threads: int | None = None, most: int = MOST) -> None:
        self._make, self._threads, self._most = engine, THREADS if threads is None else threads, most
        self._free, self._made = SimpleQueue[Engine](), 0

    def contribute(
        self,
        store: MmapPrivateStore,
        devices: DeviceTable,
        asked: tuple[NDArray[np.int64], Arrays],
        context: RoundContext,
    ) -> Total:
        """Return (the sum of what the devices `asked[0]` release, loss, examples), trained from the arrays `asked[1]`.

        The groups' sums are added in their order, whichever is done first.
        """
        self._make_up_to(1)
        engine = self._free.get()
        self._free.put(engine)
        parts = split_into_groups(
            asked[0], self._most, engine.bytes_in_flight(CohortData(devices, asked[0]), context.mechanism)
        )
        threads = max(min(self._threads, len(parts)), 1)
        self._make_up_to(threads)

        def trained(users: NDArray[np.int64]) -> Trained:
            engine = self._free.get()
            try:
                return train_group(engine, store, CohortData(devices, users), asked[1], context)
            finally:
                self._free.put(engine)

        if threads == 1:
            return sum_groups(map(trained, parts))
        with ThreadPoolExecutor(threads) as pool:
            return sum_groups(pool.map(trained, parts))

    def _make_up_to(self, engines: int) -> None:
        for _ in range(engines - self._made):
            self._free.put(self._make())
        self._made = max(self._made, engines)


def train_group(
    engine: Engine, store: MmapPrivateStore, chosen: CohortData, broadcast: Arrays, context: RoundContext
) -> Trained:
    """Return (the sum of what the devices of a group release, loss, examples); what is private is kept."""
    key = (context.seed, context.round)
    private, found = store.load_many(chosen.users, context.round)
    for name, array in engine.first_private(context.seed, chosen.users[~found]).items():
        private[name][~found] = array
    made = engine.train(broadcast, chosen, private, context.mechanism, key)
    random = context.mechanism.random(*key, int(chosen.users[0]), Stream.RELEASE)
    update = context.mechanism.privatize_cohort(made.stack, random)
    store.save_many(made.users, made.private, context.round)
    chosen.table.release_pages()
    return update, float(made.loss.sum()), int(made.examples.sum())


def sum_groups(parts: Iterable[Trained]) -> Total:
    """Return what all parts come to, added in their order."""
    summed, loss, examples = UpdateSum(), 0.0, 0
    for update, part_loss, part_examples in parts:
        summed.add(update)
        loss, examples = loss + part_loss, examples + part_examples
    return summed, loss, examples


def explain_sequential(experiment: Experiment, model: Recommender) -> str | None:
    """Return why the devices of this experiment are trained one by one, or None where all are trained at once."""
    algorithm = experiment.algorithm
    if experiment.engine == "reference":
        return "engine=reference"
    if isinstance(algorithm, FedSGDSequences):
        return own_noise(experiment.mechanism)
    if not isinstance(algorithm, FedAvg):
        return f"{type(algorithm).__name__} does not train"
    return unsupported_reason(model, algorithm, experiment.mechanism)


def make_executor(experiment: Experiment, model: Recommender) -> ThreadedExecutor | None:
    """Return what trains all devices of a node at once, None where they are trained one by one."""
    algorithm = experiment.algorithm
    if explain_sequential(experiment, model) is not None:
        return None
    if isinstance(algorithm, FedSGDSequences) and isinstance(model, SequentialRecommender):
        return ThreadedExecutor(lambda: SequenceEngine(copy.deepcopy(model), algorithm.negatives), most=PART)
    if isinstance(algorithm, FedAvg) and isinstance(model, TrainableRecommender):
        return ThreadedExecutor(lambda: VectorizedEngine(model, algorithm))
    return None
