"""Recommendations on this device, from its own store and the last model that reached it. No Flower, no gRPC.

Nothing that is asked or logged here leaves the device. Torch is imported only for models that have no light twin.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client import kept
from client.store import DeviceStore
from fedrec.data.catalogue import Catalogue
from fedrec.data.own import device_data
from fedrec.errors import FedrecError
from fedrec.light.experiment import MODELS
from fedrec.light.personal import Personal
from fedrec.messages import Message
from fedrec.recommend.taste import Explanation, Recommendation, Taste, explain, recommend
from fedrec.recommend.titles import Titles


class NotReady(FedrecError):
    """There is no model here yet."""


class Unknown(FedrecError):
    """No item of that name."""


@dataclass(frozen=True, slots=True)
class Served:
    """One model as it is served: its message from the server, the catalogue, and how to rank for a history."""

    message: Message
    catalogue: Catalogue
    rows: dict[str, int]
    personal: Personal | None  # None: the model has no light twin


class Desk:
    """Answers for one device; to be used by one thread alone, like its store."""

    def __init__(self, store: DeviceStore) -> None:
        self.store = store
        self._seen = -1
        self._served: Served | None = None
        self._taste: Taste | None = None
        self._used = np.empty(0, np.int64)

    def recommend(self, k: int, without: list[str]) -> list[Recommendation]:
        """Return the k best items that were not used, nor named in `without`."""
        taste, left_out = self.taste(), [self.row(name) for name in without]
        return recommend(taste, k, np.concatenate([self._used, np.array(left_out, np.int64)]))

    def explain(self, item: str) -> Explanation:
        """Return why an item has its score; `Refused` where the model can't say."""
        taste = self.taste()
        return explain(taste, self.row(item))

    def log_event(self, item: str, kind: str, value: float, at: float | None) -> tuple[bool, bool]:
        """Remember an interaction; return (whether it was new, whether the catalogue has the item)."""
        new, self._taste = self.store.log_event(item, kind, value, at), None
        known = self.ready()
        if known:
            self.taste().scores()  # here, so that the next answer has not to wait for it
        return new, known and item in self.served().rows

    def forget(self, item: str | None) -> int:
        """Forget one item's interactions, or with None everything; return how many."""
        gone = self.store.forget(item)
        self._seen, self._served = -1, None  # the private arrays are gone too
        return gone

    def status(self) -> dict[str, Any]:
        """Return what there is to recommend from; names no item."""
        counted = {"interactions": len(self.store.history())}
        if not self.ready():
            return counted
        served, header = self.served(), self.served().message.header
        target = str(json.loads(header["experiment"])["model"]["_target_"])
        explains = self.taste().shares(0) is not None
        named = {"run": header["run"], "round": header["round"], "model": target.rpartition(".")[2]}
        return {**counted, **named, "explains": explains, "items": len(served.catalogue)}

    def row(self, item: str) -> int:
        """Return the row of an item of the catalogue by its id; an unknown one is an error with the nearest."""
        found = self.served().rows.get(item)
        if found is None:
            try:
                return Titles(self.served().catalogue).row(item)
            except FedrecError as error:
                raise Unknown(str(error)) from error
        return found

    def ready(self) -> bool:
        """Say whether a model and its catalogue have reached this device."""
        try:
            self.served()
        except NotReady:
            return False
        return True

    def served(self) -> Served:
        """Return the model that is served now."""
        self._look()
        if self._served is None:
            raise NotReady("no model has reached this device yet: it comes with the first round that it takes part in")
        return self._served

    def taste(self) -> Taste:
        """Return how the model ranks for what the store holds now."""
        served = self.served()
        if self._taste is None:
            self._taste = self._made(served)
        return self._taste

    def _look(self) -> None:
        """Take in what has changed in the store, whoever changed it: a new round, new events, what was forgotten."""
        (version,) = self.store.connection.execute("pragma data_version").fetchone()
        if version == self._seen:
            return
        self._seen, self._taste = version, None
        message, catalogue = kept.model(self.store), kept.catalogue(self.store)
        if message is None or catalogue is None:
            self._served = None
        elif self._served is None or message.header != self._served.message.header:
            rows = {str(name): row for row, name in enumerate(catalogue.ids)}
            self._served = Served(message, catalogue, rows, self._personal(message, catalogue))

    def _personal(self, message: Message, catalogue: Catalogue) -> Personal | None:
        node = json.loads(message.header["experiment"])["model"]
        light = str(node["_target_"]).split(".")[-2] in MODELS
        private = kept.newest_private(self.store)
        return Personal(node, len(catalogue), message.arrays, private) if light else None

    def _made(self, served: Served) -> Taste:
        events = self.store.history()
        settings = json.loads(served.message.header["experiment"])["dataset"]
        threshold = settings.get("threshold")
        device = device_data(events, served.catalogue, 0, threshold=threshold, split="none", rows=served.rows)
        self._used = np.array(sorted({served.rows[e.item] for e in events if e.item in served.rows}), np.int64)
        if served.personal is not None:
            return served.personal.taste(device.history, device.values)
        return torch_taste(served, device.history, kept.newest_private(self.store))


def torch_taste(served: Served, history: NDArray[np.int32], private: dict[str, NDArray[np.float32]]) -> Taste:
    """Return the taste of a model that has no light twin; an error where torch is not installed."""
    try:
        from fedrec.experiment import Experiment
        from fedrec.recommend.of_model import taste_of
    except ImportError as error:
        raise NotReady(f"this model needs torch, which is not installed here ({error})") from error
    header = served.message.header
    experiment = Experiment.from_json(header["experiment"])
    return taste_of(experiment, served.catalogue, served.message.arrays, private, history, header["round"])
