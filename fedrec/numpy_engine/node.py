"""What a node without torch does for the devices that it hosts, local training included.

The twin of `fedrec.federated.node.Node`: the batches and negatives of `fedrec.training.local`, the steps of a
`LightModel`.
"""

from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np

from fedrec.data.dataset import Dataset
from fedrec.data.interactions import DeviceData
from fedrec.experiment.instantiate import instantiate
from fedrec.messages import PROTOCOL, Arrays, Message, ModelUpdate
from fedrec.numpy_engine.experiment import LightExperiment
from fedrec.numpy_engine.models import LightModel
from fedrec.privacy.release import Released, ReleasedSum, written
from fedrec.storage.private_arrays import MmapPrivateStore, PrivateStore
from fedrec.training.batches import Histories, LocalTrainingConfig, NegativeSampler, epochs, first_private, open_draws


def train(
    model: LightModel, device: DeviceData, settings: LocalTrainingConfig, key: tuple[int, int, int]
) -> tuple[float, int]:
    """Train the model in place on one device's history; return (summed loss, examples seen), both exact.

    `key` is (seed, round, user): batches and negatives come from it, as on a device with torch.
    """
    histories, negatives = Histories.of(device), 0 if model.ratings else settings.negatives
    history, loss, examples = device.history.astype(np.int64), 0.0, 0
    for one in epochs(histories, settings, negatives, NegativeSampler(model.items), open_draws(*key[:2])):
        for slots in one.steps():
            rows = one.order[0, : one.count[0]][slots]
            if len(rows):
                items = np.concatenate([history[rows, None], one.negatives[0, slots][: len(rows)]], axis=1)
                rate = settings.learning_rate / (settings.denominator or len(rows))
                loss += model.step(items, device.values[rows], rate)
                examples += len(rows)
    return loss, examples


@lru_cache(maxsize=2)
def loaded(document: str) -> tuple[LightExperiment, Dataset]:
    """Return the experiment of a document and its data, once per process."""
    experiment = LightExperiment.from_json(document)
    return experiment, instantiate(experiment.document["dataset"], "dataset").load()


class LightNode:
    """Part `index` of `parts` equal parts of a simulated population: device u lives on node u mod parts.

    It answers as `Node` does, to the last digits of single precision, so that both may serve in one run. `exact` lets
    it answer with exact losses and per-user results: simulations only.
    """

    def __init__(self, index: int, parts: int, exact: bool) -> None:
        self.index, self.parts, self.exact = index, parts, exact
        self._stores: dict[tuple[str, str], MmapPrivateStore] = {}

    def answer(self, request: Message) -> Message:
        """Return the reply to a hello, train or evaluate message."""
        experiment, dataset = self._loaded(request)
        kinds = {"hello": self._hello, "train": self._train, "evaluate": self._evaluate}
        echo = {key: request.header[key] for key in ("protocol", "run", "round", "hash")}
        reply = kinds[request.header["kind"]](request, experiment, dataset)
        for store in self._stores.values():
            store.flush()  # before the answer leaves: the server's checkpoint will stand on these arrays
        return Message({**echo, **reply.header}, reply.arrays)

    def _loaded(self, request: Message) -> tuple[LightExperiment, Dataset]:
        """Return the experiment that a request is of, and the data of the devices here."""
        return loaded(request.header["experiment"])

    def _hello(self, request: Message, experiment: LightExperiment, dataset: Dataset) -> Message:
        mine = [self.index, dataset.interactions.users, self.parts]
        return Message({"fedrec": version("fedrec"), "protocol": PROTOCOL, "engine": "light", "range": mine})

    def _train(self, request: Message, experiment: LightExperiment, dataset: Dataset) -> Message:
        header, model = request.header, experiment.model(len(dataset.catalogue))
        store = self._store(request, model, dataset)
        released, loss, examples = ReleasedSum(), 0.0, 0
        for user in cast(list[int], header["devices"]):
            private = store.load(user, header["round"])
            update, private, loss_, examples_ = contribute(
                experiment, model, request.arrays, dataset.devices[user], private, header["round"]
            )
            released.add(update)
            if ModelUpdate(private, 1).finite():
                store.save(user, private, header["round"])
            loss, examples = loss + loss_, examples + examples_
        reply = written(released.total(), experiment.mechanism)
        exact = {"loss": loss, "examples": examples} if self.exact else {}
        return Message({**reply.header, **exact}, reply.arrays)

    def _evaluate(self, request: Message, experiment: LightExperiment, dataset: Dataset) -> Message:
        if not self.exact:
            return Message({"error": "exact results do not leave a real device"})
        from fedrec.evaluation.per_device import evaluate_device, history_of
        from fedrec.evaluation.per_user import table

        header, part = request.header, request.header["part"]
        options = instantiate(experiment.document["evaluation"], "evaluation")
        model = experiment.model(len(dataset.catalogue))
        store, rows = self._store(request, model, dataset), []
        model.load({name: array for name, array in request.arrays.items() if name in model.shared})
        for user in cast(list[int], header["devices"]):
            restore(model, store.load(user, header["round"] + 1), experiment.seed, user)
            device = dataset.devices[user]
            scores = model.scores(history_of(device, part))
            row = evaluate_device(scores, device, part, options, model.ratings, type(model).__name__)
            if row is not None:
                rows.append(row)
        return Message({"count": len(rows)}, table(rows, options.cutoffs))

    def _store(self, request: Message, model: LightModel, dataset: Dataset) -> PrivateStore:
        key, folder = (request.header["run"], request.header["folder"]), request.header["folder"]
        if key not in self._stores:
            self._stores = {key: MmapPrivateStore(Path(folder), dataset.interactions.users, model.private_arrays())}
        return self._stores[key]


def restore(model: LightModel, private: Arrays, seed: int, user: int) -> None:
    """Give the model a device's private arrays, or on a device that never trained the first ones of its seed."""
    if not private:
        shapes = {name: array.shape for name, array in model.private_arrays().items()}
        many = first_private(shapes, model.init_std, seed, np.array([user]))
        private = {name: array[0] for name, array in many.items()}
    model.load(private)


def contribute(
    experiment: LightExperiment, model: LightModel, broadcast: Arrays, device: DeviceData, private: Arrays, number: int
) -> tuple[Released, Arrays, float, int]:
    """Return (what may leave, the new private arrays, loss, examples) of one device in round `number`."""
    model.load(broadcast)
    restore(model, private, experiment.seed, device.user)
    loss, examples = train(model, device, experiment.settings, (experiment.seed, number, device.user))
    change = {name: array - broadcast[name] for name, array in model.shared_arrays().items()}
    return experiment.mechanism.privatize_update(ModelUpdate(change, 1)), model.private_arrays(), loss, examples
