"""What a node does for the devices that it hosts, whatever carries the messages.

Devices are trained by a kernel or many at once where that is exact, in groups on threads, else one by one; the sum is
the same for any number of threads.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.algorithms.base import Algorithm, Contribution, PooledContribution, RoundContext
from fedrec.algorithms.fedavg import FedAvg
from fedrec.algorithms.sequence_sgd import FedSGDSequences
from fedrec.data.dataset import Dataset
from fedrec.data.interactions import DeviceData, DeviceTable
from fedrec.evaluation.candidates import CandidateBook
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.federated.evaluation import PrivateStateView, evaluate_devices
from fedrec.federated.secure_devices import CONTENT, SIZES, SecureFleet, make_terms, payloads_of
from fedrec.messages import PROTOCOL, Arrays, Message, ModelUpdate
from fedrec.models.base import Recommender, TrainableRecommender
from fedrec.models.sequential import SequentialRecommender
from fedrec.privacy.contributions import CohortUpdates, UpdateList
from fedrec.privacy.guarantee import Trust
from fedrec.privacy.mechanisms.protocol import Mechanism
from fedrec.privacy.release import Released, ReleasedSum, as_release, total_of, written
from fedrec.rng import Stream
from fedrec.secure.attempt import Phase
from fedrec.storage.private_arrays import MmapPrivateStore, PrivateStore
from fedrec.training.batches import CohortData
from fedrec.training.kernels.forms import kernel_reason
from fedrec.training.sequences import PART, SequenceEngine
from fedrec.training.vectorized.engine import VectorizedEngine, own_noise, unsupported_reason
from fedrec.training.vectorized.updates import Contributions

MOST, HELD_BYTES = 512, 3 << 24  # devices of a group, and about what they changed, which is held together
THREADS = torch.get_num_threads()  # as many as torch would use for itself: OMP_NUM_THREADS, or the cores there are
Trained = tuple[Released, float, int]
Total = tuple[ReleasedSum, float, int]
Asked = tuple[Recommender, Arrays, list[DeviceData], list[Arrays], RoundContext]
CHUNK = 64  # devices whose contributions are held at once, one by one


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
    summed, loss, examples = ReleasedSum(), 0.0, 0
    for update, part_loss, part_examples in parts:
        summed.add(update)
        loss, examples = loss + part_loss, examples + part_examples
    return summed, loss, examples


def explain_no_kernel(experiment: Experiment, model: Recommender) -> str | None:
    """Return why no kernel can train the devices of this experiment, or None where one can."""
    if not isinstance(experiment.algorithm, FedAvg):
        return f"{type(experiment.algorithm).__name__} has no kernel"
    return kernel_reason(model, experiment.algorithm, experiment.mechanism)


def kernel_compiled(experiment: Experiment, model: Recommender) -> bool:
    """Say whether the kernel that trains this experiment's devices was compiled already."""
    from fedrec.training.kernels.engine import is_compiled  # numba may not be there

    algorithm = experiment.algorithm
    if not isinstance(algorithm, FedAvg) or not isinstance(model, TrainableRecommender):
        return True
    return is_compiled(model, algorithm, experiment.mechanism.dp_sgd() is not None)


def settle_engine(experiment: Experiment, model: Recommender) -> str:
    """Return the engine that `auto` means for a run that begins here: it goes on with that one wherever it resumes."""
    if experiment.engine != "auto":
        return experiment.engine
    return "vectorized" if explain_no_kernel(experiment, model) else "kernel"


def settled(experiment: Experiment, dataset: Dataset) -> Experiment:
    """Return the experiment with the engine that `auto` means for its data."""
    if experiment.engine != "auto":
        return experiment
    return experiment.varied({"engine": settle_engine(experiment, experiment.build_model(dataset.catalogue))})


def explain_sequential(experiment: Experiment, model: Recommender) -> str | None:
    """Return why the devices of this experiment are trained one by one, or None where many are trained together."""
    algorithm = experiment.algorithm
    if experiment.engine == "reference":
        return "engine=reference"
    if experiment.engine == "kernel" and explain_no_kernel(experiment, model) is None:
        return None
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
    if not isinstance(algorithm, FedAvg) or not isinstance(model, TrainableRecommender):
        return None
    if experiment.engine == "kernel" and explain_no_kernel(experiment, model) is None:
        from fedrec.training.kernels.engine import KernelEngine  # numba may not be there

        return ThreadedExecutor(lambda: KernelEngine(model, algorithm))
    return ThreadedExecutor(lambda: VectorizedEngine(model, algorithm))


@lru_cache(maxsize=2)
def loaded(document: str) -> tuple[Experiment, Dataset]:
    """Return the experiment of a document and its data, once per process."""
    experiment = Experiment.from_json(document)
    return experiment, load_dataset(experiment)


_groups: dict[
    str, ThreadedExecutor | None
] = {}  # of the last experiment; the nodes of a process share its scratch memory


def forget() -> None:
    """Forget what the nodes of this process share: experiments, data and scratch memory."""
    loaded.cache_clear()
    _groups.clear()


class Node:
    """Part `index` of `parts` equal parts of the population: device u lives on node u mod parts.

    `exact` lets it answer with exact losses and per-user results: simulations only, where the experimenter holds the
    data anyway.
    """

    def __init__(self, index: int, parts: int, exact: bool) -> None:
        # One device is too small a job for two threads: on a busy machine their waiting for each other costs tenfold.
        torch.set_num_threads(1)
        self.index, self.parts, self.exact = index, parts, exact
        self._models: dict[str, Recommender] = {}
        self._stores: dict[tuple[str, str], MmapPrivateStore] = {}
        self._books: dict[str, CandidateBook] = {}
        self._fleet = SecureFleet()

    def answer(self, request: Message) -> Message:
        """Return the reply to a hello, train or evaluate message."""
        experiment, dataset = self._loaded(request)
        kinds = {"hello": self._hello, "train": self._train, "secure": self._secure, "evaluate": self._evaluate}
        echo = {key: request.header[key] for key in ("protocol", "run", "round", "hash")}
        reply = kinds[request.header["kind"]](request, experiment, dataset)
        for store in self._stores.values():
            store.flush()  # before the answer leaves: the server's checkpoint will stand on these arrays
        dataset.devices.release_pages()
        return Message({**echo, **reply.header}, reply.arrays)

    def _loaded(self, request: Message) -> tuple[Experiment, Dataset]:
        """Return the experiment that a request is of, and the data of the devices here."""
        return loaded(request.header["experiment"])

    def _hello(self, request: Message, experiment: Experiment, dataset: Dataset) -> Message:
        mine = [self.index, dataset.interactions.users, self.parts]
        return Message({"fedrec": version("fedrec"), "protocol": PROTOCOL, "torch": version("torch"), "range": mine})

    def _train(self, request: Message, experiment: Experiment, dataset: Dataset) -> Message:
        header = request.header
        mechanism = experiment.mechanism.with_round_params(header.get("privacy", {}))
        mechanism = mechanism.in_round(experiment.plan(dataset), header["round"])
        model, store = self._model(experiment, dataset), self._store(request, experiment, dataset)
        table_ = self._devices(request, dataset)
        context = RoundContext(header["round"], experiment.seed, mechanism)
        groups, users = self._grouped(experiment, model), cast(list[int], header["devices"])
        if groups is not None and isinstance(store, MmapPrivateStore):
            asked = np.array(users, np.int64), request.arrays
            return self._answer(context, *groups.contribute(store, table_, asked, context))
        summed, loss, examples = ReleasedSum(), 0.0, 0
        # A gateway is noised as a whole: its users can't come in chunks.
        size = len(users) if mechanism.pools_users and experiment.algorithm.trains else CHUNK
        for first in range(0, len(users), max(size, 1)):
            chunk = users[first : first + size]
            private = [store.load(user, header["round"]) for user in chunk]
            asked = (model, request.arrays, [table_[user] for user in chunk], private, context)
            joint = experiment.algorithm.contribute_pooled(*asked) or contribute_one_by_one(experiment.algorithm, asked)
            for user, arrays in zip(chunk, joint.private, strict=True):
                if ModelUpdate(arrays, 1).finite():
                    store.save(user, arrays, header["round"])
            summed.add(joint.update)
            loss, examples = loss + joint.loss, examples + joint.examples
        return self._answer(context, summed, loss, examples)

    def _secure(self, request: Message, experiment: Experiment, dataset: Dataset) -> Message:
        """Answer one message of a secure sum for every device asked, each with what it alone knows."""
        header, table_ = request.header, self._devices(request, dataset)
        plan = experiment.plan(dataset)
        terms = make_terms(experiment, plan, header)
        broadcast = {name: array for name, array in request.arrays.items() if name not in (SIZES, CONTENT)}
        model, store = self._model(experiment, dataset), self._store(request, experiment, dataset)
        mechanism = experiment.mechanism.in_round(plan, header["round"])
        context = RoundContext(header["round"], experiment.seed, mechanism)

        def vector(user: int) -> NDArray[np.int64]:
            asked = (model, broadcast, [table_[user]], [store.load(user, header["round"])], context)
            made = contribute_one_by_one(experiment.algorithm, asked)
            if ModelUpdate(made.private[0], 1).finite():
                store.save(user, made.private[0], header["round"])
            return as_release(made.update).flat()

        return self._fleet.answer(terms, Phase(header["phase"]), payloads_of(request), broadcast, vector)

    def _answer(self, context: RoundContext, summed: ReleasedSum, loss: float, examples: int) -> Message:
        random = context.mechanism.random(context.seed, context.round, self.index, Stream.NODE)
        reply = written(context.mechanism.privatize_node_sum(summed.total(), random), context.mechanism)
        exact = {"loss": loss, "examples": examples} if self.exact else {}
        return Message({**reply.header, **exact}, reply.arrays)

    def _evaluate(self, request: Message, experiment: Experiment, dataset: Dataset) -> Message:
        if not self.exact:
            return Message({"error": "exact results do not leave a real device"})
        header, part = request.header, request.header["part"]
        model, store = self._model(experiment, dataset), self._store(request, experiment, dataset)
        model.load({name: array for name, array in request.arrays.items() if name in model.shared})
        kept = PrivateStateView(store, header["round"] + 1, experiment.seed)
        asked = np.array(header["devices"], np.int64), part
        rows = evaluate_devices(model, kept, self._book(experiment, dataset), asked, experiment.accelerator)
        return Message({"count": len(rows["user"])}, rows)

    def _book(self, experiment: Experiment, dataset: Dataset) -> CandidateBook:
        if experiment.hash not in self._books:
            self._books = {experiment.hash: CandidateBook(dataset.devices, experiment.evaluation)}
        return self._books[experiment.hash]

    def _model(self, experiment: Experiment, dataset: Dataset) -> Recommender:
        if experiment.hash not in self._models:
            self._models = {experiment.hash: experiment.build_model(dataset.catalogue)}
        return self._models[experiment.hash]

    def _grouped(self, experiment: Experiment, model: Recommender) -> ThreadedExecutor | None:
        # Only for simulated devices: of a real one, a single update leaves.
        if not self.exact:
            return None
        if experiment.hash not in _groups:
            _groups.clear()
            _groups[experiment.hash] = make_executor(experiment, model)
        return _groups[experiment.hash]

    def _store(self, request: Message, experiment: Experiment, dataset: Dataset) -> PrivateStore:
        # A name of its own for each session: a folder that was overwritten meanwhile must not be taken for the old one.
        key, folder = (request.header["run"], request.header["folder"]), request.header["folder"]
        if key not in self._stores:
            private = self._model(experiment, dataset).private_arrays()
            self._stores = {key: MmapPrivateStore(Path(folder), dataset.interactions.users, private)}
        return self._stores[key]

    def _devices(self, request: Message, dataset: Dataset) -> DeviceTable:
        return dataset.devices.refitted() if request.header["part"] == "refit" else dataset.devices


def contribute_one_by_one(algorithm: Algorithm, asked: Asked) -> PooledContribution:
    """Return the sum of what each device releases of its own contribution."""
    made, (_, _, devices, _, context) = algorithm.contribute_many(*asked), asked
    if context.mechanism.terms.trust == Trust.SUMS and context.mechanism.private:
        # Nobody sees the noise of one device: that of all is drawn at once, which has the same law.
        random = context.mechanism.random(context.seed, context.round, devices[0].user, Stream.RELEASE)
        update = context.mechanism.privatize_cohort(UpdateList([c.update for c in made]), random)
        return PooledContribution(update, [c.private for c in made], *_exact(made))
    updates = list[Released]()
    for device, contribution in zip(devices, made, strict=True):
        random = context.mechanism.random(context.seed, context.round, device.user, Stream.RELEASE)
        updates.append(context.mechanism.privatize_update(contribution.update, random))
    return PooledContribution(total_of(updates), [c.private for c in made], *_exact(made))


def _exact(made: Sequence[Contribution]) -> tuple[float, int]:
    return sum(c.loss for c in made), sum(c.examples for c in made)
