"""Server steps against golden values, statistics against their bounds and their centralised form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedrec.algorithms.fedavg import FedAdagrad, FedAdam, FedAvg
from fedrec.algorithms.gram_matrix import GramMatrix, bounded_gram, solve
from fedrec.algorithms.item_counts import ItemCounts, bounded_counts
from fedrec.errors import FedrecError
from fedrec.models.ease import Ease
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import Aggregate
from tests.support.tiny import catalogue

STATE = {"w": np.array([1.0, 2.0], np.float32)}
MOMENTS = {"first/w": np.zeros(2, np.float32), "second/w": np.zeros(2, np.float32)}
TOTAL = Aggregate({"w": np.array([4.0, -2.0], np.float32)}, 2.0)  # mean (2, -1)
HISTORIES = hnp.arrays(np.int32, st.integers(0, 60), elements=st.integers(0, 11))


def test_fedavg_adds_the_mean_change() -> None:
    after = FedAvg(server_learning_rate=0.5).step(STATE, TOTAL)
    np.testing.assert_allclose(after["w"], [2.0, 1.5])


def test_fedadam_by_hand() -> None:
    """m = .1 change, v = .01 change^2: the first step is .1 / (.1 + tau/|change|) = about one rate a coordinate."""
    after = FedAdam(server_learning_rate=0.1, tau=1e-3).step({**STATE, **MOMENTS}, TOTAL)
    np.testing.assert_allclose(after["first/w"], [0.2, -0.1], rtol=1e-6)
    np.testing.assert_allclose(after["second/w"], [0.04, 0.01], rtol=1e-6)
    np.testing.assert_allclose(after["w"], [1 + 0.1 * 0.2 / 0.201, 2 - 0.1 * 0.1 / 0.101], rtol=1e-6)


def test_fedadagrad_by_hand() -> None:
    step = FedAdagrad(server_learning_rate=0.1, tau=1e-3)
    once = step.step({**STATE, **MOMENTS}, TOTAL)
    twice = step.step(once, TOTAL)
    np.testing.assert_allclose(once["w"], [1 + 0.1 * 2 / 2.001, 2 - 0.1 / 1.001], rtol=1e-6)
    np.testing.assert_allclose(twice["second/w"], [8.0, 2.0], rtol=1e-6)


def test_what_the_server_keeps_is_not_broadcast() -> None:
    assert FedAdam().broadcast({**STATE, **MOMENTS}).keys() == {"w"}


@pytest.mark.parametrize("fields", [{"epochs": 0}, {"learning_rate": 0.0}, {"optimizer": "lamb"}, {"negatives": -1}])
def test_nonsense_is_refused_by_name(fields: dict[str, float]) -> None:
    with pytest.raises(FedrecError, match=f"algorithm.{next(iter(fields))}="):
        FedAvg(**fields)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(HISTORIES)
def test_counts_are_bounded_whatever_repeats(history: np.ndarray) -> None:
    norm = float(np.linalg.norm(bounded_counts(history, 12, Unit.USER)))
    assert norm == 0 if len(history) == 0 else abs(norm - 1) < 1e-6
    assert bounded_counts(history, 12, Unit.INTERACTION).sum() == len(history)


@settings(max_examples=200, deadline=None)
@given(HISTORIES, st.data())
def test_one_interaction_moves_raw_counts_by_one(history: np.ndarray, data: st.DataObject) -> None:
    if len(history):
        place = data.draw(st.integers(0, len(history) - 1))
        without = np.delete(history, place)
        change = bounded_counts(history, 12, Unit.INTERACTION) - bounded_counts(without, 12, Unit.INTERACTION)
        assert np.linalg.norm(change) == ItemCounts().sensitivity(Unit.INTERACTION)


@settings(max_examples=200, deadline=None)
@given(HISTORIES)
def test_gram_matrices_are_bounded_whatever_repeats(history: np.ndarray) -> None:
    """Invariants P4 and P5: coalesced before they are normalised, norm at most 1."""
    head = np.array([0, 2, 3, 7, 11])
    flat = bounded_gram(history, head, 12)
    assert np.linalg.norm(flat) <= 1 + 1e-6
    x = np.isin(head, history).astype(float)
    full = np.outer(x, x) / max(x.sum(), 1)
    np.testing.assert_allclose(flat, full[np.triu_indices(5)], atol=1e-7)


def test_the_weights_are_those_of_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    histories = [np.flatnonzero(rng.random(8) < 0.5) for _ in range(30)]
    flat = np.sum([bounded_gram(h.astype(np.int32), np.arange(8), 8) for h in histories], axis=0, dtype=float)
    x = np.stack([np.isin(np.arange(8), h) / np.sqrt(max(len(h), 1)) for h in histories])
    gram = x.T @ x
    inverse = np.linalg.inv(gram + 0.5 * np.trace(gram) / 8 * np.eye(8))
    expected = np.eye(8) - inverse / np.diag(inverse)
    np.testing.assert_allclose(solve(flat.astype(np.float32), 8, 0.5), expected, atol=1e-5)


def test_a_noisy_gram_matrix_is_repaired() -> None:
    noisy = np.random.default_rng(1).normal(0, 3, 36).astype(np.float32)
    weights = solve(noisy, 8, 1.0)
    assert np.isfinite(weights).all() and not np.diag(weights).any()


def test_gram_goes_through_its_two_rounds() -> None:
    public = catalogue(12)
    algorithm, model = GramMatrix(head=4), Ease(public, head=4)
    state = algorithm.init(model, public)
    assert algorithm.shapes(state) == {"counts": (12,)} and algorithm.rounds(50) == 2
    counts = np.arange(12, dtype=np.float32)
    state = algorithm.step(state, Aggregate({"counts": counts}, 1.0))
    assert list(state["head_items"]) == [8, 9, 10, 11] and algorithm.shapes(state) == {"gram": (10,)}
    state = algorithm.step(state, Aggregate({"gram": np.ones(10, np.float32)}, 1.0))
    assert state["weights"].shape == (4, 4)


def test_a_head_too_large_says_what_it_would_take() -> None:
    with pytest.raises(FedrecError, match="MiB"):
        Ease(catalogue(12), head=6000)
