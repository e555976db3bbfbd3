"""The options, the candidates and the evaluation of one device."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError
from fedrec.evaluation.candidates import digest, draw
from fedrec.evaluation.config import EvaluationConfig
from fedrec.evaluation.per_device import Part, evaluate_device, history_of

OPTIONS = EvaluationConfig(negatives=20)


def device(user: int = 3, history: tuple[int, ...] = (0, 1, 2), test: tuple[int, ...] = (4,)) -> DeviceData:
    return DeviceData(
        user=user,
        history=np.array(history, np.int32),
        values=np.ones(len(history), np.float32),
        validation=np.array([3], np.int32),
        test=np.array(test, np.int32),
        test_values=np.full(len(test), 4.0, np.float32),
    )


def test_candidates_are_apart_distinct_and_never_used_items() -> None:
    test, validation = draw(device(), 100, OPTIONS)
    assert len(test) == len(validation) == 20
    assert len(np.unique(np.concatenate([test, validation, np.arange(5)]))) == 45


def test_candidates_depend_on_seed_and_user_only() -> None:
    test, _ = draw(device(), 100, OPTIONS)
    joined = replace(device(), history=np.array([2, 0, 1, 3], np.int32), validation=np.empty(0, np.int32))
    assert np.array_equal(test, draw(joined, 100, OPTIONS)[0]), "refitting draws no other candidates"
    assert not np.array_equal(test, draw(device(user=4), 100, OPTIONS)[0])
    assert not np.array_equal(test, draw(device(), 100, replace(OPTIONS, seed=1))[0])


def test_candidates_are_uniform_over_what_is_left() -> None:
    drawn = np.concatenate([draw(device(user), 55, OPTIONS)[0] for user in range(500)])
    counts = np.bincount(drawn, minlength=55)
    assert counts[:5].sum() == 0
    assert counts[5:].min() > 140 and counts[5:].max() < 260  # 200 expected, standard deviation 11


def test_a_small_catalogue_is_shared_out_in_halves() -> None:
    test, validation = draw(device(), 16, OPTIONS)
    assert (len(test), len(validation)) == (5, 5)
    assert set(test) | set(validation) <= set(range(5, 16))


def test_published_candidates_are_taken_for_the_test_and_kept_from_the_validation() -> None:
    published = np.arange(5, 25, dtype=np.int32)
    test, validation = draw(replace(device(), candidates=published), 60, OPTIONS)
    assert np.array_equal(test, published)
    assert len(validation) == 20 and validation.min() >= 25


def test_the_digest_is_of_sets_in_the_order_of_devices() -> None:
    assert digest([np.array([1, 2]), np.array([3])]) == digest([np.array([2, 1]), np.array([3], np.int32)])
    assert digest([np.array([1, 2]), np.array([3])]) != digest([np.array([1]), np.array([2, 3])])
    said = b"".join(number.to_bytes(size, "little") for number, size in ((2, 8), (1, 4), (2, 4), (1, 8), (3, 4)))
    assert digest([np.array([2, 1]), np.array([3])]) == hashlib.sha256(said).hexdigest()


def test_a_device_ranks_from_what_came_before() -> None:
    one = device()
    assert history_of(one, "validation").tolist() == one.history.tolist()
    assert history_of(one, "test").tolist() == [*one.history, *one.validation]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_what_was_known_before_the_target_is_left_out(part: Part) -> None:
    scores = np.arange(10.0)[::-1].copy()
    scores[[3, 4]] = -1, -2
    row = evaluate_device(scores, device(), part, OPTIONS)
    assert row is not None
    assert row.full.above.tolist() == [5], (
        "items 5 to 9; in the test item 3 is known, in the validation it is the target"
    )
    assert row.top.tolist() == [5, 6, 7, 8, 9, *([3, 4] if part == "validation" else [4])]


def test_the_validation_does_not_look_at_the_test_item() -> None:
    scores = np.random.default_rng(0).random(50)
    one = evaluate_device(scores, device(test=(4,)), "validation", OPTIONS)
    other = evaluate_device(scores, device(test=(9,)), "validation", OPTIONS)
    assert one is not None and other is not None
    assert np.array_equal(one.full.above, other.full.above) and np.array_equal(one.top, other.top)


def test_several_targets_count_with_their_mean() -> None:
    scores = np.zeros(60)
    scores[[4, 5]] = [9, -9]
    row = evaluate_device(scores, device(test=(4, 5)), "test", OPTIONS)
    assert row is not None
    assert row.sums((10,))["full"].values["hr@10"] == pytest.approx(0.5)
    assert row.sums((10,))["sampled"].count == 1


def test_no_target_no_row_and_ratings_have_an_error() -> None:
    assert evaluate_device(np.zeros(9), device(test=()), "test", OPTIONS) is None
    row = evaluate_device(np.full(9, 3.0), device(), "test", OPTIONS, ratings=True)
    assert row is not None and row.squared_error == 1.0


def test_scores_that_are_wrong_are_refused_with_model_and_device() -> None:
    with pytest.raises(FedrecError, match="scores of mf on device 3: 1 of 9"):
        evaluate_device(np.array([0.0] * 8 + [np.nan]), device(), "test", OPTIONS, model="mf")
    with pytest.raises(FedrecError, match=r"shape \(4,\)"):
        evaluate_device(np.zeros(4), device(), "test", OPTIONS)


def test_the_options_refuse_what_makes_no_sense() -> None:
    assert EvaluationConfig(cutoffs=[20, 10]).cutoffs == (10, 20)  # pyright: ignore[reportArgumentType]
    with pytest.raises(FedrecError, match="Did you mean 'popularity'"):
        EvaluationConfig(baselines=("popularty",))
    unfit: tuple[dict[str, Any], ...] = (
        {"cutoffs": (5,)},
        {"negatives": 0},
        {"users": 0},
        {"select": "first"},
    )
    for wrong in unfit:
        with pytest.raises(FedrecError, match=f"evaluation.{next(iter(wrong))}"):
            EvaluationConfig(**wrong)
    assert EvaluationConfig(users=5).chosen(100).tolist() == sorted(set(EvaluationConfig(users=5).chosen(100).tolist()))
    assert len(EvaluationConfig(users=5).chosen(3)) == 3


def test_a_known_target_competes_with_all_else_that_is_known_where_items_come_again() -> None:
    """The device has bought 0, 1, 2 and 3, and buys 1 again: two of them rank above it."""
    again = replace(device(test=(1,)), repeats=True)
    scores = np.zeros(50, np.float32)
    scores[[0, 1, 2, 3]] = [4, 2, 3, 1]
    row = evaluate_device(scores, again, "test", OPTIONS)
    assert row is not None and (row.full.above.tolist(), row.full.tied.tolist()) == ([2], [0])
    assert row.top[:4].tolist() == [0, 2, 1, 3], "what is known may be recommended"
    new = evaluate_device(scores, replace(device(), repeats=True), "test", OPTIONS)
    assert new is not None and new.full.above.tolist() == [4], "nothing is left out for a target that is new, either"


def test_candidates_are_any_items_but_the_targets_where_items_come_again() -> None:
    kept = replace(device(), repeats=True)
    drawn = np.concatenate([draw(replace(kept, user=user), 55, OPTIONS)[0] for user in range(300)])
    counts = np.bincount(drawn, minlength=55)
    assert counts[3] == counts[4] == 0 and np.delete(counts, [3, 4]).min() > 70  # 113 expected
    joined = replace(kept, history=np.array([0, 1, 2, 3], np.int32), validation=np.empty(0, np.int32))
    assert np.array_equal(draw(kept, 55, OPTIONS)[0], draw(joined, 55, OPTIONS)[0]), "refitting draws no others"
