"""Private arrays survive a kill: what a checkpoint stands on is never overwritten by the round after it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.device.client_app import make_client_app
from fedrec.federated import loop
from fedrec.flower.transport import FlowerTransport, InProcessGrid
from fedrec.storage.private_arrays import MmapPrivateStore
from tests.support.tiny import session, small

LIKE = {"user.weight": np.zeros((1, 3), np.float32), "bias": np.zeros(2, np.float32)}


def arrays(value: float) -> dict[str, np.ndarray]:
    return {name: np.full(a.shape, value, np.float32) for name, a in LIKE.items()}


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


def test_nothing_before_the_first_save(tmp_path: Path) -> None:
    assert MmapPrivateStore(tmp_path / "p", 4, LIKE).load(2, 100) == {}


def test_a_repeated_round_finds_what_the_round_before_left(tmp_path: Path) -> None:
    store = MmapPrivateStore(tmp_path / "p", 4, LIKE)
    store.save(1, arrays(1.0), 1)
    store.save(1, arrays(2.0), 2)
    store.save(1, arrays(-9.0), 3)  # killed before the checkpoint of round 3
    again = MmapPrivateStore(tmp_path / "p", 4, LIKE)
    assert same(again.load(1, 3), arrays(2.0))
    again.save(1, arrays(3.0), 3)
    assert same(again.load(1, 4), arrays(3.0)) and same(again.load(1, 3), arrays(2.0))


def test_users_are_apart_and_files_are_private(tmp_path: Path) -> None:
    store = MmapPrivateStore(tmp_path / "p", 4, LIKE)
    store.save(0, arrays(5.0), 1)
    assert store.load(1, 2) == {}
    store.flush()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "p").iterdir()} == {0o600}


def test_a_model_without_private_arrays_keeps_nothing(tmp_path: Path) -> None:
    store = MmapPrivateStore(tmp_path / "p", 3, {})
    store.save(1, {}, 1)
    assert store.load(1, 2) == {}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12))
def test_like_a_log_cut_at_the_last_checkpoint(tmp_path_factory, played) -> None:
    """Rounds are played in order; a killed one is played again. The store gives what a full log would."""
    path = tmp_path_factory.mktemp("store") / "p"
    store, log = MmapPrivateStore(path, 3, LIKE), {}
    for number, (user, killed) in enumerate(played, 1):
        expected = log.get(user, {})
        assert same(store.load(user, number), expected)
        if killed:
            store.save(user, arrays(-1.0), number)
            store = MmapPrivateStore(path, 3, LIKE)
            assert same(store.load(user, number), expected)
        log[user] = arrays(float(number))
        store.save(user, log[user], number)


@pytest.mark.parametrize("engine", ["torch", "light"])
def test_private_arrays_are_on_disk_before_the_checkpoint_that_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    order: list[str] = []
    flush, save = MmapPrivateStore.flush, loop.save_checkpoint

    def flushed(store: MmapPrivateStore) -> None:
        if tmp_path in store.folder.parents:  # a node may still hold the arrays of an earlier run
            order.append("flush")
        flush(store)

    monkeypatch.setattr(MmapPrivateStore, "flush", flushed)
    monkeypatch.setattr(loop, "save_checkpoint", lambda *a: (order.append("checkpoint"), save(*a))[1])
    experiment, dataset = small("model=mf", "rounds=2", "evaluation.every=9")
    nodes = FlowerTransport(InProcessGrid(make_client_app(), 1, (engine,)))
    with session(experiment, dataset, tmp_path / "run", nodes) as opened:
        for _ in loop.run(opened):
            assert order[:2] == ["flush", "checkpoint"]
            order.clear()
