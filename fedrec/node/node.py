"""What a node does for the devices that it hosts, whatever carries the messages."""

from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.algorithms.base import Algorithm, PooledContribution, RoundContext
from fedrec.data.dataset import Dataset
from fedrec.data.interactions import DeviceData, DeviceTable
from fedrec.evaluation.candidates import CandidateBook
from fedrec.experiment.experiment import Experiment, load_dataset
from fedrec.messages import PROTOCOL, Message
from fedrec.models.base import Recommender
from fedrec.node.evaluation import PrivateStateView, evaluate_devices
from fedrec.node.execution import ThreadedExecutor, make_executor
from fedrec.rng import Stream
from fedrec.storage.private_arrays import MmapPrivateStore, PrivateStore
from fedrec.update import Arrays, ModelUpdate, UpdateSum, total

Asked = tuple[Recommender, Arrays, list[DeviceData], list[Arrays], RoundContext]
CHUNK = 64  # devices whose contributions are held at once, one by one


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

    def answer(self, request: Message) -> Message:
        """Return the reply to a hello, train or evaluate message."""
        experiment, dataset = self._loaded(request)
        kinds = {"hello": self._hello, "train": self._train, "evaluate": self._evaluate}
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
        model, store = self._model(experiment, dataset), self._store(request, experiment, dataset)
        table_ = self._devices(request, dataset)
        context = RoundContext(header["round"], experiment.seed, mechanism)
        groups, users = self._grouped(experiment, model), cast(list[int], header["devices"])
        if groups is not None and isinstance(store, MmapPrivateStore):
            asked = np.array(users, np.int64), request.arrays
            return self._answer(context, *groups.contribute(store, table_, asked, context))
        summed, loss, examples = UpdateSum(), 0.0, 0
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

    def _answer(self, context: RoundContext, summed: UpdateSum, loss: float, examples: int) -> Message:
        random = context.mechanism.random(context.seed, context.round, self.index, Stream.NODE)
        update = context.mechanism.privatize_node_sum(summed.update(), random)
        exact = {"loss": loss, "examples": examples} if self.exact else {}
        return Message({"count": update.count, **exact}, cast(dict[str, NDArray[Any]], update.arrays))

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
    updates = list[ModelUpdate]()
    for device, contribution in zip(devices, made, strict=True):
        random = context.mechanism.random(context.seed, context.round, device.user, Stream.RELEASE)
        updates.append(context.mechanism.privatize_update(contribution.update, random))
    loss, examples = sum(c.loss for c in made), sum(c.examples for c in made)
    return PooledContribution(total(updates, updates[0].arrays), [c.private for c in made], loss, examples)
