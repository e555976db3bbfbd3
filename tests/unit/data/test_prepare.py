"""From rows to a data set: order, repairs, catalogue, population."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from fedrec.data import clock, ordering
from fedrec.data.catalogue import Catalogue, films, multi_hot, position, split_genres, year_of
from fedrec.data.dataset import Dataset
from fedrec.data.datasets.csv import Delimited
from fedrec.data.io.table import Tokens
from fedrec.data.ordering import order_by
from fedrec.data.prepare import BY_CHANCE, BY_FILE, BY_TIME, NO_TIME, PrepareOptions, prepare_dataset
from fedrec.data.repairs import (
    BELOW_MINIMUM,
    BELOW_THRESHOLD,
    DUPLICATES,
    REPEATS_SETTLED,
    duplicates,
    repeated_pairs,
)
from fedrec.data.sources import Rows, SourceOptions
from fedrec.errors import FedrecError
from tests.support.tiny import interactions_of

Row = tuple[str, str, float, float]


def tokens(names: list[str]) -> Tokens:
    distinct = list(dict.fromkeys(names))
    return Tokens(np.array([distinct.index(name) for name in names], np.int64), tuple(distinct))


def rows(given_rows: list[Row]) -> Rows:
    user, item, time, value = zip(*given_rows, strict=True)
    return Rows(
        tokens(list(user)),
        tokens(list(item)),
        np.array(time, np.int64),
        np.array(value),
        lambda row: f"f.csv:{row + 2}",
    )


def built(given_rows: list[Row], plan: PrepareOptions | None = None, **options: float | int | str) -> Dataset:
    return prepare_dataset(rows(given_rows), SourceOptions(**options), plan or PrepareOptions("f"))  # pyright: ignore[reportArgumentType]


def test_users_and_items_by_number_rows_by_time_ties_by_file_order() -> None:
    data = built([("10", "7", 5, 1), ("9", "30", 2, 1), ("10", "30", 3, 1), ("10", "4", 5, 1)])
    table = interactions_of(data)
    assert table.user_ids.tolist() == ["9", "10"]
    assert data.catalogue.ids.tolist() == ["4", "7", "30"]
    assert data.catalogue.origin == "interactions"
    assert data.catalogue.ids[table.item].tolist() == ["30", "30", "7", "4"]
    assert table.time.tolist() == [2, 3, 5, 5]


def test_repairs_are_counted_and_the_first_duplicate_is_kept() -> None:
    given_rows: list[Row] = [
        ("a", "x", 1, 5),
        ("a", "x", 1, 5),
        ("a", "y", 1, 2),
        ("a", "x", 2, 5),
        ("a", "x", 1, 5),
        ("b", "x", 1, 1),
    ]
    data = built(given_rows, threshold=2, minimum=2)
    assert dict(data.repairs) == {DUPLICATES: 2, REPEATS_SETTLED["first"]: 1, BELOW_THRESHOLD: 1, BELOW_MINIMUM: 1}
    assert data.interactions.user_ids.tolist() == ["a"]
    assert data.catalogue.ids[data.interactions.item].tolist() == ["x", "y"]
    assert interactions_of(data).value.tolist() == [1, 1]  # implicit under a threshold


def test_without_threshold_ratings_are_kept_and_nothing_is_repaired() -> None:
    data = built([("a", "x", 1, 5), ("a", "y", 2, 5), ("b", "x", 1, 0.5)])
    assert data.repairs == ()
    assert interactions_of(data).value.tolist() == [5, 5, 0.5]


def found_twice(given_rows: list[Row]) -> np.ndarray:
    made = rows(given_rows)
    order = order_by(made.user.codes)
    return np.sort(order[duplicates(made, order, repeated_pairs(made, order))])


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcde"), st.sampled_from("xy"), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])
        )
    )
)
def test_duplicates_are_those_of_a_plain_loop(found: list[Row]) -> None:
    if found:
        seen: set[Row] = set()
        slow = [n for n, row in enumerate(found) if row in seen or seen.add(row)]
        assert found_twice(found).tolist() == slow


def test_pairs_of_many_users_and_few_items_are_told_apart() -> None:
    """The last user with the first item is not the first user with the last item, at one time and value."""
    everyone: list[Row] = [(user, item, 0.0, 1.0) for user in "abcde" for item in "xy"]
    assert found_twice([*everyone, *everyone]).tolist() == list(range(10, 20))
    assert len(found_twice(everyone)) == 0


def test_nothing_left_and_threshold_without_ratings_are_refused() -> None:
    with pytest.raises(FedrecError, match=r"f\.csv:2: no interaction is left"):
        built([("a", "x", 1, 1)], minimum=2)
    bare = replace(rows([("a", "x", 1, 1)]), value=None)
    with pytest.raises(FedrecError, match=r"dataset\.threshold=3 needs ratings.*dataset\.columns\.value"):
        prepare_dataset(bare, SourceOptions(threshold=3), PrepareOptions("f"))


def test_item_that_the_item_file_lacks_is_named_by_line() -> None:
    catalogue = Catalogue(np.array(["y", "x"]), np.array(["Y", "X"]), position(2), ("position",), "item file")
    with pytest.raises(FedrecError, match=r"f\.csv:3: item 'z' is not in the item file"):
        built([("a", "x", 1, 1), ("a", "z", 1, 1)], PrepareOptions("f", catalogue))
    data = built([("a", "x", 1, 1)], PrepareOptions("f", catalogue))
    assert data.interactions.item.tolist() == [1]
    assert data.interactions.items == 2


def test_population_is_that_of_the_rows_not_of_filters() -> None:
    given_rows: list[Row] = [("a", "x", 1, 5), ("a", "y", 2, 3), ("b", "x", 3, 1)]
    plain = built(given_rows).population
    assert plain.startswith("f-") and len(plain) == 14
    assert built(given_rows, threshold=3).population == plain
    assert built([*given_rows[:2], ("b", "x", 4, 1)]).population != plain
    assert built(given_rows, population="mine").population == "mine"


def test_without_time_the_file_counts_or_a_seeded_draw_that_filters_do_not_move() -> None:
    given: list[Row] = [*(("a", str(n), 0, n) for n in range(20)), ("b", "0", 0, 9)]
    bare = replace(rows(given), time=None)
    by_file = prepare_dataset(bare, SourceOptions(), PrepareOptions("f"))
    assert by_file.split == BY_FILE + NO_TIME
    assert by_file.interactions.item[:20].tolist() == list(range(20))
    drawn, filtered = (
        prepare_dataset(bare, SourceOptions(minimum=m), PrepareOptions("f", shuffled=True)) for m in (1, 2)
    )
    assert drawn.split == BY_CHANCE + NO_TIME
    assert drawn.interactions.item[:20].tolist() != list(range(20))
    assert filtered.interactions.item.tolist() == drawn.interactions.item[:20].tolist()
    assert not interactions_of(drawn).time.any()


AGAIN: list[Row] = [("a", "x", 1, 2), ("a", "y", 2, 1), ("a", "z", 3, 1), ("a", "x", 4, 5), ("b", "x", 1, 3)]


@pytest.mark.parametrize(
    ("repeats", "items", "values", "known"),
    [
        ("first", "xyzx", [2, 1, 1, 3], 0),
        ("last", "yzxx", [1, 1, 5, 3], 0),
        ("count", "xyzx", [7, 1, 1, 3], 0),
        ("all", "xyzxx", [2, 1, 1, 5, 3], 1),
    ],
)
def test_a_repeat_counts_as_is_asked(repeats: str, items: str, values: list[float], known: int) -> None:
    data = built(AGAIN, repeats=repeats)
    assert "".join(data.catalogue.ids[data.interactions.item]) == items
    assert interactions_of(data).value.tolist() == values
    assert dict(data.repairs) == ({REPEATS_SETTLED[repeats]: 1} if repeats != "all" else {})
    assert data.known_targets == known and data.devices.repeats == bool(known) == data.devices[0].repeats
    assert any("1 pair of user and item with different values" in one.text for one in data.findings)
    assert any("1 of 1 held-out items were used before" in one.text for one in data.findings) == bool(known)


@pytest.mark.parametrize("timed", [True, False])
def test_repeats_are_settled_alike_with_and_without_times(timed: bool) -> None:
    made = rows([(user, item, place, 1) for place, (user, item, _, _) in enumerate(AGAIN)])
    data = prepare_dataset(made if timed else replace(made, time=None), SourceOptions(), PrepareOptions("f"))
    assert dict(data.repairs) == {REPEATS_SETTLED["first"]: 1}
    assert "".join(data.catalogue.ids[data.interactions.item]) == "xyzx"


@pytest.mark.parametrize("order", ["time", "file", "random"])
def test_a_user_orders_rows_by_time_by_the_file_or_by_chance(order: str) -> None:
    given_rows: list[Row] = [("a", str(n), 40 - n, 1) for n in range(40)]
    data = built(given_rows, order=order)
    item = data.interactions.item.tolist()
    assert data.split == {"time": BY_TIME, "file": BY_FILE, "random": BY_CHANCE}[order]
    assert (item == list(range(39, -1, -1))) == (order == "time") and (item == list(range(40))) == (order == "file")
    assert sorted(item) == list(range(40)) and interactions_of(data).time.any() == (order == "time")


def test_an_order_by_times_that_are_not_there_is_refused() -> None:
    bare = replace(rows(AGAIN), time=None)
    with pytest.raises(FedrecError, match=r"f\.csv:2: dataset\.order=time needs times.*dataset\.columns\.time"):
        prepare_dataset(bare, SourceOptions(order="time"), PrepareOptions("f"))


def test_words_that_mean_nothing_are_refused_with_the_nearest() -> None:
    with pytest.raises(FedrecError, match=r"repeats=frist does not exist. Did you mean 'first'"):
        SourceOptions(repeats="frist")
    with pytest.raises(FedrecError, match=r"order=tme does not exist. Did you mean 'time'"):
        SourceOptions(order="tme")


def test_a_split_that_a_source_lacks_and_a_negative_minimum_are_refused() -> None:
    with pytest.raises(FedrecError, match=r"dataset\.split=ncf: no such split.*leave-last-out"):
        SourceOptions(split="ncf")
    with pytest.raises(FedrecError, match=r"dataset\.minimum=-1"):
        SourceOptions(minimum=-1)


def test_film_features_are_genres_year_and_position() -> None:
    flags, genres = multi_hot([split_genres("Drama|Comedy"), split_genres("(no genres listed)")])
    years = [year_of("Heat (1995)"), year_of("No year")]
    catalogue = films(["1", "2"], ["Heat (1995)", "No year"], flags, genres, years)
    assert catalogue.feature_names == ("genre:Comedy", "genre:Drama", "year", "position")
    assert catalogue.features.tolist() == [[1, 1, 1995, 0], [0, 0, 1995, 0.5]]
    assert catalogue.features.dtype == np.float32


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, -(2**63), 2**63 - 1])), min_size=1, max_size=12))
def test_rows_are_ordered_by_user_then_time_then_the_file(found: list[tuple[int, int]]) -> None:
    """Times that lie too far apart for one sort beside the number of the row are sorted by two."""
    user, rank = (np.array(column) for column in zip(*found, strict=True))
    expected = sorted(range(len(found)), key=lambda n: (found[n], n))
    assert order_by(user.astype(np.int32), rank.astype(np.int64)).tolist() == expected


@pytest.mark.parametrize("items", [40, 4_000])
def test_a_row_takes_24_bytes_beyond_its_columns_while_it_is_read(
    items: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns of 8 bytes each, with many repeats and with few; what is gone through in blocks is made small here."""
    monkeypatch.setattr(ordering, "BLOCK", 1 << 12)
    monkeypatch.setattr(clock, "SAMPLE", 1 << 12)
    rng, count = np.random.default_rng(0), 200_000
    columns = {
        "user": rng.integers(0, count // 100, count),
        "item": rng.integers(0, items, count),
        "time": 1_500_000_000 + rng.integers(0, 10**8, count),
        "value": rng.integers(1, 6, count).astype(float),
    }
    parquet.write_table(pa.table(columns), tmp_path / "log.parquet")
    source = Delimited(path=str(tmp_path / "log.parquet"), columns={name: name for name in columns})
    source.load()  # what is imported and made once is no memory of rows
    tracemalloc.start()
    try:
        source.load()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    of_arrow = 8  # times, which are not copied
    assert peak / count + of_arrow <= 4 * 8 + 24
