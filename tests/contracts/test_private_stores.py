"""What every store of private arrays promises: what a checkpoint stands on is found again, whatever was killed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrec.device.dataset import BufferedPrivateStore
from fedrec.device.saved_state import DevicePrivate, newest_private
from fedrec.device.store import DeviceStore, Event
from fedrec.messages import Arrays, Message, pack, unpack
from fedrec.storage.private_arrays import MmapPrivateStore, PrivateStore

USER, USERS = 2, 4
LIKE = {"user.weight": np.zeros((1, 3), np.float32), "user_bias.weight": np.zeros((1, 1), np.float32)}
KINDS: dict[str, Callable[[Path], PrivateStore]] = {
    "a simulation's files": lambda path: MmapPrivateStore(path / "private", USERS, LIKE),
    "a device's store": lambda path: DevicePrivate(DeviceStore(path / "store.sqlite"), "run"),
}


def arrays(value: float) -> Arrays:
    return {name: np.full(array.shape, value, np.float32) for name, array in LIKE.items()}


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> Callable[[Path], PrivateStore]:
    return KINDS[request.param]


def test_nothing_is_kept_before_the_first_save(kind: Callable[[Path], PrivateStore], tmp_path: Path) -> None:
    assert kind(tmp_path).load(USER, 10**6) == {}


def test_a_round_never_finds_what_it_or_a_later_one_saved(kind: Callable[[Path], PrivateStore], tmp_path: Path) -> None:
    store = kind(tmp_path)
    store.save(USER, arrays(1.0), 4)
    assert store.load(USER, 4) == {} == store.load(USER, 1)
    assert same(store.load(USER, 5), arrays(1.0)) and same(store.load(USER, 99), arrays(1.0))


def test_a_repeated_round_starts_from_where_it_started(kind: Callable[[Path], PrivateStore], tmp_path: Path) -> None:
    store = kind(tmp_path)
    for number in (1, 2, 3):
        store.save(USER, arrays(number), number)
    again = kind(tmp_path)
    assert same(again.load(USER, 3), arrays(2.0))
    again.save(USER, arrays(-3.0), 3)
    assert same(again.load(USER, 4), arrays(-3.0)) and same(again.load(USER, 3), arrays(2.0))


def test_what_is_given_back_is_a_copy_with_its_shapes(kind: Callable[[Path], PrivateStore], tmp_path: Path) -> None:
    store, given_arrays = kind(tmp_path), arrays(2.0)
    store.save(USER, given_arrays, 1)
    given_arrays["user.weight"][:] = 9
    found = store.load(USER, 2)
    assert same(found, arrays(2.0)) and {a.dtype for a in found.values()} == {np.dtype(np.float32)}
    assert {name: array.shape for name, array in found.items()} == {name: a.shape for name, a in LIKE.items()}


def test_saving_nothing_keeps_nothing(tmp_path: Path) -> None:
    for store in (MmapPrivateStore(tmp_path / "p", USERS, {}), DevicePrivate(DeviceStore(tmp_path / "s"), "run")):
        store.save(USER, {}, 1)
        assert store.load(USER, 2) == {}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(played=st.lists(st.sampled_from(["done", "killed", "stays away"]), max_size=8))
@pytest.mark.parametrize("name", sorted(KINDS))
def test_it_is_a_log_of_rounds_cut_at_the_last_checkpoint(
    name: str, played: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A killed round is played again by a process of its own; the store gives what a full log would."""
    path = tmp_path_factory.mktemp("log")
    store, log = KINDS[name](path), Arrays()
    for number, what in enumerate(played, 1):
        assert same(store.load(USER, number), log)
        if what == "killed":
            store.save(USER, arrays(-number), number)
            store = KINDS[name](path)
            assert same(store.load(USER, number), log)
        if what != "stays away":
            log = arrays(number)
            store.save(USER, log, number)
    assert same(store.load(USER, len(played) + 1), log)


def test_what_is_held_back_is_not_kept_until_it_is_written(
    kind: Callable[[Path], PrivateStore], tmp_path: Path
) -> None:
    inner = kind(tmp_path)
    inner.save(USER, arrays(1.0), 1)
    held = BufferedPrivateStore(inner, 3, USER)
    held.save(USER, arrays(2.0), 2)
    assert same(held.load(USER, 3), arrays(1.0)) and same(inner.load(USER, 3), arrays(1.0))
    reply = Message({"count": 1}, {"item": np.ones(2, np.float64)})
    later = BufferedPrivateStore(inner, 3, USER)  # what comes back from a process of its own
    found = later.unpacked(unpack(pack(held.packed(reply))))
    assert (
        found.header == reply.header and found.arrays["item"].dtype == np.float64 and same(found.arrays, reply.arrays)
    )
    later.write()
    assert same(inner.load(USER, 3), arrays(2.0))


def test_a_device_keeps_one_run_and_two_rounds_of_it_and_forgets_with_its_events(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path / "store.sqlite")
    for number in (1, 2, 3):
        DevicePrivate(store, "old").save(0, arrays(number), number)
    (rows,) = store.connection.execute("select count(*) from private").fetchone()
    assert rows == 2 and same(newest_private(store), arrays(3.0))
    DevicePrivate(store, "new").save(0, arrays(7.0), 1)
    assert DevicePrivate(store, "old").load(0, 9) == {} and same(newest_private(store), arrays(7.0))
    store.log_events([Event("i1", 1.0)])
    assert store.forget("i1") == 1 and newest_private(store) == {}


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rounds=st.lists(
        st.dictionaries(st.integers(0, USERS - 1), st.floats(-9, 9, width=32), max_size=USERS), min_size=1, max_size=5
    )
)
def test_many_devices_at_once_are_each_of_them_alone(
    rounds: list[dict[int, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    one, many = (MmapPrivateStore(tmp_path_factory.mktemp(name), USERS, LIKE) for name in ("one", "many"))
    everyone = np.arange(USERS)
    for number, values in enumerate(rounds, 1):
        users = np.array(sorted(values), np.int64)
        stacked = {
            name: np.stack(
                [np.full(a.shape, values[u], np.float32) for u in users.tolist()] or [a[:0].reshape(0, *a.shape[1:])]
            )
            for name, a in LIKE.items()
        }
        if len(users):
            many.save_many(users, stacked, number)
        for user in users.tolist():
            one.save(user, arrays(values[user]), number)
        found, there = many.load_many(everyone, number + 1)
        for user in everyone.tolist():
            alone = one.load(user, number + 1)
            assert bool(alone) == bool(there[user]) and same(many.load(user, number + 1), alone)
            for name, array in found.items():
                expected = alone.get(name, np.zeros_like(LIKE[name]))
                assert np.array_equal(array[user], expected), "and zeros where nothing was saved"


def test_many_devices_that_repeat_a_round_write_over_its_own_slot(tmp_path: Path) -> None:
    store, users = MmapPrivateStore(tmp_path / "p", USERS, LIKE), np.array([1, 3])
    for number, value in ((1, 1.0), (2, 2.0), (2, 5.0), (2, 6.0)):
        store.save_many(users, {name: np.full((2, *a.shape), value, np.float32) for name, a in LIKE.items()}, number)
    for user in users.tolist():
        assert same(store.load(user, 2), arrays(1.0)) and same(store.load(user, 3), arrays(6.0))


def test_of_many_the_ones_that_are_not_finite_are_left_as_they_were(tmp_path: Path) -> None:
    store, users = MmapPrivateStore(tmp_path / "p", USERS, LIKE), np.array([0, 1, 3])
    store.save_many(users, {name: np.ones((3, *a.shape), np.float32) for name, a in LIKE.items()}, 1)
    wrong = {name: np.full((3, *a.shape), 2, np.float32) for name, a in LIKE.items()}
    wrong["user.weight"][1, 0, 2] = np.nan
    store.save_many(users, wrong, 2)
    found, there = store.load_many(np.arange(USERS), 3)
    assert there.tolist() == [True, True, False, True]
    assert found["user_bias.weight"][:, 0, 0].tolist() == [2, 1, 0, 2]
    assert np.isfinite(found["user.weight"]).all()
