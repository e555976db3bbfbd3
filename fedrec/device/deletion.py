"""Forgetting on a device: the events, what was learned from them, and at once a private vector from what is left."""

import json
from typing import Any

from fedrec.data.catalogue import Catalogue
from fedrec.data.devices import DeviceData, device_data
from fedrec.device import saved_state
from fedrec.device.consent.request import unit_of
from fedrec.device.home import Home
from fedrec.device.store import DeviceStore
from fedrec.errors import FedrecError
from fedrec.experiment.instantiate import allow_only
from fedrec.messages import Message
from fedrec.numpy_engine.experiment import has_light_model
from fedrec.privacy.guarantee import Unit
from fedrec.recommend.numpy_ranker import RankerFactory
from fedrec.update import Arrays


def forget(store: DeviceStore, item: str | None = None) -> tuple[int, bool]:
    """Forget one item's interactions, or all; return how many, and whether private parameters were found again."""
    gone = store.forget(item)
    return gone, bool(gone) and rebuild(store)


def expire(home: Home, store: DeviceStore) -> int:
    """Forget what is older than policy.toml's `retention_days`; return how many interactions."""
    days = home.table("store").get("retention_days")
    if days is not None and (isinstance(days, bool) or not isinstance(days, int | float) or not days > 0):
        raise FedrecError(f"{home.policy}: store.retention_days={days}: a number of days above 0 is expected")
    gone = store.expire(days)
    if gone:
        rebuild(store)
    return gone


def rebuild(store: DeviceStore) -> bool:
    """Find the private parameters again from the history that is left, on the last model received.

    Return whether there are some now. At interaction level there are none: updates would see a vector that no noise
    protects, so that training begins afresh. A kill before the end leaves none either, never those of before.
    """
    seen, message, catalogue = store.generation(), saved_state.model(store), saved_state.model_catalogue(store)
    if message is None or catalogue is None:
        return False
    node = json.loads(message.header["experiment"])
    settings = node["dataset"]
    device = device_data(
        store.history(), catalogue, 0, threshold=settings.get("threshold"), split=str(settings.get("split"))
    )
    if unit_of(node["privacy"]) not in (Unit.NONE, Unit.USER) or not len(device.history):
        return False
    with allow_only(Home(store.path.parent).packages()):
        arrays = _found(node, message, catalogue, device)
    with store.transaction():
        if store.generation() != seen:  # whoever forgot meanwhile finds them again
            return False
        saved_state.DevicePrivate(store, message.header["run"]).save(0, arrays, message.header["round"])
    return bool(arrays)


def _found(node: dict[str, Any], message: Message, catalogue: Catalogue, device: DeviceData) -> Arrays:
    if has_light_model(node["model"]):
        return RankerFactory(node["model"], len(catalogue), message.arrays).private(device.history, device.values)
    try:
        from fedrec.experiment.experiment import Experiment
        from fedrec.recommend.model_ranker import private_of
    except ImportError:
        return {}
    experiment = Experiment.from_json(message.header["experiment"])
    return private_of(experiment, experiment.build_model(catalogue), message.arrays, device, message.header["round"])
