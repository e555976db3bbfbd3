"""What a device keeps beside its events: private parameters, the model and catalogue received, the answers given.

Forgetting on a device: the events, what was learned from them, and at once a private vector from what is left.
"""

import hashlib
import json
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrec.data import catalogue as wire
from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData, HistoryRules, device_data
from fedrec.device.consent.request import unit_of
from fedrec.device.home import Home
from fedrec.device.store import DeviceStore
from fedrec.errors import FedrecError
from fedrec.experiment.instantiate import allow_only
from fedrec.messages import Arrays, Message, pack, unpack
from fedrec.numpy_engine.experiment import has_light_model
from fedrec.privacy.guarantee import Unit
from fedrec.recommend.numpy_ranker import RankerFactory

STAMP, OLDER = " stamp", "model's catalogue"
KEPT_ROUNDS = 2  # the newest, and the one before it: what a repeated round starts from


class DevicePrivate:
    """The private arrays of this device in one run (`fedrec.storage.private_arrays.PrivateStore`)."""

    def __init__(self, store: DeviceStore, run: str) -> None:
        self._store, self._run = store, run

    def load(self, user: int, before_round: int) -> Arrays:
        """Return what was saved last before that round, or nothing."""
        row = self._store.connection.execute(
            "select arrays from private where run = ? and round < ? order by round desc limit 1",
            [self._run, before_round],
        ).fetchone()
        return unpack(row[0]).arrays if row else {}

    def save(self, user: int, arrays: Arrays, round_number: int) -> None:
        """Keep the arrays as those of that round; what other runs and older rounds left goes."""
        if not arrays:
            return
        with self._store.transaction() as connection:
            content = pack(Message({}, dict(arrays)))
            connection.execute("delete from private where run != ? or round >= ?", [self._run, round_number])
            connection.execute("insert into private values (?, ?, ?)", [self._run, round_number, content])
            kept = "select round from private order by round desc limit ?"
            connection.execute(f"delete from private where round not in ({kept})", [KEPT_ROUNDS])
            stamp(self._store, "private")


def newest_private(store: DeviceStore) -> Arrays:
    """Return the private arrays that this device has now, whatever run they are from."""
    row = store.connection.execute("select arrays from private order by round desc limit 1").fetchone()
    return unpack(row[0]).arrays if row else {}


@dataclass(frozen=True, slots=True)
class SentReply:
    """An answer given: `reply` is None where what it said has been forgotten."""

    request: str
    reply: bytes | None


def find_reply(store: DeviceStore, run: str, round_number: int) -> SentReply | None:
    """Return what this device answered in that round of that run, if it did."""
    row = store.connection.execute(
        "select request, reply from answers where run = ? and round = ?", [run, round_number]
    ).fetchone()
    return SentReply(*row) if row else None


def save_reply(store: DeviceStore, run: str, round_number: int, request: Message, reply: Message) -> None:
    """Keep an answer before it is sent, so that the same bytes are sent again and no others; one a round for ever.

    Only the newest answer's bytes are kept: the rest of the table says that rounds were answered.
    """
    content = pack(reply)
    with store.transaction() as connection:
        connection.execute("update answers set reply = null where run != ? or round < ?", [run, round_number - 1])
        connection.execute(
            "insert into answers values (?, ?, ?, ?, ?, ?, ?)",
            [run, round_number, request_fingerprint(request), content, time.time(), request.bytes, reply.bytes],
        )


def request_fingerprint(request: Message) -> str:
    """Return a name for what a request asks: its arrays and what its header says of the experiment and the round."""
    named = {key: request.header.get(key) for key in ("run", "round", "hash", "part", "kind", "privacy")}
    hasher = hashlib.sha256(json.dumps(named, sort_keys=True).encode())
    for name, array in sorted(request.arrays.items()):
        hasher.update(f"{name}{array.dtype}{array.shape}".encode())
        hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()


def save_model(store: DeviceStore, request: Message) -> None:
    """Keep the model that a request brought: what this device recommends from."""
    with store.transaction() as connection:
        save(store, "model", Message({k: request.header[k] for k in ("run", "round", "experiment")}, request.arrays))
        connection.execute("delete from kept where name = ?", [OLDER])


def model(store: DeviceStore) -> Message | None:
    """Return the last model received: header run, round and experiment, and the shared arrays."""
    return load(store, "model")


def save_catalogue(store: DeviceStore, message: Message) -> None:
    """Keep the catalogue that the server sent; a model that came before it keeps the one that it belongs to."""
    wire.decode(message.header, message.arrays)
    with store.transaction() as connection:
        connection.execute(
            "insert or ignore into kept select ?, content from kept where name = 'catalogue' "
            "and exists (select 1 from kept where name = 'model')",
            [OLDER],
        )
        save(store, "catalogue", message)


def catalogue(store: DeviceStore) -> Catalogue | None:
    """Return the catalogue that the server sent last, if any: what the next round trains on."""
    message = load(store, "catalogue")
    return None if message is None else wire.decode(message.header, message.arrays)


def model_catalogue(store: DeviceStore) -> Catalogue | None:
    """Return the catalogue that the kept model belongs to: the last one, or the one before it until a model follows."""
    message = load(store, OLDER) or load(store, "catalogue")
    return None if message is None else wire.decode(message.header, message.arrays)


def save(store: DeviceStore, name: str, message: Message) -> None:
    """Keep a message under a name, over what was there."""
    with store.transaction() as connection:
        connection.execute("insert or replace into kept values (?, ?)", [name, pack(message)])
        stamp(store, name)


def load(store: DeviceStore, name: str) -> Message | None:
    """Return the message kept under a name, or None."""
    row = store.connection.execute("select content from kept where name = ?", [name]).fetchone()
    return unpack(row[0]) if row else None


def stamp(store: DeviceStore, name: str) -> None:
    """Write that what is kept under a name has changed, for those who would not read all of it to see that."""
    store.connection.execute("insert or replace into kept values (?, ?)", [f"{name}{STAMP}", os.urandom(8)])


def stamps(store: DeviceStore) -> dict[str, bytes]:
    """Return what changes with the model, the catalogue and the private arrays, by name; {} before the first."""
    named = ("generation", *(f"{name}{STAMP}" for name in ("model", "catalogue", "private")))
    small = store.connection.execute("select name, content from kept where name in (?, ?, ?, ?)", named)
    older = store.connection.execute("select name, x'' from kept where name = ?", [OLDER])
    return dict([*small, *older])


def note(store: DeviceStore, text: str) -> None:
    """Remember what happened last, for `fedrec client status`; never says which items."""
    save(store, "note", Message({"text": text, "at": time.time()}))


def count_answers(store: DeviceStore) -> int:
    """Return in how many rounds this device answered."""
    return traffic(store)[0]


def traffic(store: DeviceStore) -> tuple[int, int, int]:
    """Return (rounds answered, bytes of their requests, bytes of the answers)."""
    counted = "select count(*), coalesce(sum(bytes_down), 0), coalesce(sum(bytes_up), 0) from answers"
    rounds, down, up = store.connection.execute(counted).fetchone()
    return int(rounds), int(down), int(up)


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
    seen, message, catalogue = store.generation(), model(store), model_catalogue(store)
    if message is None or catalogue is None:
        return False
    node = json.loads(message.header["experiment"])
    device = device_data(store.history(), catalogue, 0, HistoryRules.of(node["dataset"]))
    if unit_of(node["privacy"]) not in (Unit.NONE, Unit.USER) or not len(device.history):
        return False
    with allow_only(Home(store.path.parent).packages()):
        arrays = _found(node, message, catalogue, device)
    with store.transaction():
        if store.generation() != seen:  # whoever forgot meanwhile finds them again
            return False
        DevicePrivate(store, message.header["run"]).save(0, arrays, message.header["round"])
    return bool(arrays)


def _found(node: dict[str, Any], message: Message, catalogue: Catalogue, device: DeviceData) -> Arrays:
    if has_light_model(node["model"]):
        return RankerFactory(node["model"], len(catalogue), message.arrays).private(device.history, device.values)
    try:
        from fedrec.experiment.experiment import Experiment, train_newcomer
    except ImportError:
        return {}
    experiment = Experiment.from_json(message.header["experiment"])
    return train_newcomer(
        experiment, experiment.build_model(catalogue), message.arrays, device, message.header["round"]
    )
