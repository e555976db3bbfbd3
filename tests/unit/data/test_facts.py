"""What is seen in rows, and which of it is told as suspicious, with the setting that answers it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.data.dataset import Dataset
from fedrec.data.facts import Facts, Ratings
from fedrec.data.io.table import Tokens
from fedrec.data.prepare import BY_FILE, BY_TIME, PrepareOptions, prepare_dataset
from fedrec.data.sources import Rows, SourceOptions

ANSWER = "dataset.order=random"


def dataset(
    histories: list[list[int]],
    times: Sequence[Sequence[int]] | None = None,
    values: Sequence[float] | None = None,
    **options: str,
) -> Dataset:
    """Return the data set of users who used these items, at these times."""
    user = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
    item = np.array([one for items in histories for one in items])
    time = None if times is None else np.array([one for some in times for one in some], np.int64)
    value = None if values is None else np.array(values, float)
    names = tuple(f"i{n:03}" for n in range(item.max() + 1))
    rows = Rows(Tokens(user, tuple(f"u{n}" for n in range(len(histories)))), Tokens(item, names), time, value, str)
    return prepare_dataset(rows, SourceOptions(**options), PrepareOptions("f"))  # pyright: ignore[reportArgumentType]


def facts_of(data: Dataset) -> Facts:
    assert data.facts is not None
    return data.facts


def told(data: Dataset) -> str:
    return "\n".join(f"{one.text} -> {one.setting}" for one in data.findings)


def mixed(users: int, length: int, seed: int = 1) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.permutation(40)[:length].tolist() for _ in range(users)]


def test_rows_in_the_order_of_their_times_are_beyond_suspicion() -> None:
    data = dataset(mixed(6, 8), [list(range(8))] * 6)
    assert data.findings == () and data.split == BY_TIME
    facts = facts_of(data)
    assert (facts.rows, facts.interactions, facts.users, facts.order, facts.times) == (48, 48, 6, "time", (0, 7))
    assert (facts.tied, facts.tested, facts.undecided, facts.sorted_by) == (0, 6, 0, "")
    assert facts.histories == (8, 8, 8, 8)


def test_equal_times_are_not_called_the_last() -> None:
    data = dataset(mixed(4, 6), [[7] * 6] * 4)
    assert data.split.startswith(BY_FILE) and "last in time" not in data.split
    assert "all times are equal: 24 of 24 rows share their time" in told(data) and ANSWER in told(data)
    assert "what is held out for 4 of 4 users" in told(data)


def test_some_ties_are_told_with_how_many_users_they_decide_for() -> None:
    times = [[1, 2, 3, 4, 5, 5], *[list(range(6))] * 3]
    data = dataset(mixed(4, 6), times)
    assert data.split == BY_TIME and "2 of 24 rows share their time" in told(data) and "for 1 of 4 users" in told(data)
    most = dataset(mixed(4, 6), [*[[1, 2, 3, 4, 5, 5]] * 3, [1, 2, 3, 4, 5, 6]])
    assert most.split == f"{BY_FILE} for 3 of 4 users, whose last times are equal, else by time"
    early = dataset(mixed(4, 6), [[1, 1, 3, 4, 5, 6]] * 4)
    assert early.split == BY_TIME and not early.findings and facts_of(early).tied == 8


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=4))
def test_ties_are_those_of_a_plain_loop(times: list[list[int]]) -> None:
    data = dataset([list(range(len(some))) for some in times], times)
    assert facts_of(data).tied == sum(some.count(one) > 1 for some in times for one in some)
    assert facts_of(data).undecided == sum(len(some) > 1 and sorted(some)[-2] == max(some) for some in times)
    assert facts_of(data).tested == sum(len(some) > 1 for some in times)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("timed", [False, True])
def test_a_file_sorted_by_item_is_no_order_of_time(backwards: bool, timed: bool) -> None:
    histories = [sorted(items, reverse=backwards) for items in mixed(5, 6)]
    data = dataset(histories, [[3] * 6] * 5 if timed else None)
    assert "a user's rows stand by item" in told(data) and ANSWER in told(data)
    asked = dataset(histories, order="random")
    assert not asked.findings and facts_of(asked).sorted_by == ""


def test_a_file_sorted_by_rating_is_no_order_of_time() -> None:
    data = dataset(mixed(5, 6), values=[6.0, 5, 4, 3, 2, 1] * 5)
    assert "a user's rows stand by rating" in told(data)


def test_a_file_in_no_order_that_is_seen_is_taken_for_time_in_silence() -> None:
    assert not dataset(mixed(5, 6)).findings
    assert not dataset([[0, 1, 2], [1, 2, 3]]).findings, "too little to tell"


@pytest.mark.parametrize(
    ("values", "said", "setting"),
    [
        ([-10, 3, 0, 8, 2, 9], "from -10 to 9, and all count as likes: 0 of 1 held-out items", "dataset.threshold=2"),
        (
            [1, 0, 1, 1, 0, 0],
            "0 of 1 held-out items are rated below 0, 1 at 0",
            "=1",
        ),
        ([5, 4, 5, 1, 3, 4], "from 1 to 5, and all count as likes: 17% of them are 1 or less", "dataset.threshold=4"),
        ([4, 0.5, 5, 4.5, 4, 2], "from 0.5 to 5, and all count as likes", "dataset.threshold=4"),
        ([1, 1, 1, 7, 3, 2], "", ""),
        ([1, 1, 1, 1, 1, 1], "", ""),
        ([812, 13, 7, 3, 4, 2], "", ""),
    ],
)
def test_values_that_can_not_all_be_likes_name_the_threshold(values: list[float], said: str, setting: str) -> None:
    data = dataset([[3, 1, 2, 0, 5, 4]], [list(range(6))], values)
    found = [one for one in data.findings if "likes" in one.text]
    assert bool(found) == bool(said)
    assert all(said in one.text and setting in one.setting for one in found)
    again = dataset([[3, 1, 2, 0, 5, 4]], [list(range(6))], values, threshold=1)  # pyright: ignore[reportArgumentType]
    assert not any("likes" in one.text for one in again.findings)


def test_many_values_are_no_scale() -> None:
    seen = Ratings.of(np.arange(100.0) - 20)
    assert seen.scale == () and (seen.low, seen.high, seen.negative, seen.zeros) == (-20, 79, 20, 1)
    assert seen.likes_from == 1 and replace(seen, low=3).likes_from is None


def test_nothing_left_to_rank_against_is_told() -> None:
    alone = dataset([[0, 1, 2]], [[0, 1, 2]])
    assert "there is one user, whose held-out item has no rivals" in told(alone)
    two = dataset([[0, 1, 2], [0, 1]], [[0, 1, 2], [0, 1]])
    assert "1 users' held-out item has no rivals" in told(two) and facts_of(two).unrivalled == 1
