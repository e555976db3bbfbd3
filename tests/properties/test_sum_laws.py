"""Sums that nodes, rounds and devices may take in any grouping: updates, metrics, compositions of mechanisms."""

import math

import numpy as np
import pytest
from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedrec.errors import FedrecError
from fedrec.evaluation.metrics import MetricSums
from fedrec.messages import ModelUpdate, SparseArray, UpdateSum, cells, total
from fedrec.privacy.accounting.composition import (
    COARSE,
    EMPTY,
    Composition,
    checked_delta,
    compose,
    compose_events,
    compute_epsilon,
    default_delta,
    running_epsilon,
)
from fedrec.privacy.accounting.rdp import divergence, epsilon_bound, largest_tpr
from fedrec.privacy.guarantee import Relation
from fedrec.privacy.ledger.account import composition_from_json, composition_to_json

SHAPES = {"item.weight": (3, 2), "bias": (2,)}
LIKE = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def exact(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    """Whole numbers, whose sums in floating point are exact in any order."""
    size = math.prod(shape)
    whole = st.lists(st.integers(-1000, 1000), min_size=size, max_size=size)
    return whole.map(lambda values: np.array(values, np.float32).reshape(shape))


UPDATES = st.builds(
    ModelUpdate, st.fixed_dictionaries({name: exact(shape) for name, shape in SHAPES.items()}), st.integers(0, 50)
)
METRICS = st.builds(
    MetricSums,
    st.dictionaries(st.sampled_from(["hr@10", "ndcg@10", "mrr@5"]), st.integers(-99, 99).map(float)),
    st.integers(0, 9),
)
PART = st.tuples(st.sampled_from([0.5, 1.0, 2.0, 7.5]), st.sampled_from([0.01, 0.3, 1.0]), st.integers(1, 9))
COMPOSITIONS = st.lists(PART, max_size=4).map(lambda parts: compose([(frozenset({part}), 1) for part in parts]))


def summed(updates: list[ModelUpdate], like: dict[str, np.ndarray] | None = None) -> ModelUpdate:
    found = UpdateSum(like)
    for update in updates:
        found.add(update)
    return found.update()


def same(one: ModelUpdate, other: ModelUpdate) -> bool:
    return one.count == other.count and all(
        np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays | other.arrays
    )


@given(st.lists(UPDATES, min_size=1, max_size=6), st.randoms(use_true_random=False), st.integers(0, 6))
def test_updates_sum_alike_in_any_order_and_any_grouping(updates: list[ModelUpdate], chance, cut: int) -> None:
    expected = summed(updates)
    mixed = list(updates)
    chance.shuffle(mixed)
    assert same(summed(mixed), expected)
    groups = [group for group in (mixed[:cut], mixed[cut:]) if group]
    assert same(summed([summed(group) for group in groups]), expected)
    assert same(total(mixed, LIKE), expected)


@given(st.lists(UPDATES, max_size=4))
def test_zeros_are_the_sum_over_nobody_and_change_no_sum(updates: list[ModelUpdate]) -> None:
    nobody = total([], LIKE)
    assert nobody.count == 0 and not any(array.any() for array in nobody.arrays.values())
    assert {name: array.shape for name, array in nobody.arrays.items()} == SHAPES
    assert same(total([*updates, nobody], LIKE), total(updates, LIKE))


@given(UPDATES, UPDATES)
def test_a_sum_keeps_nothing_of_what_it_was_given(one: ModelUpdate, other: ModelUpdate) -> None:
    before = {name: array.copy() for name, array in one.arrays.items()}
    found = UpdateSum()
    found.add(one)
    found.add(other)
    found.update().arrays["bias"][:] = 7
    assert all(np.array_equal(one.arrays[name], before[name]) for name in before)
    assert same(found.update(), summed([one, other]))


@given(st.lists(st.tuples(st.lists(st.integers(0, 5), unique=True, max_size=6), st.integers(-9, 9)), max_size=5))
def test_sparse_parts_sum_to_what_dense_ones_do(parts: list[tuple[list[int], int]]) -> None:
    sparse, dense = list[ModelUpdate](), list[ModelUpdate]()
    for index, value in parts:
        array = cells(np.array(index, np.int64), np.full(len(index), value, np.float32), (3, 2))
        assert isinstance(array, SparseArray)
        sparse.append(ModelUpdate({"item.weight": array}, 1))
        dense.append(ModelUpdate({"item.weight": np.asarray(array)}, 1))
    like = {"item.weight": LIKE["item.weight"]}
    assert same(total(sparse, like), total(dense, like))
    mixed = [sparse[n] if n % 2 else dense[n] for n in range(len(parts))]
    assert same(total(mixed, like), total(dense, like))


def test_a_sum_is_rounded_once_and_stays_double_where_it_came_so() -> None:
    small = ModelUpdate({"w": np.full(1, 2.0**-24, np.float32)}, 1)
    one = ModelUpdate({"w": np.ones(1, np.float32)}, 1)
    assert summed([one, *[small] * 4]).arrays["w"][0] == np.float32(1 + 2.0**-22)
    double = ModelUpdate({"w": np.array([1 + 2.0**-40])}, 1)  # pyright: ignore[reportArgumentType]
    found = summed([one, double]).arrays["w"]
    assert found.dtype == np.float64 and found[0] == 2 + 2.0**-40


@given(METRICS, METRICS, METRICS)
def test_metric_sums_are_a_commutative_monoid(a: MetricSums, b: MetricSums, c: MetricSums) -> None:
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(b) == b.merge(a)
    assert a.merge(MetricSums.zero()) == a == MetricSums.zero().merge(a)
    assert a.merge(b).count == a.count + b.count


@given(st.lists(METRICS, min_size=1, max_size=5))
def test_a_mean_over_groups_is_that_over_all_their_devices(groups: list[MetricSums]) -> None:
    whole = MetricSums.zero()
    for group in groups:
        whole = whole.merge(group)
    devices = sum(group.count for group in groups)
    names = {name for group in groups for name in group.values}
    expected = {n: sum(g.values.get(n, 0.0) for g in groups) / devices for n in names} if devices else {}
    assert whole.result() == pytest.approx(expected)


@given(COMPOSITIONS, COMPOSITIONS, COMPOSITIONS, st.integers(1, 5))
def test_compositions_are_a_commutative_monoid(a: Composition, b: Composition, c: Composition, n: int) -> None:
    def both(one: Composition, other: Composition) -> Composition:
        return compose([(one, 1), (other, 1)])

    assert both(both(a, b), c) == both(a, both(b, c))
    assert both(a, b) == both(b, a) and both(a, EMPTY) == a
    assert compose([(a, n)]) == compose([(a, 1)] * n)
    assert composition_from_json(composition_to_json(a)) == a


@given(st.floats(0.3, 20), st.sampled_from([0.05, 0.4, 1.0]), st.integers(1, 6), st.integers(1, 6))
def test_however_an_event_is_written_it_is_the_same_composition(z: float, rate: float, n: int, m: int) -> None:
    gaussian = GaussianDpEvent(z)
    one: DpEvent = PoissonSampledDpEvent(rate, gaussian) if rate < 1 else gaussian
    expected = frozenset({(z, rate, n * m)})
    for written in (
        [(one, n * m)],
        [(SelfComposedDpEvent(one, n), m)],
        [(SelfComposedDpEvent(SelfComposedDpEvent(one, n), m), 1)],
        [(ComposedDpEvent([one] * n), m)],
        [(one, n)] * m,
        [(one, n * m), (NoOpDpEvent(), 3)],
    ):
        assert compose_events(written) == expected


def test_what_the_accountant_has_no_argument_for_is_refused_by_name() -> None:
    inside = PoissonSampledDpEvent(0.5, PoissonSampledDpEvent(0.5, GaussianDpEvent(1.0)))
    for event in (inside, PoissonSampledDpEvent(0.5, SelfComposedDpEvent(GaussianDpEvent(1.0), 2))):
        with pytest.raises(FedrecError, match="no argument for PoissonSampled"):
            compose_events([(event, 1)])
    for z in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(FedrecError, match="a finite number above 0"):
            compose_events([(GaussianDpEvent(z), 1)])
    assert compute_epsilon(compose_events([(NonPrivateDpEvent(), 1), (GaussianDpEvent(1.0), 3)]), 1e-5) == math.inf


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return the exact delta of a Gaussian whose mean moves by mu deviations (Balle & Wang 2018, theorem 8)."""
    return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))


@pytest.mark.parametrize(("z", "times"), [(0.7, 1), (1.0, 4), (5.0, 30), (40.0, 1)])
@pytest.mark.parametrize("relation", list(Relation)[1:])
def test_without_sampling_epsilon_is_that_of_one_exact_gaussian(z: float, times: int, relation: Relation) -> None:
    mu = times**0.5 / z * (1 if relation == Relation.ADD_REMOVE else 2)
    found = compute_epsilon(frozenset({(z, 1.0, times)}), 1e-6, relation=relation)
    assert gaussian_delta(mu, found) <= 1e-6 * (1 + 1e-6)  # never below the truth
    assert gaussian_delta(mu, max(found - 2e-3 * (1 + found), 0)) > 1e-6 or found < 1e-3  # and close to it


@settings(max_examples=5)
@given(st.sampled_from([0.6, 1.0, 3.0]), st.sampled_from([0.02, 0.2, 1.0]), st.integers(1, 40))
def test_more_spends_more_and_every_bound_is_on_the_safe_side(z: float, rate: float, times: int) -> None:
    spent = compute_epsilon(frozenset({(z, rate, times)}), 1e-5, COARSE)
    assert spent <= compute_epsilon(frozenset({(z, rate, times + 1)}), 1e-5, COARSE)
    assert spent <= compute_epsilon(frozenset({(z * 0.9, rate, times)}), 1e-5, COARSE)
    assert spent <= compute_epsilon(frozenset({(z, rate, times)}), 1e-7, COARSE)
    assert spent <= compute_epsilon(frozenset({(z, rate, times)}), 1e-5, COARSE, Relation.REPLACE_ONE) + 1e-9
    fine = compute_epsilon(frozenset({(z, rate, times)}), 1e-5)
    assert fine <= spent <= fine + 1e-2 * (1 + fine)
    assert fine <= epsilon_bound([(z, rate, times)], 1e-5) * (1 + 1e-9), "Renyi's sums are never below the exact losses"
    assert running_epsilon(frozenset({(z, rate, times)}), 1e-5, spent) >= fine - 1e-12


@given(st.floats(0.4, 30), st.sampled_from([0.01, 0.3, 0.9]), st.integers(2, 60))
def test_the_divergence_of_a_sampled_gaussian_lies_between_nothing_and_the_whole(
    z: float, q: float, order: int
) -> None:
    sampled, whole = divergence(z, q, order), divergence(z, 1.0, order)
    assert -1e-12 <= sampled <= whole + 1e-12
    assert sampled <= divergence(z, min(1.0, q * 1.05), order) + 1e-12
    if order == 2:  # E_0[(1 - q + q L)^2] = 1 + q^2 (e^(1/z^2) - 1)
        assert sampled == pytest.approx(math.log1p(q * q * math.expm1(1 / z**2)), rel=1e-6, abs=1e-12)


@settings(max_examples=20)
@given(st.lists(PART, min_size=1, max_size=3), st.floats(1e-4, 0.5))
def test_an_attacker_finds_no_less_than_a_guess_and_more_with_every_part(
    parts: list[tuple[float, float, int]], alarms: float
) -> None:
    found = largest_tpr(parts, alarms)
    assert alarms - 1e-9 <= found <= 1
    assert found <= largest_tpr([*parts, (1.0, 1.0, 1)], alarms) + 1e-9
    assert largest_tpr([(0.0, 1.0, 1)], alarms) == 1.0


def test_a_delta_must_be_smaller_than_one_over_the_units() -> None:
    for units in (2, 943, 10**6):
        assert 0 < default_delta(units) <= min(1e-5, 1 / units)
        assert checked_delta(default_delta(units), units) == default_delta(units)
        for wrong in (0.0, 1 / units, 1.0, -1e-9, math.nan):
            with pytest.raises(FedrecError, match=r"privacy\.delta="):
                checked_delta(wrong, units)
    for wrong in (0.0, 1.0, 2.0):
        with pytest.raises(FedrecError, match=r"delta must lie in \(0, 1\)"):
            compute_epsilon(EMPTY, wrong)
