"""The device's own store: what it keeps, what it forgets, who may read it, and what a kill leaves."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data import catalogue as wire
from fedrec.device import saved_state
from fedrec.device.store import DeviceStore, Event
from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import Message
from tests.support.tiny import catalogue

ROOT = Path(__file__).parents[3]
EVENTS = [Event("b", 3.0), Event("a", 1.0), Event("a", 2.0, "play", 0.5), Event("c", 1.0)]


@pytest.fixture
def store(tmp_path: Path) -> DeviceStore:
    return DeviceStore(tmp_path / "home" / "store.sqlite")


def request(number: int = 1, value: float = 1.0) -> Message:
    header = {"kind": "train", "run": "r", "round": number, "hash": "h", "part": "train", "experiment": "{}"}
    return Message(header, {"w": np.full(3, value, np.float32)})


def test_history_is_in_the_order_of_time_then_of_arrival(store: DeviceStore) -> None:
    assert store.log_events(EVENTS) == 4
    assert [e.item for e in store.history()] == ["a", "c", "a", "b"]
    assert store.history("play") == [EVENTS[2]]


def test_the_same_event_counts_once(store: DeviceStore) -> None:
    assert store.log_event("a", at=1.0) and not store.log_event("a", at=1.0)
    assert store.log_event("a", kind="play", at=1.0) and store.log_event("a", at=2.0)
    assert len(store.history()) == 3


def test_it_survives_being_closed_and_is_its_owners_alone(store: DeviceStore) -> None:
    store.log_events(EVENTS)
    for path in store.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    store.close()
    assert len(DeviceStore(store.path).history()) == 4


def test_forgetting_leaves_no_byte_and_takes_what_was_computed_with_it(store: DeviceStore) -> None:
    store.log_events([Event("a-very-secret-item", 1.0), Event("kept-item", 2.0)])
    saved_state.DevicePrivate(store, "r").save(0, {"user": np.ones((1, 2), np.float32)}, 1)
    saved_state.save_reply(store, "r", 1, request(), Message({"count": 1}))
    assert store.forget("a-very-secret-item") == 1
    assert [e.item for e in store.history()] == ["kept-item"]
    assert saved_state.newest_private(store) == {}
    answer = saved_state.find_reply(store, "r", 1)
    assert answer is not None and answer.reply is None
    for path in store.path.parent.iterdir():
        assert b"a-very-secret-item" not in path.read_bytes(), path
    assert store.forget() == 1 and store.history() == []


def test_forgetting_what_is_not_there_changes_nothing(store: DeviceStore) -> None:
    store.log_events(EVENTS)
    saved_state.DevicePrivate(store, "r").save(0, {"user": np.ones((1, 2), np.float32)}, 1)
    assert store.forget("nothing") == 0
    assert len(store.history()) == 4 and saved_state.newest_private(store)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=12), st.sampled_from("abcd"))
def test_forget_is_the_filter_and_import_is_idempotent(rows: list[tuple[str, int]], item: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = DeviceStore(Path(folder) / "s.sqlite")
        events = [Event(name, float(at)) for name, at in rows]
        assert store.log_events(events) == len(set(events)) and store.log_events(events) == 0
        before = store.history()
        assert store.forget(item) == sum(e.item == item for e in before)
        assert store.history() == [e for e in before if e.item != item]
        store.close()


def test_retention_forgets_what_is_older(store: DeviceStore) -> None:
    day = 86400.0
    store.log_events([Event("old", 0.0), Event("new", 9.5 * day)])
    assert store.expire(None) == 0
    assert store.expire(1.0, now=10 * day) == 1 and [e.item for e in store.history()] == ["new"]


def test_private_arrays_are_those_before_the_round(store: DeviceStore) -> None:
    private = saved_state.DevicePrivate(store, "r")
    for number in (1, 2, 3):
        private.save(0, {"user": np.full((1, 2), number, np.float32)}, number)
    assert private.load(0, 4)["user"][0, 0] == 3 and private.load(0, 3)["user"][0, 0] == 2
    private.save(0, {"user": np.full((1, 2), 9, np.float32)}, 3)
    assert private.load(0, 4)["user"][0, 0] == 9 and private.load(0, 3)["user"][0, 0] == 2
    other = saved_state.DevicePrivate(store, "another run")
    assert other.load(0, 9) == {}
    other.save(0, {"user": np.zeros((1, 2), np.float32)}, 1)
    assert private.load(0, 9) == {}


def test_an_answer_is_given_once_a_round(store: DeviceStore) -> None:
    assert saved_state.find_reply(store, "r", 1) is None
    saved_state.save_reply(store, "r", 1, request(), Message({"count": 1}))
    answer = saved_state.find_reply(store, "r", 1)
    assert answer is not None and answer.request == saved_state.request_fingerprint(
        request()
    ) != saved_state.request_fingerprint(request(value=2.0))
    with pytest.raises(sqlite3.IntegrityError):
        saved_state.save_reply(store, "r", 1, request(), Message({"count": 1}))


def test_a_transaction_is_all_or_nothing(store: DeviceStore) -> None:
    private = saved_state.DevicePrivate(store, "r")
    with pytest.raises(RuntimeError), store.transaction():
        private.save(0, {"user": np.ones((1, 1), np.float32)}, 1)
        saved_state.save_reply(store, "r", 1, request(), Message({"count": 1}))
        raise RuntimeError("killed")
    assert private.load(0, 2) == {} and saved_state.find_reply(store, "r", 1) is None


KILLED = """
import sys
from pathlib import Path
from fedrec.device.store import DeviceStore, Event
store = DeviceStore(Path(sys.argv[1]))
number = 0
while True:
    store.log_events([Event(f"first {number}", number), Event(f"second {number}", number)])
    print(number, flush=True)
    number += 1
"""


def test_killed_while_writing_it_keeps_what_was_said_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    said = [int(process.stdout.readline()) for _ in range(20)]
    time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    said += [int(line) for line in process.stdout.read().splitlines()]
    process.wait()
    items = [event.item for event in DeviceStore(path).history()]
    assert {f"{part} {number}" for number in said for part in ("first", "second")} <= set(items)
    assert len(items) % 2 == 0


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(FedrecError, match="not a device store"):
        DeviceStore(path)
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as connection:
        connection.execute("pragma user_version=99")
    connection.close()
    with pytest.raises(FedrecError, match="newer fedrec"):
        DeviceStore(newer)


def test_the_catalogue_comes_back_as_it_was_sent(store: DeviceStore) -> None:
    whole = catalogue()
    header, arrays = wire.encode(whole)
    saved_state.save_catalogue(store, Message(header, arrays))
    back = saved_state.catalogue(store)
    assert back is not None and wire.digest(back) == wire.digest(whole)
    assert back.ids.tolist() == whole.ids.tolist() and back.feature_names == whole.feature_names


@pytest.mark.parametrize("name", ["features", "ids_text", "ids_end", "titles_end"])
def test_what_is_no_catalogue_is_refused(name: str) -> None:
    header, arrays = wire.encode(catalogue())
    with pytest.raises(RefusedError, match="catalogue"):
        wire.decode(header, {key: array for key, array in arrays.items() if key != name})
    with pytest.raises(RefusedError, match="catalogue"):
        wire.decode(header, {**arrays, name: arrays[name][:-1]})


def test_a_device_needs_no_torch(tmp_path: Path) -> None:
    heavy = "('torch', 'hydra', 'scipy', 'flwr', 'pyarrow', 'dp_accounting')"
    code = "import sys, fedrec.device.device, fedrec.device.supervisor, fedrec.device.status, fedrec.cli.client"
    code += ", fedrec.data.io.csv_files"
    code += f"; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
