"""Groups of devices on threads: the same sum and the same private arrays for any number of threads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.algorithms.base import RoundContext
from fedrec.algorithms.fedavg import FedAvg
from fedrec.data.interactions import DeviceTable
from fedrec.errors import FedrecError
from fedrec.federated.node import HELD_BYTES, ThreadedExecutor, Total, split_into_groups
from fedrec.models.mf import MatrixFactorization
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Mechanism
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.storage.private_arrays import MmapPrivateStore
from fedrec.training.batches import CohortData
from fedrec.training.vectorized.engine import VectorizedEngine
from fedrec.training.vectorized.updates import StackedUpdates
from tests.support.tiny import catalogue

ITEMS, USERS, MOST = 30, 230, 60
INTERACTION = InteractionLevel(noise_multiplier=1.0, clip=0.5, sample_rate=0.5, local_steps=6, denominator=8.0)
MECHANISMS: dict[str, Mechanism] = {"none": NoPrivacy(), "user": UserLevel(noise_multiplier=1.0, clip=0.05)}


def model() -> MatrixFactorization:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return MatrixFactorization(catalogue(ITEMS), dim=3)


def table() -> DeviceTable:
    rng = np.random.default_rng(2)
    start = np.cumsum([0, *rng.integers(0, 40, USERS)])
    items = rng.integers(0, ITEMS, start[-1]).astype(np.int32)
    return DeviceTable(start, start[1:], start[1:], items, np.ones(start[-1], np.float32), ITEMS)


def trained(threads: int, mechanism: Mechanism, folder: Path, users: np.ndarray) -> tuple[Total, MmapPrivateStore]:
    """Two rounds, of which the second starts from what the first kept."""
    own, asked = model(), FedAvg(epochs=2, batch_size=8, learning_rate=0.1, negatives=2)
    store = MmapPrivateStore(folder / str(threads), USERS, own.private_arrays())
    nodes = ThreadedExecutor(lambda: VectorizedEngine(own, asked), threads, MOST)
    for number in (1, 2):
        context = RoundContext(number, 7, mechanism)
        total = nodes.contribute(store, table(), (users, own.shared_arrays()), context)
    return total, store


@pytest.mark.parametrize("kind", MECHANISMS)
def test_threads_change_no_bit(kind: str, tmp_path: Path) -> None:
    users = np.arange(0, USERS)
    assert len(split_into_groups(users, MOST)) == 4
    (one, loss, examples), kept = trained(1, MECHANISMS[kind], tmp_path, users)
    assert one.total().norm() > 0.01 and one.total().count == USERS
    for threads in (2, 3, 9):
        (many, *rest), store = trained(threads, MECHANISMS[kind], tmp_path, users)
        assert rest == [loss, examples]
        for name, array in one.total().arrays.items():
            np.testing.assert_array_equal(many.total().arrays[name], array)
        np.testing.assert_array_equal(
            store.load_many(users, 3)[0]["user.weight"], kept.load_many(users, 3)[0]["user.weight"]
        )


@pytest.mark.parametrize("shards", [3, 7])
@pytest.mark.parametrize("kind", MECHANISMS)
def test_groups_together_are_what_their_devices_are_alone(kind: str, shards: int, tmp_path: Path) -> None:
    """Whole numbers are equal, one by one; sums in floating point up to rounding."""
    whole = trained(2, MECHANISMS[kind], tmp_path / "whole", np.arange(USERS))[0]
    parts = [trained(1, MECHANISMS[kind], tmp_path / str(n), np.arange(n, USERS, shards))[0] for n in range(shards)]
    assert sum(part[2] for part in parts) == whole[2]
    for name, array in whole[0].total().arrays.items():
        apart = np.sum([part[0].total().arrays[name] for part in parts], axis=0)
        np.testing.assert_allclose(apart, array, rtol=0, atol=1e-6)


def test_what_goes_wrong_on_a_thread_is_raised(tmp_path: Path) -> None:
    broken = {**model().shared_arrays(), "nonsense": np.zeros(1, np.float32)}
    store = MmapPrivateStore(tmp_path, USERS, model().private_arrays())
    nodes = ThreadedExecutor(lambda: VectorizedEngine(model(), FedAvg()), 2, MOST)
    for _ in range(3):  # no engine is lost by it
        with pytest.raises(FedrecError, match="nonsense"):
            nodes.contribute(store, table(), (np.arange(USERS), broken), RoundContext(1, 0, NoPrivacy()))


@settings(deadline=None)
@given(st.integers(0, 5000), st.integers(1, 700))
def test_groups_hold_everybody_once_are_of_nearly_one_size_and_few(users: int, most: int) -> None:
    parts = split_into_groups(np.arange(users) * 3, most)
    np.testing.assert_array_equal(np.concatenate([*parts, np.empty(0, np.int64)]), np.arange(users) * 3)
    sizes = [len(part) for part in parts]
    assert (len(sizes) - 1) * most < max(users, 1) <= max(len(sizes), 1) * most
    assert not sizes or (max(sizes) <= most and max(sizes) - min(sizes) <= 1)


@pytest.mark.parametrize(
    ("held", "many"), [(0, 1), (HELD_BYTES, 1), (HELD_BYTES + 1, 2), (5 * HELD_BYTES, 5), (10**15, 30)]
)
def test_groups_whose_changes_take_much_are_smaller(held: int, many: int) -> None:
    parts = split_into_groups(np.arange(30), MOST, held)
    assert len(parts) == many and sum(map(len, parts)) == 30


@pytest.mark.parametrize("mechanism", [NoPrivacy(), INTERACTION], ids=["none", "interaction"])
def test_an_engine_says_how_many_bytes_changes_take_at_most(mechanism: Mechanism) -> None:
    own, chosen = model(), CohortData(table(), np.arange(USERS))
    engine = VectorizedEngine(own, FedAvg(epochs=3, batch_size=8, learning_rate=0.1, negatives=2))
    private = engine.first_private(0, chosen.users)
    made = engine.train(own.shared_arrays(), chosen, private, mechanism, (0, 1))
    assert isinstance(made.stack, StackedUpdates)
    tensors = [
        part
        for tile in made.stack.tiles
        for part in (tile.items, tile.owner, *tile.rows.values(), *tile.dense.values())
    ]
    took, most = sum(part.nbytes for part in tensors), engine.bytes_in_flight(chosen, mechanism)
    assert 0.3 * most < took <= most
