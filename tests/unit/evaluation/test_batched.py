"""Many devices evaluated at once against one after the other."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.interactions import DeviceTable
from fedrec.errors import FedrecError
from fedrec.evaluation import batched
from fedrec.evaluation.batched import evaluate_batch, evaluate_users, squared_errors, with_targets
from fedrec.evaluation.candidates import CandidateBook
from fedrec.evaluation.config import EvaluationConfig
from fedrec.evaluation.per_device import evaluate_device
from fedrec.evaluation.per_user import PerUserResults, table

ITEMS = 30
OPTIONS = EvaluationConfig(negatives=8)
Part = Literal["validation", "test"]


def population(generator: np.random.Generator, users: int, published: bool, repeats: bool = False) -> DeviceTable:
    """Devices with repeated items, with none, one and several items held out."""
    histories, validations, tests = (generator.integers(low, high, users) for low, high in ((1, 20), (0, 3), (0, 3)))
    counts = histories + validations + tests
    start = np.concatenate([[0], np.cumsum(counts)])
    return DeviceTable(
        start=start,
        validation_from=start[:-1] + histories,
        test_from=start[:-1] + histories + validations,
        item=generator.integers(0, ITEMS, counts.sum()).astype(np.int32),
        value=generator.random(counts.sum()).astype(np.float32),
        items=ITEMS,
        candidates=generator.integers(0, ITEMS, (users, 6)).astype(np.int32) if published else None,
        repeats=repeats,
    )


def one_by_one(scores: np.ndarray, devices: DeviceTable, part: Part, ratings: bool) -> PerUserResults:
    rows = [evaluate_device(line, devices[u], part, OPTIONS, ratings) for u, line in enumerate(scores)]
    return table([row for row in rows if row is not None], OPTIONS.cutoffs)


def together(scores: np.ndarray, devices: DeviceTable, part: Part) -> PerUserResults:
    book = CandidateBook(devices, OPTIONS)
    return evaluate_users(lambda users: scores[users], np.arange(len(devices)), part, book)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(["validation", "test"]),
    st.sampled_from([1, 3, 1000]),
    st.booleans(),
    st.booleans(),
)
def test_all_at_once_is_one_after_the_other(seed: int, part: Part, levels: int, published: bool, repeats: bool) -> None:
    generator = np.random.default_rng(seed)
    devices = population(generator, 17, published, repeats)
    scores = generator.integers(0, levels, (17, ITEMS)).astype(np.float32)  # few levels: many ties
    found, expected = together(scores, devices, part), one_by_one(scores, devices, part, False)
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column, err_msg=name)
        assert found[name].dtype == column.dtype, name


def test_squared_errors_are_those_of_each_device() -> None:
    generator = np.random.default_rng(0)
    devices = population(generator, 40, False)
    users = with_targets(devices, np.arange(40), "test")
    scores = generator.random((40, ITEMS)).astype(np.float32)
    expected = one_by_one(scores, devices, "test", True)["squared_error"]
    assert squared_errors(scores[users], devices, users) == pytest.approx(expected, rel=1e-12)


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    devices, scores = population(generator, 40, False), generator.random((40, ITEMS))
    whole = together(scores, devices, "test")
    monkeypatch.setattr(batched, "SCORES", 3 * ITEMS)
    for name, column in together(scores, devices, "test").items():
        np.testing.assert_array_equal(column, whole[name], err_msg=name)


def test_nobody_with_a_target_gives_an_empty_table() -> None:
    devices = population(np.random.default_rng(2), 3, False)
    book = CandidateBook(devices, OPTIONS)
    assert len(evaluate_users(lambda users: np.zeros((len(users), ITEMS)), np.arange(0), "test", book)["user"]) == 0


def test_wrong_scores_are_refused_with_model_and_device() -> None:
    devices = population(np.random.default_rng(3), 9, False)
    book, users = CandidateBook(devices, OPTIONS), with_targets(devices, np.arange(9), "test")
    scores = np.zeros((len(users), ITEMS))
    scores[1, 4] = np.nan
    with pytest.raises(FedrecError, match=f"scores of mf on device {users[1]}: 1 of 30"):
        evaluate_batch(scores, users, "test", book, "mf")
    with pytest.raises(FedrecError, match="one score per device and item"):
        evaluate_batch(np.zeros((len(users), 2)), users, "test", book, "mf")
