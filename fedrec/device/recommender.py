"""Recommendations on this device, from its own store and the last model that reached it. No Flower, no gRPC.

Nothing that is asked or logged here leaves the device. Torch is imported only for models that have no light twin.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import HistoryRules, device_data
from fedrec.device import saved_state
from fedrec.device.home import Home
from fedrec.device.saved_state import expire, forget
from fedrec.device.store import DeviceStore, Event
from fedrec.errors import FedrecError
from fedrec.experiment.instantiate import allow_only
from fedrec.messages import Message
from fedrec.numpy_engine.experiment import has_light_model
from fedrec.recommend.numpy_ranker import RankerFactory
from fedrec.recommend.ranker import Explanation, ItemSearch, Recommendation, UserRanker, explain, recommend

NEVER = -1  # a connection does not notice its own writes: after them, it looks as if for the first time


class ModelNotReadyError(FedrecError):
    """There is no model here yet."""


class UnknownItemError(FedrecError):
    """No item of that name."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model as it is served: its message from the server, the catalogue, and how to rank for a history."""

    message: Message
    catalogue: Catalogue
    rows: dict[str, int]
    ranker_factory: RankerFactory | None  # None: the model has no light twin


class DeviceRecommender:
    """Answers for one device; to be used by one thread alone, like its store."""

    def __init__(self, store: DeviceStore) -> None:
        self.store = store
        self._seen, self._stamps = NEVER, dict[str, bytes]()
        self._events: list[Event] | None = None
        self._served: ServedModel | None = None
        self._ranker: UserRanker | None = None
        self._used = np.empty(0, np.int64)

    def recommend(self, k: int, without: list[str]) -> list[Recommendation]:
        """Return the k best items that were not used, nor named in `without`."""
        ranker, left_out = self.ranker(), [self.row(name) for name in without]
        return recommend(ranker, k, np.concatenate([self._used, np.array(left_out, np.int64)]))

    def explain(self, item: str) -> Explanation:
        """Return why an item has its score; `RefusedError` where the model can't say."""
        ranker = self.ranker()
        return explain(ranker, self.row(item))

    def log_event(self, item: str, kind: str, value: float, at: float | None) -> tuple[bool, bool]:
        """Remember an interaction; return (whether it was new, whether the catalogue has the item)."""
        event = Event(item, time.time() if at is None else at, kind, value)
        new, self._ranker = bool(self.store.log_events([event])), None
        if self._events and self._events[-1].time <= event.time:
            self._events += [event] * new
        else:
            self._events = None
        return new, self.refresh() and item in self.served().rows

    def refresh(self) -> bool:
        """Take in what is new, so that the next answer has not to wait for it; say whether there is a model."""
        known = self.ready()
        if known:
            self.ranker().scores()
        return known

    def forget(self, item: str | None) -> int:
        """Forget one item's interactions, or with None everything; return how many."""
        gone, _ = forget(self.store, item)
        self._seen = NEVER
        return gone

    def expire(self, home: Home) -> int:
        """Forget what is older than this home's policy lets it be; return how many interactions."""
        gone = expire(home, self.store)
        self._seen = NEVER if gone else self._seen
        return gone

    def status(self) -> dict[str, Any]:
        """Return what there is to recommend from; names no item."""
        ready, counted = self.ready(), {"interactions": len(self.events())}
        if not ready:
            return counted
        served, header = self.served(), self.served().message.header
        target = str(json.loads(header["experiment"])["model"]["_target_"])
        explains = self.ranker().item_contributions(0) is not None
        named = {"run": header["run"], "round": header["round"], "model": target.rpartition(".")[2]}
        return {**counted, **named, "explains": explains, "items": len(served.catalogue)}

    def events(self) -> list[Event]:
        """Return the interactions in the order of time, as of the last look at the store."""
        if self._events is None:
            self._events = self.store.history()
        return self._events

    def row(self, item: str) -> int:
        """Return the row of an item of the catalogue by its id; an unknown one is an error with the nearest."""
        found = self.served().rows.get(item)
        if found is None:
            try:
                return ItemSearch(self.served().catalogue).row(item)
            except FedrecError as error:
                raise UnknownItemError(str(error)) from error
        return found

    def ready(self) -> bool:
        """Say whether a model and its catalogue have reached this device."""
        try:
            self.served()
        except ModelNotReadyError:
            return False
        return True

    def served(self) -> ServedModel:
        """Return the model that is served now."""
        self._reload_if_changed()
        if self._served is None:
            raise ModelNotReadyError(
                "no model has reached this device yet: it comes with the first round that it takes part in"
            )
        return self._served

    def ranker(self) -> UserRanker:
        """Return how the model ranks for what the store holds now."""
        served = self.served()
        if self._ranker is None:
            self._ranker = self._make_ranker(served)
        return self._ranker

    def _reload_if_changed(self) -> None:
        """Take in what has changed in the store, whoever changed it: a new round, new events, what was forgotten."""
        (version,) = self.store.connection.execute("pragma data_version").fetchone()
        if version == self._seen:
            return
        self._seen, self._ranker, self._events = version, None, None
        stamps = saved_state.stamps(self.store)
        if self._served is not None and stamps == self._stamps:
            return
        message, catalogue = saved_state.model(self.store), self._catalogue(stamps)
        self._stamps = stamps
        if message is None or catalogue is None:
            self._served = None
            return
        rows = {str(name): row for row, name in enumerate(catalogue.ids)}
        self._served = ServedModel(message, catalogue, rows, self._ranker_factory(message, catalogue))

    def _catalogue(self, stamps: dict[str, bytes]) -> Catalogue | None:
        """Return the catalogue, read again only where it is another one."""
        names = (f"catalogue{saved_state.STAMP}", saved_state.OLDER)
        if self._served is not None and all(stamps.get(name) == self._stamps.get(name) for name in names):
            return self._served.catalogue
        return saved_state.model_catalogue(self.store)

    def _ranker_factory(self, message: Message, catalogue: Catalogue) -> RankerFactory | None:
        node = json.loads(message.header["experiment"])["model"]
        private = saved_state.newest_private(self.store)
        return RankerFactory(node, len(catalogue), message.arrays, private) if has_light_model(node) else None

    def _make_ranker(self, served: ServedModel) -> UserRanker:
        events = self.events()
        rules = HistoryRules.of(json.loads(served.message.header["experiment"])["dataset"], split="none")
        device = device_data(events, served.catalogue, 0, rules, served.rows)
        self._used = np.array(sorted({served.rows[e.item] for e in events if e.item in served.rows}), np.int64)
        if served.ranker_factory is not None:
            return served.ranker_factory.ranker(device.history, device.values)
        with allow_only(Home(self.store.path.parent).packages()):
            return torch_ranker(served, device.history, saved_state.newest_private(self.store))


def torch_ranker(
    served: ServedModel, history: NDArray[np.int32], private: dict[str, NDArray[np.float32]]
) -> UserRanker:
    """Return the taste of a model that has no light twin; an error where torch is not installed."""
    try:
        from fedrec.experiment.experiment import Experiment
        from fedrec.recommend.model_ranker import model_ranker
    except ImportError as error:
        raise ModelNotReadyError(f"this model needs torch, which is not installed here ({error})") from error
    header = served.message.header
    experiment = Experiment.from_json(header["experiment"])
    return model_ranker(experiment, served.catalogue, served.message.arrays, private, history, header["round"])
