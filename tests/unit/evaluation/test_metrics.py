"""Ranks, metrics and their ties: by hand, by enumeration, and for models whose expectation is known."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import FedrecError
from fedrec.evaluation.metrics import (
    MetricSums,
    Ranks,
    check_scores,
    device_sums,
    expected,
    full_ranks,
    pessimistic,
    ranking_metrics,
    ranks_many,
    sampled_ranks,
    top_items,
)

GENERATOR = np.random.default_rng


def ranks(above: int, tied: int) -> Ranks:
    return Ranks(np.array([above]), np.array([tied]))


def by_enumeration(name: str, above: int, tied: int, cutoff: int) -> float:
    """The mean of the metric over every order of the tied items, the target the last of them."""
    orders = list(itertools.permutations(range(tied + 1)))
    total = 0.0
    for order in orders:
        rank = above + 1 + order.index(tied)
        gain = {"hr": 1.0, "ndcg": 1 / math.log2(rank + 1), "mrr": 1 / rank}[name]
        total += gain if rank <= cutoff else 0.0
    return total / len(orders)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["hr", "ndcg", "mrr"]), st.integers(0, 12), st.integers(0, 5), st.integers(1, 12))
def test_the_expectation_is_the_mean_over_all_orders_of_the_tied(name: str, above: int, tied: int, cutoff: int) -> None:
    assert expected(name, ranks(above, tied), cutoff)[0] == pytest.approx(
        by_enumeration(name, above, tied, cutoff), abs=1e-12
    )


def test_golden_values_by_hand() -> None:
    found = ranking_metrics(Ranks(np.array([0, 2, 9, 10]), np.zeros(4, np.int64)), (10,))
    assert found["hr@10"].tolist() == [1, 1, 1, 0]
    assert found["ndcg@10"] == pytest.approx([1, 0.5, 1 / math.log2(11), 0])
    assert found["mrr@10"] == pytest.approx([1, 1 / 3, 0.1, 0])
    assert expected("hr", ranks(8, 3), 10)[0] == pytest.approx(0.5)
    assert expected("mrr", ranks(0, 1), 5)[0] == pytest.approx(0.75)


def test_ties_count_against_the_target_where_asked_to() -> None:
    assert pessimistic("hr", ranks(0, 10), 10)[0] == 0
    assert pessimistic("ndcg", ranks(0, 2), 10)[0] == pytest.approx(0.5)


def test_a_constant_model_stands_where_chance_stands() -> None:
    found = sampled_ranks(np.zeros(200), np.array([7]), np.arange(100, 199))
    assert expected("hr", found, 10)[0] == pytest.approx(0.1)
    assert expected("ndcg", found, 10)[0] == pytest.approx(0.0454, abs=5e-5)
    # 200 items, all tied: one relevant item earns a 200th of the discounts that fit into the list.
    full = full_ranks(np.zeros(200), np.array([7]), np.empty(0, np.int32))
    assert expected("ndcg", full, 10)[0] == pytest.approx(sum(1 / math.log2(r + 1) for r in range(1, 11)) / 200)


def test_a_random_model_stands_where_chance_stands() -> None:
    generator = GENERATOR(0)
    found = ranks_many(generator.random((20_000, 100)), np.zeros(20_000, np.int64), np.zeros((20_000, 100), bool))
    assert expected("hr", found, 10).mean() == pytest.approx(0.1, abs=0.007)
    assert expected("ndcg", found, 10).mean() == pytest.approx(0.0454, abs=0.004)


def test_the_perfect_model_reversed_gets_nothing() -> None:
    scores = np.zeros(30)
    scores[3] = 1
    assert ranking_metrics(full_ranks(scores, np.array([3]), np.array([1])), (5,))["hr@5"].tolist() == [1]
    assert ranking_metrics(full_ranks(-scores, np.array([3]), np.array([1])), (5,))["hr@5"].tolist() == [0]


def test_known_items_and_other_targets_are_no_rivals() -> None:
    scores = np.array([5.0, 4.0, 3.0, 2.0, 2.0, 1.0])
    found = full_ranks(scores, np.array([2, 3]), np.array([0]))
    assert (found.above.tolist(), found.tied.tolist()) == ([1, 1], [0, 1])
    again = full_ranks(scores, np.array([3]), np.array([0, 3]))
    assert (again.above.tolist(), again.tied.tolist()) == ([2], [1]), "a target consumed before is still ranked"


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_the_batch_and_the_sort_agree_with_the_loop(seed: int) -> None:
    generator = GENERATOR(seed)
    scores = generator.integers(0, 6, (8, 25)).astype(np.float32)
    targets, excluded = generator.integers(0, 25, 8), generator.random((8, 25)) < 0.3
    batch = ranks_many(scores, targets, excluded)
    for row, target in enumerate(targets):
        one = full_ranks(scores[row], np.array([target]), np.flatnonzero(excluded[row]))
        assert (one.above[0], one.tied[0]) == (batch.above[row], batch.tied[row])
        rivals = np.delete(scores[row], np.union1d(np.flatnonzero(excluded[row]), target))
        assert one.above[0] == np.searchsorted(np.sort(-rivals), -scores[row, target], "left")


def test_the_order_of_candidates_is_no_matter() -> None:
    generator = GENERATOR(1)
    scores, candidates = generator.integers(0, 9, 60).astype(np.float64), np.arange(10, 60)
    one = ranking_metrics(sampled_ranks(scores, np.array([3, 5]), candidates), (5, 10))
    other = ranking_metrics(sampled_ranks(scores, np.array([3, 5]), generator.permutation(candidates)), (5, 10))
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_an_error(wrong: float) -> None:
    scores = np.zeros((3, 4))
    scores[1, 2] = wrong
    with pytest.raises(FedrecError, match=r"mf: 1 of 12 scores .* \[1, 2\]"):
        check_scores(scores, "mf")


def test_the_list_is_the_best_without_what_is_known_and_ties_are_drawn() -> None:
    assert top_items(np.array([1.0, 9.0, 5.0, 7.0]), np.array([1]), 2, GENERATOR(0)).tolist() == [3, 2]
    assert len(top_items(np.array([1.0, 2.0]), np.array([0, 1]), 2, GENERATOR(0))) == 0
    drawn = [top_items(np.zeros(50), np.array([4]), 10, GENERATOR(seed)) for seed in range(200)]
    assert all(len(set(one.tolist()) - {4}) == 10 for one in drawn)
    assert len(np.unique(np.concatenate(drawn))) == 49


SUMS = st.builds(MetricSums, st.dictionaries(st.sampled_from("abc"), st.integers(-9, 9).map(float)), st.integers(0, 5))


@settings(deadline=None)
@given(SUMS, SUMS, SUMS)
def test_sums_merge_in_any_order(a: MetricSums, b: MetricSums, c: MetricSums) -> None:
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(MetricSums.zero()) == a == MetricSums.zero().merge(a)


def test_nobody_counted_is_no_result() -> None:
    assert MetricSums({"hr@10": 0.5}, 0).result() == {} == MetricSums.zero().result()


def test_sums_of_devices_are_the_means_over_users() -> None:
    both = device_sums(Ranks(np.array([0, 30]), np.zeros(2, np.int64)), (5, 10, 20)).merge(
        device_sums(ranks(0, 0), (5, 10, 20))
    )
    assert both.count == 2
    assert both.result()["hr@10"] == pytest.approx(0.75)
    assert list(both.values) == [f"{name}@{cutoff}" for cutoff in (5, 10, 20) for name in ("hr", "ndcg", "mrr")]
    assert MetricSums.zero().result() == {}
