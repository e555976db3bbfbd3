"""What one device may say of one item: honest ones keep to it, hostile ones are cut to it, and long histories pass."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedrec.algorithms.gram_matrix import GramMatrix
from fedrec.algorithms.item_bounds import ItemBound, find_shortest_history, pair_of
from fedrec.algorithms.item_counts import ItemCounts
from fedrec.algorithms.transition_counts import TransitionCounts
from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import load
from fedrec.messages import Arrays, ModelUpdate, cells
from fedrec.models.ease import Ease
from fedrec.models.popularity import Popularity
from fedrec.models.transitions import ItemTransitionModel
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.release import cut_to
from tests.support.tiny import SMALL, catalogue

ITEMS, SHORTEST = 30, 8
PUBLIC = catalogue(ITEMS)
HISTORIES = hnp.arrays(np.int32, st.integers(0, 40), elements=st.integers(0, ITEMS - 1))
MAKERS = {
    "counts": lambda n: (ItemCounts(shortest_history=n), Popularity(PUBLIC)),
    "gram": lambda n: (GramMatrix(head=ITEMS, shortest_history=n), Ease(PUBLIC, head=ITEMS)),
    "order": lambda n: (TransitionCounts(head=ITEMS, shortest_history=n), ItemTransitionModel(PUBLIC, head=ITEMS)),
    "together": lambda n: (
        TransitionCounts(head=ITEMS, order=False, shortest_history=n),
        ItemTransitionModel(PUBLIC, head=ITEMS),
    ),
}


def stages(kind: str, shortest: int | None) -> tuple[Any, list[Arrays]]:
    """Return the algorithm, and what it broadcasts in each of its rounds."""
    algorithm, model = MAKERS[kind](shortest)
    first = algorithm.init(model, PUBLIC)
    second = {n: np.ones_like(a) if n.startswith("stage/") else a for n, a in first.items()}
    return algorithm, [first, second][: algorithm.rounds(1)]


def sent(kind: str, shortest: int | None, history: np.ndarray) -> list[ModelUpdate]:
    """Return what a device of this history sends in each round."""
    algorithm, broadcasts = stages(kind, shortest)
    empty = np.empty(0, np.int32)
    device = DeviceData(
        0, history.astype(np.int32), np.ones(len(history), np.float32), empty, empty, np.empty(0, np.float32)
    )
    made = [ModelUpdate(algorithm.statistic(broadcast, device, Unit.USER), 1) for broadcast in broadcasts]
    return [algorithm.clip_items({}, update, Unit.USER, 0.0) for update in made]


def largest_row(flat: np.ndarray, diagonal: bool) -> float:
    """Return the largest sum of absolute values over the pairs of an item, by the full matrix."""
    _, _, size = pair_of(np.empty(0, np.int64), len(flat), diagonal)
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size, 0 if diagonal else 1)] = np.abs(flat)
    return float((matrix + np.triu(matrix, 1).T if diagonal else matrix + matrix.T).sum(0).max(initial=0.0))


@pytest.mark.parametrize("diagonal", [True, False])
def test_flat_places_are_those_of_numpy(diagonal: bool) -> None:
    for size in (2, 3, 7, 40):
        rows, columns = np.triu_indices(size, 0 if diagonal else 1)
        one, other, found = pair_of(np.arange(len(rows)), len(rows), diagonal)
        assert found == size and np.array_equal(one, rows) and np.array_equal(other, columns)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(MAKERS)), HISTORIES)
def test_no_device_says_more_of_an_item_than_the_shortest_history(kind: str, history: np.ndarray) -> None:
    """Repeats and short histories included: each value, and each item's row, is within what the server lets count."""
    algorithm, _ = stages(kind, SHORTEST)
    for update in sent(kind, SHORTEST, history):
        for name, array in update.arrays.items():
            bound, dense = algorithm.item_bounds(Unit.USER, {})[name], np.array(array, float)
            assert np.abs(dense).max(initial=0.0) <= bound.value * 1.0001
            if math.isfinite(bound.row):
                assert largest_row(dense, bound.diagonal) <= bound.row * 1.0001
        assert update.norm() <= 1 + 1e-6


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(MAKERS)), st.permutations(range(ITEMS)), st.integers(SHORTEST, ITEMS))
def test_a_history_of_at_least_so_many_items_says_what_it_would_without(kind: str, order: list[int], n: int) -> None:
    history = np.array(order[:n])
    for bound, free in zip(sent(kind, SHORTEST, history), sent(kind, None, history), strict=True):
        for name in free.arrays:
            assert np.array_equal(np.asarray(bound.arrays[name]), np.asarray(free.arrays[name]))


@settings(max_examples=60, deadline=None)
@example("gram", np.array([5, 0, 10, 8, 4, 9, 2, 6, 1, 3], np.int32))  # rounding brings a row above its bound
@given(st.sampled_from(list(MAKERS)), HISTORIES)
def test_what_an_honest_device_rounded_to_the_grid_counts_to_the_last_step(kind: str, history: np.ndarray) -> None:
    """Rounding may bring a value, or all pairs of an item together, above its bound: that is no reason to cut it."""
    algorithm, _ = stages(kind, SHORTEST)
    mechanism = UserLevel(clip=1.0, noise_multiplier=1.0)
    for update in sent(kind, SHORTEST, history):
        whole = mechanism.privatize_update(update, mechanism.random(0))
        cut = cut_to(whole, lambda values, step: algorithm.clip_items({}, values, Unit.USER, 0.0, step))
        assert all(np.array_equal(np.asarray(cut.arrays[n]), np.asarray(whole.arrays[n])) for n in whole.arrays)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_hostile_sum_counts_as_much_as_the_devices_in_it(kind: str) -> None:
    """Whatever is sent: one item, all pairs of one item, or less than nothing of the others."""
    algorithm, broadcasts = stages(kind, SHORTEST)
    random, bounds = np.random.default_rng(3), algorithm.item_bounds(Unit.USER, {})
    for broadcast in broadcasts:
        shapes = algorithm.shapes(broadcast)
        wild = {n: (random.standard_cauchy(shape) * 10).astype(np.float32) for n, shape in shapes.items()}
        found = algorithm.clip_items({}, ModelUpdate(wild, 3), Unit.USER, 0.0)
        assert found.count == 3 and found.norm() < ModelUpdate(wild, 3).norm()
        for name, array in found.arrays.items():
            bound = bounds[name]
            assert array.dtype == np.float32 and array.max() <= 3 * bound.value * 1.0001
            assert array.min() >= (-3 * bound.value * 1.0001 if bound.signed else 0)
            if math.isfinite(bound.row):
                assert largest_row(array, bound.diagonal) <= 3 * bound.row * 1.0001


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, 10, elements=st.floats(-4, 4, width=32)), st.booleans(), st.integers(1, 3))
def test_sparse_and_dense_are_cut_alike(values: np.ndarray, signed: bool, count: int) -> None:
    bound = ItemBound(1.0, 1.5, signed=signed)
    sparse = bound.clip(cells(np.arange(10), values, (10,)), count)
    assert np.array_equal(np.asarray(sparse), bound.clip(values.copy(), count))


def test_an_honest_sum_is_the_same_object_and_noise_is_not_cut() -> None:
    bound, random = ItemBound(1.0, 2.0), np.random.default_rng(3)
    honest = np.array([1.0, 0.5, 0.0], np.float32)
    assert bound.clip(honest) is honest
    noisy = (honest + random.normal(0, 5.0, 3)).astype(np.float32)
    assert bound.clip(noisy, reach=40.0) is noisy
    assert bound.clip(np.full(3, 100.0, np.float32), reach=40.0).max() <= 41.001


def test_without_a_mechanism_or_a_shortest_history_nothing_is_cut() -> None:
    wild = ModelUpdate({"counts": np.full(ITEMS, 1e9, np.float32)}, 1)
    assert ItemCounts(shortest_history=8).clip_items({}, wild, Unit.NONE, 0.0).arrays["counts"].max() == 1e9
    assert ItemCounts().clip_items({}, wild, Unit.USER, 0.0).arrays["counts"].max() == 1e9
    assert ItemCounts(shortest_history=8).clip_items({}, wild, Unit.INTERACTION, 0.0).arrays["counts"].max() < 1.001


def test_a_share_of_the_mean_history_is_at_least_one() -> None:
    assert [find_shortest_history(0.25, *sizes) for sizes in ((10, 200), (10, 9), (0, 0))] == [5, 1, 1]


@pytest.mark.parametrize("name", ["auto", "strict"])
@pytest.mark.parametrize("model", ["popularity", "order", "ease"])
def test_a_name_is_a_share_of_the_public_mean_once_calibrated(name: str, model: str) -> None:
    experiment = load([*SMALL, f"model={model}", "privacy=user", f"algorithm.shortest_history={name}"]).experiment
    dataset = load_dataset(experiment)
    ready = experiment.calibrated(dataset).algorithm
    share = ready.history_shares[name]  # type: ignore[attr-defined]
    expected = find_shortest_history(share, dataset.interactions.users, dataset.published_interactions)
    assert share == (0.5 if name == "strict" else 0.125 if model == "popularity" else 0.25)
    assert ready.shortest_history == expected  # type: ignore[attr-defined]
    with pytest.raises(FedrecError, match=f"shortest_history={name}: a calibrated experiment has a number"):
        experiment.algorithm.item_bounds(Unit.USER, {})  # type: ignore[attr-defined]


def test_counts_and_order_are_bounded_by_default() -> None:
    for model, expected in (("popularity", "auto"), ("order", "auto"), ("ease", None)):
        assert load([f"model={model}"]).experiment.algorithm.shortest_history == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [ItemCounts, GramMatrix, TransitionCounts])
@pytest.mark.parametrize("value", [0, -1, 2.5, "some"])
def test_a_bound_that_is_none_is_refused(make: type, value: object) -> None:
    with pytest.raises(
        FedrecError, match=rf"algorithm.shortest_history={value} must be at least 1, auto, strict, or null"
    ):
        make(shortest_history=value)
