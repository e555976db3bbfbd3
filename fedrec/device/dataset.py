"""One real device as an engine's node: its data comes from its store, and nothing exact leaves it unasked."""

import importlib
import json
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.data.interactions import DeviceData, DeviceTable, HistoryRules, Interactions, device_data
from fedrec.device.store import DeviceStore
from fedrec.errors import FedrecError
from fedrec.messages import Arrays, Message
from fedrec.storage.private_arrays import PrivateStore

REHEARSED = 3  # items of a device that nobody is


class BufferedPrivateStore:
    """What the device saved last before a round, and what is saved in it, until its answer is written.

    It holds no store while a round is carried out, so that it can go through a process of its own.
    """

    def __init__(self, store: PrivateStore | None, before_round: int, user: int = 0) -> None:
        self._store, self._held = store, {} if store is None else store.load(user, before_round)
        self.saved = list[tuple[int, Arrays, int]]()

    def load(self, user: int, before_round: int) -> Arrays:
        """Return what was saved last before the round, or nothing."""
        return self._held

    def save(self, user: int, arrays: Arrays, round_number: int) -> None:
        """Hold the arrays back."""
        self.saved.append((user, arrays, round_number))

    def packed(self, reply: Message) -> Message:
        """Return a reply and what was saved beside it as one message."""
        kept = {f"{n}/{name}": array for n, (_, arrays, _) in enumerate(self.saved) for name, array in arrays.items()}
        places = [(user, number) for user, _, number in self.saved]
        own = {f"reply/{name}": array for name, array in reply.arrays.items()}
        return Message({"reply": reply.header, "saved": places}, {**own, **kept})

    def unpacked(self, packed: Message) -> Message:
        """Hold back what was saved beside a reply, and return the reply."""

        def of(part: str) -> Arrays:
            start = f"{part}/"
            return {n.removeprefix(start): array for n, array in packed.arrays.items() if n.startswith(start)}

        self.saved = [(user, of(str(n)), number) for n, (user, number) in enumerate(packed.header["saved"])]
        return Message(packed.header["reply"], of("reply"))

    def write(self) -> None:
        """Write what was held back."""
        for user, arrays, round_number in self.saved:
            if self._store is not None:
                self._store.save(user, arrays, round_number)


def local_dataset(store: DeviceStore, catalogue: Catalogue, header: dict[str, Any]) -> Dataset:
    """Return this device's data as the data set of a population in which only its own row holds anything."""
    rules = HistoryRules.of(json.loads(header["experiment"])["dataset"])
    (row,) = cast(list[int], header["devices"])
    return dataset_of(device_data(store.history(), catalogue, row, rules), catalogue, rules.split)


def rehearsal_dataset(catalogue: Catalogue, header: dict[str, Any]) -> Dataset:
    """Return a data set whose one device has used a few public items and nothing else: to try a round on."""
    (row,) = cast(list[int], header["devices"])
    items, none = np.arange(min(len(catalogue), REHEARSED), dtype=np.int32), np.zeros(0, np.int32)
    ones = np.ones(len(items), np.float32)
    return dataset_of(DeviceData(row, items, ones, none, none, np.zeros(0, np.float32)), catalogue, "none")


def dataset_of(device: DeviceData, catalogue: Catalogue, split: str) -> Dataset:
    """Return one device's data as the data set of a population in which only its own row holds anything."""
    none = np.zeros(0, np.int32)
    names = np.array([str(device.user)])
    return Dataset(
        name="this device",
        population="this device",
        interactions=Interactions(none, none, np.zeros(0, np.int64), np.zeros(0, np.float32), names, len(catalogue)),
        catalogue=catalogue,
        devices=table_of(device, len(catalogue)),
        split=split,
    )


def table_of(device: DeviceData, items: int) -> DeviceTable:
    """Return a table whose last row is the device, the rows before it empty."""
    sizes = len(device.history), len(device.validation), len(device.test)
    start = np.zeros(device.user + 2, np.int64)
    start[-1] = sum(sizes)
    validation_from, test_from = (np.zeros(device.user + 1, np.int64) for _ in range(2))
    validation_from[-1], test_from[-1] = sizes[0], sizes[0] + sizes[1]
    value = np.concatenate([device.values, np.ones(sizes[1], np.float32), device.test_values]).astype(np.float32)
    item = np.concatenate([device.history, device.validation, device.test]).astype(np.int32)
    return DeviceTable(start, validation_from, test_from, item, value, items, repeats=device.repeats)


def load_engine(engine: str) -> None:
    """Import what an engine takes, so that the processes that carry out a round find it loaded: torch takes seconds."""
    torch = "fedrec.federated.node", "fedrec.data.datasets.enrolled_devices"
    for name in ("fedrec.numpy_engine.node",) if engine == "light" else torch:
        importlib.import_module(name)


def train_on(engine: str, dataset: Dataset, private: PrivateStore, exact: bool) -> Callable[[Message], Message]:
    """Return how the engine ("torch" or "light") answers train and evaluate for this one device."""
    if engine == "light":
        try:
            from fedrec.numpy_engine.experiment import LightExperiment
            from fedrec.numpy_engine.node import LightNode
        except ImportError as error:
            raise FedrecError(f"engine=light is not there ({error}): use engine=torch") from error

        class Light(LightNode):
            def _loaded(self, request: Message) -> Any:
                return LightExperiment.from_json(request.header["experiment"]), dataset

            def _store(self, request: Message, model: Any, dataset: Dataset) -> PrivateStore:
                return private

        return Light(0, 1, exact).answer

    from fedrec.experiment.experiment import Experiment
    from fedrec.federated.node import Node

    class Torch(Node):
        def _loaded(self, request: Message) -> Any:
            return Experiment.from_json(request.header["experiment"]), dataset

        def _store(self, request: Message, experiment: Any, dataset: Dataset) -> PrivateStore:
            return private

    return Torch(0, 1, exact).answer
