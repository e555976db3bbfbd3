"""What every ranker promises whoever asks for recommendations, with torch and without: one answer for one history."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrec.errors import FedrecError
from fedrec.messages import Arrays
from fedrec.models.mf import MatrixFactorization
from fedrec.models.neumf import NeuMF
from fedrec.models.popularity import Popularity
from fedrec.recommend.model_ranker import ModelRanker
from fedrec.recommend.numpy_ranker import FixedRanker, LinearRanker, RankerFactory
from fedrec.recommend.ranker import Explainer, UserRanker, explain, recommend
from fedrec.testing.models import ITEMS, catalogue

PUBLIC = catalogue(ITEMS)
SETTINGS: dict[str, dict[str, Any]] = {
    "mf": {"_target_": "fedrec.models.mf.MatrixFactorization", "_partial_": True, "dim": 3},
    "mf of ratings": {
        "_target_": "fedrec.models.mf.MatrixFactorization", "_partial_": True, "dim": 3, "loss": "mse", "offset": 3.0
    },
    "neumf": {"_target_": "fedrec.models.neumf.NeuMF", "_partial_": True, "dim": 3, "layers": [4]},
}  # fmt: skip
TORCH = {"mf": MatrixFactorization, "mf of ratings": MatrixFactorization, "neumf": NeuMF}
HISTORIES = st.lists(st.integers(0, ITEMS - 1), max_size=2 * ITEMS).map(lambda rows: np.array(rows, np.int64))


def shared_of(name: str) -> Arrays:
    """Return what devices would have received: drawn, the same each time."""
    like, rng = RankerFactory(SETTINGS[name], ITEMS, {}).model.shared_arrays(), np.random.default_rng(5)
    return {key: rng.normal(0, 0.5, array.shape).astype(np.float32) for key, array in like.items()}


def factory(name: str) -> RankerFactory:
    return RankerFactory(SETTINGS[name], ITEMS, shared_of(name))


def with_torch(name: str, history: np.ndarray) -> ModelRanker:
    """Return the torch twin of a light ranker, its private arrays those that the history asked for there."""
    sizes = {key: value for key, value in SETTINGS[name].items() if not key.startswith("_")}
    model = TORCH[name](PUBLIC, **sizes)
    model.load({**shared_of(name), **factory(name).private(history)})
    return ModelRanker(model, history)


def popular(history: np.ndarray) -> ModelRanker:
    """Return the most popular items, no two alike."""
    model = Popularity(PUBLIC)
    model.load({"counts": np.arange(ITEMS, dtype=np.float32)[::-1].copy()})
    return ModelRanker(model, history)


RANKERS: dict[str, Callable[[np.ndarray], UserRanker]] = {
    **{name: lambda history, name=name: factory(name).ranker(history) for name in SETTINGS},
    **{f"{name}, torch": lambda history, name=name: with_torch(name, history) for name in SETTINGS},
    "popularity, torch": popular,
}


every = pytest.mark.parametrize("build", RANKERS.values(), ids=RANKERS.keys())
few = settings(max_examples=30)


@every
@few
@given(history=HISTORIES, k=st.integers(1, 2 * ITEMS))
def test_the_best_of_what_is_left_and_no_more_than_is_left(
    build: Callable[[np.ndarray], UserRanker], history: np.ndarray, k: int
) -> None:
    ranker = build(history)
    scores, found = ranker.scores(), recommend(ranker, k)
    assert scores.shape == (ITEMS,) and np.isfinite(scores).all()
    left = np.setdiff1d(np.arange(ITEMS), history)
    assert len({one.item for one in found}) == len(found) == min(k, len(left))
    assert {one.item for one in found} <= set(left.tolist())
    assert [one.score for one in found] == np.sort(scores[left])[::-1][:k].tolist()
    assert [one.score for one in found] == [float(scores[one.item]) for one in found]


@every
@few
@given(history=HISTORIES, without=HISTORIES)
def test_more_can_be_left_out_and_the_order_of_the_rest_stays(
    build: Callable[[np.ndarray], UserRanker], history: np.ndarray, without: np.ndarray
) -> None:
    ranker = build(history)
    whole, found = recommend(ranker, ITEMS), recommend(ranker, ITEMS, without)
    assert [one.score for one in found] == [one.score for one in whole if one.item not in without]
    assert not {one.item for one in found} & {*history.tolist(), *without.tolist()}


@every
@few
@given(history=HISTORIES)
def test_the_history_is_kept_as_it_was_given_and_asking_twice_gives_the_same(
    build: Callable[[np.ndarray], UserRanker], history: np.ndarray
) -> None:
    before, ranker = history.copy(), build(history)
    first = ranker.scores().copy()
    assert recommend(ranker, 3) == recommend(ranker, 3)
    assert np.array_equal(ranker.history, before) and np.array_equal(history, before)
    assert np.array_equal(ranker.scores(), first) and np.array_equal(build(history).scores(), first)


@every
@few
@given(history=HISTORIES, item=st.integers(0, ITEMS - 1))
def test_shares_are_one_for_each_item_used_or_none_at_all(
    build: Callable[[np.ndarray], UserRanker], history: np.ndarray, item: int
) -> None:
    ranker = build(history)
    shares, told = ranker.item_contributions(item), Explainer(ranker).of(item, most=2)
    assert (shares is None) == (told is None)
    if shares is None or told is None:
        with pytest.raises(FedrecError, match="can't say why"):
            explain(ranker, item)
        return
    assert shares.shape == history.shape and len(told.reasons) == min(2, len(np.unique(history)))
    whole = told.own + sum(reason.share for reason in told.reasons) + told.others
    assert whole == pytest.approx(float(ranker.scores()[item]), abs=1e-4)


@every
@few
@given(history=HISTORIES, unknown=st.integers(-3, -1) | st.integers(ITEMS, ITEMS + 3))
def test_a_row_that_is_no_item_is_refused_wherever_it_stands(
    build: Callable[[np.ndarray], UserRanker], history: np.ndarray, unknown: int
) -> None:
    """A negative row would silently count from the end of the catalogue."""
    ranker, said = build(history), f"item row {unknown} does not exist: the catalogue has rows 0 to {ITEMS - 1}"
    for ask in (
        lambda: build(np.append(history, unknown)),
        lambda: recommend(ranker, 3, np.array([unknown])),
        lambda: Explainer(ranker).of(unknown),
        lambda: explain(ranker, unknown),
    ):
        with pytest.raises(FedrecError) as refusal:
            ask()
        assert str(refusal.value) == said


class Own:
    """A ranker of somebody's own, which knows nothing of ours: items by their row, the last first."""

    def __init__(self, history: np.ndarray) -> None:
        self.history = history

    def scores(self) -> np.ndarray:
        return np.arange(ITEMS, dtype=np.float64)

    def item_contributions(self, item: int) -> None:
        return None


def test_a_ranker_of_ones_own_is_served_and_checked_like_ours() -> None:
    assert [one.item for one in recommend(Own(np.array([ITEMS - 1])), 2)] == [ITEMS - 2, ITEMS - 3]
    with pytest.raises(FedrecError, match="item row 40 does not exist"):
        recommend(Own(np.array([40])), 2)
    with pytest.raises(FedrecError, match="item row -1 does not exist"):
        explain(Own(np.array([3])), -1)


@pytest.mark.parametrize("name", SETTINGS)
@few
@given(history=HISTORIES)
def test_torch_and_numpy_rank_alike(name: str, history: np.ndarray) -> None:
    light, heavy = factory(name).ranker(history), with_torch(name, history)
    np.testing.assert_allclose(light.scores(), heavy.scores(), atol=2e-5)
    for one, other in zip(recommend(light, ITEMS), recommend(heavy, ITEMS), strict=True):
        assert one.item == other.item or one.score == pytest.approx(other.score, abs=4e-5)


@pytest.mark.parametrize("name", ["mf", "mf of ratings"])
@few
@given(history=HISTORIES, seed=st.integers(0, 99))
def test_a_linear_ranker_does_not_care_in_which_order_items_were_used(
    name: str, history: np.ndarray, seed: int
) -> None:
    one, other = factory(name).ranker(history), factory(name).ranker(np.random.default_rng(seed).permutation(history))
    np.testing.assert_allclose(one.scores(), other.scores(), atol=1e-5)


@given(scores=arrays(np.float64, ITEMS, elements=st.integers(0, 3).map(float)), k=st.integers(1, ITEMS))
def test_items_tied_at_the_end_are_drawn_and_those_above_are_all_there(scores: np.ndarray, k: int) -> None:
    found = recommend(FixedRanker(np.empty(0, np.int64), scores), k)
    last = found[-1].score
    assert {one.item for one in found if one.score > last} == set(np.flatnonzero(scores > last).tolist())
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_among_many_ties_it_is_not_the_first_rows_that_win() -> None:
    found = recommend(FixedRanker(np.empty(0, np.int64), np.zeros(1000)), 10)
    assert max(one.item for one in found) > 100


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_broken_model_is_refused_before_anything_is_recommended(wrong: float) -> None:
    scores = np.zeros(ITEMS)
    scores[4] = wrong
    with pytest.raises(FedrecError, match=r"the scores of this device: 1 of 12 scores are NaN or infinite.*\[4\]"):
        recommend(FixedRanker(np.array([4]), scores), 3)


def test_what_was_never_used_has_scores_of_its_own_and_no_reasons() -> None:
    nobody = factory("mf").ranker(np.empty(0, np.int64))
    assert isinstance(nobody, LinearRanker)
    np.testing.assert_array_equal(nobody.scores(), nobody.own)
    told = explain(nobody, 3)
    assert told.reasons == () and told.others == 0 and told.own == told.score


def test_torch_keeps_no_gradient_for_a_ranking() -> None:
    ranker = with_torch("neumf", np.array([1, 2]))
    ranker.scores()
    assert all(parameter.grad is None for parameter in ranker.model.parameters()) and torch.is_grad_enabled()
