"""Closed forms and fast counts against slow oracles and values by hand: solvers, statistics, ranks, features, marks."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.algorithms.gram_matrix import bounded_gram, solve, unfolded_gram
from fedrec.algorithms.item_counts import bounded_counts
from fedrec.algorithms.transition_counts import flat_place, together, transitions, triangle
from fedrec.data.catalogue import Catalogue, position
from fedrec.data.interactions import DeviceTable
from fedrec.data.item_features import bumps, feature_blocks, feature_vectors
from fedrec.evaluation import baselines
from fedrec.evaluation.baselines.base import Scorer, over_head, pooled, stacked
from fedrec.evaluation.baselines.pooled import Weights, fit_ease, fit_ials, fit_item_knn
from fedrec.evaluation.metrics import Ranks, expected, full_ranks, pessimistic, ranks_many, sampled_ranks, top_items
from fedrec.evaluation.summary import intervals, paired_interval
from fedrec.messages import ModelUpdate
from fedrec.numpy_engine.models import sigmoid
from fedrec.numpy_engine.solver import LogitStep, SolveWeights, solve_user
from fedrec.privacy.clipping import NormClipper
from fedrec.privacy.guarantee import Unit
from fedrec.recommend.ranker import largest, recommend

ITEMS, DIM = 6, 3
HISTORY = st.lists(st.integers(0, ITEMS - 1), max_size=8).map(lambda items: np.array(items, np.int32))
SEEDS = st.integers(0, 10**6)


def devices(histories: list[list[int]], items: int = ITEMS) -> DeviceTable:
    start = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    item = np.array([item for history in histories for item in history], np.int32)
    return DeviceTable(start, start[1:], start[1:], item, np.ones(len(item), np.float32), items)


@given(SEEDS, st.integers(1, 5), st.floats(0, 2), st.floats(0.01, 2))
def test_the_solved_user_vector_is_where_the_gradient_vanishes(
    seed: int, n: int, unobserved: float, ridge: float
) -> None:
    rng = np.random.default_rng(seed)
    every, targets = rng.normal(size=(ITEMS, DIM)), rng.normal(size=n)
    used = every[rng.choice(ITEMS, n, replace=False)]
    found = solve_user(used, targets, every.T @ every, SolveWeights(unobserved, ridge))
    gradient = used.T @ (used @ found.user - targets) + unobserved * every.T @ (every @ found.user) + ridge * found.user
    np.testing.assert_allclose(gradient, 0, atol=1e-8)
    np.testing.assert_allclose(found.parts().sum(0), found.user, atol=1e-10)
    vector = rng.normal(size=DIM)
    np.testing.assert_allclose(found.item_contributions(vector), found.parts() @ vector, atol=1e-10)


@settings(max_examples=40)
@given(SEEDS, st.integers(1, ITEMS), st.floats(0.1, 4), st.floats(0.1, 3))
def test_the_logit_step_is_newtons_first_on_the_loss_that_it_names(
    seed: int, n: int, negatives: float, ridge: float
) -> None:
    rng = np.random.default_rng(seed)
    vectors, own = rng.normal(size=(ITEMS, DIM)), rng.normal(size=ITEMS)
    used, share = rng.choice(ITEMS, n, replace=False), negatives * n / ITEMS
    length = float((vectors**2).sum() / ITEMS)

    def gradient(user: np.ndarray) -> np.ndarray:
        logits = vectors @ user + own
        pulled = -vectors[used].T @ (1 - sigmoid(logits[used]))
        return pulled + share * vectors.T @ sigmoid(logits) + ridge * length * user

    at, step = gradient(np.zeros(DIM)), 1e-5
    hessian = np.stack([(gradient(step * e) - gradient(-step * e)) / (2 * step) for e in np.eye(DIM)])
    found = LogitStep(vectors, own, negatives, ridge).of(used)
    np.testing.assert_allclose(found.user, -np.linalg.solve(hessian, at), rtol=1e-4, atol=1e-6)


@given(
    HISTORY, st.lists(st.integers(0, ITEMS - 1), min_size=1, unique=True).map(sorted), st.sampled_from([0.5, 1.0, 2.0])
)
def test_a_gram_matrix_is_the_outer_product_over_the_head(history: np.ndarray, head: list[int], power: float) -> None:
    x = np.isin(head, history).astype(float)
    flat = np.asarray(bounded_gram(history, np.array(head), ITEMS, power), np.float64)
    np.testing.assert_allclose(unfolded_gram(flat, len(head)), np.outer(x, x) / max(x.sum(), 1) ** power)
    assert np.linalg.norm(flat) <= 1 + 1e-12 or power < 1


@given(HISTORY)
def test_counts_of_one_user_have_length_one_and_of_one_interaction_one_each(history: np.ndarray) -> None:
    counts = bounded_counts(history, ITEMS, Unit.USER)
    assert np.linalg.norm(counts) == pytest.approx(1.0 if len(history) else 0.0, abs=1e-6)
    assert set(np.flatnonzero(counts).tolist()) == set(history.tolist())
    each = bounded_counts(history, ITEMS, Unit.INTERACTION)
    assert np.flatnonzero(each).tolist() == sorted(set(history.tolist()))


def test_ease_of_two_items_by_hand() -> None:
    """Three users have both items of two: B = I - P diag(P)^-1 with P = (G + l I)^-1 and G = [[3, 3], [3, 3]]."""
    flat = np.array([3.0, 3.0, 3.0])
    assert solve(flat, 2, 1.0).round(12).tolist() == [[0, 0.5], [0.5, 0]]  # 3 / (3 + l), l the mean eigenvalue of 3
    fitted = fit_ease(devices([[0, 1]] * 3, 2), ridge=3.0)
    assert fitted.scores(np.array([0], np.int32)).round(12).tolist() == [0, 0.5]


@given(st.integers(2, 9))
def test_flat_places_of_pairs_count_up_without_a_gap(size: int) -> None:
    pairs = np.array(list(itertools.combinations(range(size), 2)))
    assert flat_place(pairs[:, 0], pairs[:, 1], size).tolist() == list(range(triangle(size)))
    assert flat_place(pairs[:, 1], pairs[:, 0], size).tolist() == list(range(triangle(size)))


@given(HISTORY, st.integers(1, 4), st.floats(0.1, 1))
def test_turning_a_history_round_turns_its_transitions_alone(history: np.ndarray, window: int, decay: float) -> None:
    places = history.astype(np.int64)
    forward, backward = (transitions(one, ITEMS, window, decay) for one in (places, places[::-1]))
    assert np.array_equal(forward.place, backward.place)
    np.testing.assert_allclose(forward.both, backward.both, atol=1e-12)
    np.testing.assert_allclose(forward.ascending, -backward.ascending, atol=1e-12)
    assert (np.abs(forward.ascending) <= forward.both + 1e-12).all()
    held = together(places, ITEMS)
    assert set(forward.place.tolist()) <= set(held.place.tolist())
    assert len(held.place) == triangle(len(set(history.tolist())))


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 3).map(float), min_size=ITEMS, max_size=ITEMS), min_size=1, max_size=4),
    st.data(),
)
def test_ranks_are_those_of_sorting_with_every_tie_in_every_order(rows: list[list[float]], data: st.DataObject) -> None:
    scores = np.array(rows)
    targets = np.array(data.draw(st.lists(st.integers(0, ITEMS - 1), min_size=len(rows), max_size=len(rows))))
    excluded = np.array(
        data.draw(
            st.lists(st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS), min_size=len(rows), max_size=len(rows))
        )
    )
    many = ranks_many(scores, targets, excluded)
    for n, (line, target) in enumerate(zip(scores, targets.tolist(), strict=True)):
        rivals = [i for i in range(ITEMS) if i != target and not excluded[n, i]]
        above, tied = sum(line[i] > line[target] for i in rivals), sum(line[i] == line[target] for i in rivals)
        assert (many.above[n], many.tied[n]) == (above, tied)
        one = full_ranks(line, np.array([target]), np.flatnonzero(excluded[n]))
        assert (one.above[0], one.tied[0]) == (above, tied)
        some = sampled_ranks(line, np.array([target]), np.array([*rivals, target], np.int64))
        assert (some.above[0], some.tied[0]) == (above, tied)
        for name, gain in (("hr", lambda r: 1.0), ("ndcg", lambda r: 1 / math.log2(r + 1)), ("mrr", lambda r: 1 / r)):
            for cutoff in (1, 3):
                possible = [gain(r) if r <= cutoff else 0.0 for r in range(above + 1, above + tied + 2)]
                assert expected(name, one, cutoff)[0] == pytest.approx(sum(possible) / len(possible))
                assert pessimistic(name, one, cutoff)[0] == pytest.approx(min(possible))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.sets(st.integers(0, 8)), st.integers(0, 9))
def test_a_list_is_the_best_that_is_left_in_order(scores: list[int], out: set[int], length: int) -> None:
    excluded = np.array(sorted(item for item in out if item < len(scores)), np.int64)
    best = top_items(np.array(scores, np.float64), excluded, length, np.random.default_rng(0)).tolist()
    left = sorted((score for item, score in enumerate(scores) if item not in excluded), reverse=True)
    assert [scores[item] for item in best] == left[:length]
    assert len(set(best)) == len(best) and not set(best) & set(excluded.tolist())
    order = largest(np.array(scores, float), length + 1).tolist()
    assert order == sorted(range(len(scores)), key=lambda item: -scores[item])[: length + 1]


def test_a_metric_of_many_ties_by_hand() -> None:
    ranks = Ranks(np.array([1]), np.array([2]))  # ranks 2, 3 or 4, each as likely
    assert expected("mrr", ranks, 3)[0] == pytest.approx((1 / 2 + 1 / 3) / 3)
    assert pessimistic("hr", ranks, 3)[0] == 0 and pessimistic("mrr", ranks, 4)[0] == 1 / 4


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.floats(-3, 3), st.floats(0.1, 4))
def test_intervals_move_and_stretch_with_their_values(values: list[float], shift: float, factor: float) -> None:
    column = np.array(values)
    one, other = intervals(np.stack([column, factor * column + shift], axis=1))
    assert one.low - 1e-12 <= one.mean <= one.high + 1e-12
    for name in ("mean", "low", "high"):
        assert getattr(other, name) == pytest.approx(factor * getattr(one, name) + shift, abs=1e-9)
    same = paired_interval(column, column)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


BASELINES = {
    **{name: (lambda table, name=name: baselines.fit(name, table)) for name in baselines.POOLED},
    "ease over a head": lambda table: over_head(lambda one: fit_ease(one, 2.0), table, 3),
    "item_knn, one neighbour": lambda table: fit_item_knn(table, 1.0, 1),
    "ials, two dimensions": lambda table: fit_ials(table, 2, 3, Weights(0.5, 0.1), seed=4),
}
TABLE = [[0, 1, 2], [1, 2], [2, 3, 4], [0, 4], [5, 2]]


@pytest.fixture(params=sorted(BASELINES))
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return BASELINES[request.param](devices(TABLE))


def test_a_baseline_scores_a_set_whatever_its_company(scorer: Scorer) -> None:
    histories = [np.array(h, np.int32) for h in ([1, 2], [2, 1, 1], [], [5], [0, 3, 4])]
    many = scorer.scores_many(histories)
    assert many.shape == (5, ITEMS) and many.dtype == np.float64 and np.isfinite(many).all()
    np.testing.assert_allclose(many[0], many[1], atol=1e-12)
    for line, history in zip(many, histories, strict=True):
        np.testing.assert_allclose(scorer.scores(history), line, atol=1e-12)
    np.testing.assert_allclose(scorer.scores_many(histories[::-1])[::-1], many, atol=1e-12)


def test_a_baseline_does_not_change_when_users_are_mixed(scorer: Scorer, request: pytest.FixtureRequest) -> None:
    """Which user has which number is of no matter to what is fitted (iALS starts from items, and sums over users)."""
    again = BASELINES[request.node.callspec.params["scorer"]](devices(TABLE[::-1]))
    history = np.array([2, 4], np.int32)
    np.testing.assert_allclose(again.scores(history), scorer.scores(history), atol=1e-9)


@given(st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=5), min_size=1, max_size=4))
def test_matrices_of_histories_hold_ones_where_something_was_used(histories: list[list[int]]) -> None:
    dense = np.zeros((len(histories), ITEMS))
    for row, history in zip(dense, histories, strict=True):
        row[history] = 1
    found = stacked([np.array(history, np.int32) for history in histories], ITEMS)
    assert np.array_equal(found.toarray(), dense) and found.data.dtype == np.float64
    assert np.array_equal(pooled(devices(histories)).toarray(), dense)


@settings(max_examples=60)
@given(SEEDS, st.floats(1e-3, 1e3), st.floats(0.05, 5), st.sampled_from(["whole", "split"]))
def test_clipping_keeps_directions_and_is_done_once(seed: int, scale: float, norm: float, grouping: str) -> None:
    rng = np.random.default_rng(seed)
    arrays = {name: (scale * rng.normal(size=4)).astype(np.float32) for name in ("item.weight", "fc.weight")}
    clipper = NormClipper(norm, grouping, 0.3)
    update = ModelUpdate(arrays, 1)
    once = clipper.clipped(update)
    assert once.norm() <= norm * (1 + 1e-6) and once.count == 1
    twice = clipper.clipped(once, 1e-5)
    for name, array in once.arrays.items():
        assert np.array_equal(twice.arrays[name], array), "what lies within its bounds stays as it is"
        bound = clipper.bounds["all" if grouping == "whole" else "items" if name.startswith("item") else "dense"]
        assert np.linalg.norm(array) <= bound * (1 + 1e-6)
        cosine = float(array @ arrays[name]) / (np.linalg.norm(array) * np.linalg.norm(arrays[name]))
        assert cosine == pytest.approx(1.0, abs=1e-5)
    assert sum(bound**2 for bound in clipper.bounds.values()) == pytest.approx(norm**2)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12), st.integers(1, 9))
def test_near_values_get_near_vectors(values: list[float], centres: int) -> None:
    column = np.array(values, np.float32)
    found = bumps(column, centres)
    assert found.shape == (len(values), centres) and ((found >= 0) & (found <= 1)).all()
    again = bumps(3 * column + 5, centres)
    np.testing.assert_allclose(found, again, atol=1e-3, err_msg="whatever the unit")
    for one, other in itertools.combinations(range(len(values)), 2):
        if column[one] == column[other]:
            assert np.array_equal(found[one], found[other])


def test_features_weigh_the_same_whatever_their_width() -> None:
    flags = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]], np.float32)
    features = np.concatenate([flags, position(3)], axis=1)
    names = np.array(["a", "b", "c"])
    catalogue = Catalogue(names, names, features, ("genre:x", "genre:y", "genre:z", "position"), "item file")
    genres, places = feature_blocks(catalogue, 5)
    assert genres.shape == (3, 3) and places.shape == (3, 5)
    np.testing.assert_allclose(np.linalg.norm(genres, axis=1), [1, 1, 0])
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1)
    vectors = feature_vectors(catalogue, 5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(vectors[0, :3], np.array([1, 0, 1]) / 2, rtol=1e-6)


class Fixed:
    """A ranker of given scores and a history."""

    def __init__(self, scores: list[float], history: list[int]) -> None:
        self._scores, self._history = np.array(scores), np.array(history, np.int64)

    @property
    def history(self) -> np.ndarray:
        return self._history

    def scores(self) -> np.ndarray:
        return self._scores

    def item_contributions(self, item: int) -> None:
        return None


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=8), st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)))
def test_recommendations_leave_out_what_was_used_and_what_is_named(
    scores: list[float], used: set[int], without: set[int]
) -> None:
    inside = [[item for item in sorted(some) if item < len(scores)] for some in (used, without)]
    found = recommend(Fixed(scores, inside[0]), 8, np.array(inside[1], np.int64))
    assert not {one.item for one in found} & {*inside[0], *inside[1]}
    assert len(found) == len(set(range(len(scores))) - {*inside[0], *inside[1]})
    told = [one.score for one in found]
    assert told == sorted(told, reverse=True) and told == [scores[one.item] for one in found]
