"""Readers, splits and device tables against slow oracles: every row is read, held out and counted once."""

import csv
import io
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.catalogue import Catalogue, position
from fedrec.data.interactions import (
    LEAVE_LAST_OUT,
    REPEATS,
    DeviceTable,
    FlatInteractions,
    HistoryRules,
    Interactions,
    device_data,
)
from fedrec.data.io.delimited import SEPARATOR_NAMES, Layout, read_delimited, separator_that_fits
from fedrec.data.io.table import ROLES, ColumnMapping, Table, Tokens, map_columns
from fedrec.data.ordering import order_by
from fedrec.data.prepare import PrepareOptions, prepare_dataset
from fedrec.data.repairs import repair
from fedrec.data.sources import Rows, SourceOptions
from fedrec.data.splits import hold_out, leave_last_out
from fedrec.errors import FedrecError
from tests.support.tiny import interactions_of

ITEMS = 7
CELL = st.text("ab 7.,;|\t\"'é", max_size=5)
HISTORIES = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=6), min_size=1, max_size=5)


def table_of(histories: list[list[int]]) -> Interactions:
    """Return interactions in which row n of all happened at time n and has the value n + 1."""
    flat = [(user, item) for user, items in enumerate(histories) for item in items]
    return Interactions(
        user=np.array([user for user, _ in flat], np.int32),
        item=np.array([item for _, item in flat], np.int32),
        time=np.arange(len(flat)),
        value=np.arange(1, len(flat) + 1, dtype=np.float32),
        user_ids=np.array([f"u{n}" for n in range(len(histories))]),
        items=ITEMS,
    )


def written(rows: list[list[str]], separator: str, quoted: bool) -> bytes:
    kept = io.StringIO()
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    csv.writer(kept, delimiter=separator, quoting=quoting, lineterminator="\n").writerows(rows)
    return kept.getvalue().encode()


@settings(max_examples=80)
@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=6), st.sampled_from(",;|\t"))
def test_delimited_text_is_read_as_the_csv_module_writes_it(rows: list[tuple[str, ...]], separator: str) -> None:
    body = [list(row) for row in rows]
    content = written([["one", "two", "three"], *body], separator, quoted=True)
    found = read_delimited(content, "f.csv", Layout(separator, quoted=True))
    assert [found.texts(name) for name in ("one", "two", "three")] == [
        list(column) for column in zip(*body, strict=True)
    ]
    assert len(found) == len(body)
    bare = read_delimited(
        written(body, separator, quoted=True), "f.csv", Layout(separator, columns=("a", "b", "c"), quoted=True)
    )
    assert bare.texts("b") == found.texts("two")


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["1,2,3", "", "4,5,6"]), min_size=2, max_size=8), st.integers(0, 7), st.integers(1, 5))
def test_the_first_line_of_another_width_is_named(lines: list[str], place: int, width: int) -> None:
    lines.insert(min(place, len(lines)), ",".join("9" * width))
    content = ("a,b,c\n" + "\n".join(lines) + "\n").encode()
    if width == 3:
        read_delimited(content, "f.csv", Layout())
        return
    wrong = next(number for number, line in enumerate(lines, 2) if line and line.count(",") != 2)
    with pytest.raises(FedrecError, match=rf"f\.csv:{wrong}: {width} fields?; 3 are expected"):
        read_delimited(content, "f.csv", Layout())


@pytest.mark.parametrize("name", sorted(SEPARATOR_NAMES))
def test_the_separator_that_would_have_fitted_is_named(name: str) -> None:
    header = SEPARATOR_NAMES[name].join(["user", '"item"', "time"]) + "\n"
    found = separator_that_fits(b"\xef\xbb\xbf\n" + header.encode(), "utf-8", {"user", "item"})
    first = next(n for n, separator in SEPARATOR_NAMES.items() if separator == SEPARATOR_NAMES[name])
    assert f"dataset.separator={first}." in found
    assert separator_that_fits(header.encode(), "utf-8", {"user", "stars"}) == ""


def column(values: Sequence[object]) -> Table:
    return Table({"c": pa.array(values)}, lambda row: f"f:{row + 2}")


@given(st.lists(st.integers(0, 30).map(str) | st.sampled_from(["7.0", " 7", "007"]), min_size=1, max_size=12))
def test_tokens_name_every_row_once_and_numbers_are_ordered_as_numbers(cells: list[str]) -> None:
    tokens = column(list(cells)).tokens("c")
    assert len(set(tokens.names)) == len(tokens.names) and sorted(set(tokens.codes.tolist())) == list(
        range(len(tokens.names))
    )
    tidy = [cell.strip().partition(".")[0] for cell in cells]
    assert [tokens.names[code] for code in tokens.codes.tolist()] == tidy
    assert list(tokens.names) == list(dict.fromkeys(tidy))
    ordered = [tokens.names[n] for n in tokens.order().tolist()]
    assert ordered == sorted(tokens.names, key=lambda name: (int(name), name))


@given(st.lists(st.sampled_from(["b", "a", "10", "9", "é"]), min_size=1, max_size=9))
def test_names_that_are_not_all_numbers_are_ordered_as_text(cells: list[str]) -> None:
    tokens = column([*cells, "x"]).tokens("c")
    assert [tokens.names[n] for n in tokens.order().tolist()] == sorted(tokens.names)


@given(st.lists(st.floats(-1e9, 1e9, allow_subnormal=False) | st.integers(-(2**40), 2**40), min_size=1, max_size=8))
def test_numbers_are_read_from_text_and_from_typed_columns_alike(values: list[float]) -> None:
    expected = [float(value) for value in values]
    assert column([repr(value) for value in values]).numbers("c").tolist() == expected
    assert column(expected).numbers("c").tolist() == expected


@pytest.mark.parametrize("value", ["nan", "inf", "1_000", "12:30", "", None, "1,5"])
def test_what_is_no_finite_number_is_named_by_its_row(value: str | None) -> None:
    with pytest.raises(FedrecError, match=r"f:3: c '.*': a finite number is expected"):
        column(["1", value, "2"]).numbers("c")


def test_moments_become_seconds_since_1970_whatever_their_unit() -> None:
    for unit, factor in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        moments = pa.array([0, 90 * factor, -factor], pa.timestamp(unit))
        assert Table({"c": moments}, str).numbers("c").tolist() == [0, 90, -1]
    assert Table({"c": pa.array([0, 2], pa.date32())}, str).numbers("c").tolist() == [0, 172_800]
    encoded = pa.array(["5", "7", "5"]).dictionary_encode()
    assert Table({"c": pa.chunked_array([encoded, encoded])}, str).numbers("c").tolist() == [5, 7, 5] * 2


def test_a_mapping_keeps_what_it_does_not_name() -> None:
    default = ColumnMapping("user", "item", "time", "value", "event")
    assert map_columns(None, default) == default
    assert map_columns({"time": None, "user": "who"}, default) == ColumnMapping("who", "item", None, "value", "event")
    assert default.settings() == {role: f"dataset.columns.{role}" for role in ROLES}
    assert set(replace(default, value=None).settings()) == {"user", "item", "time", "event"}
    for wrong, said in (({"usr": "x"}, "Did you mean 'user'"), ({"user": None}, "must each name a column")):
        with pytest.raises(FedrecError, match=said):
            map_columns(wrong, default)


@given(HISTORIES)
def test_leaving_the_last_out_is_what_a_loop_over_users_does(histories: list[list[int]]) -> None:
    devices = leave_last_out(table_of(histories))
    place = 1
    for items, device in zip(histories, devices, strict=True):
        values = list(range(place, place + len(items)))
        place += len(items)
        test = len(items) - 1 if len(items) >= 2 else len(items)
        validation = test - 1 if len(items) >= 2 else test
        assert device.history.tolist() == items[:validation] and device.values.tolist() == values[:validation]
        assert device.validation.tolist() == items[validation:test]
        assert device.test.tolist() == items[test:] and device.test_values.tolist() == values[test:]
        assert device.known.tolist() == items[:test]


@given(HISTORIES, st.data())
def test_whatever_is_held_out_no_row_is_lost_or_told_twice(histories: list[list[int]], data: st.DataObject) -> None:
    interactions = table_of(histories)
    marked = np.array(data.draw(st.lists(st.booleans(), min_size=len(interactions), max_size=len(interactions))), bool)
    devices = hold_out(interactions, marked)
    for user, device in enumerate(devices):
        mine = interactions.user == user
        assert Counter(device.test_values.tolist()) == Counter(interactions.value[mine & marked].tolist())
        left = interactions.item[mine & ~marked].tolist()
        assert device.known.tolist() == left, "the rest stays in the order of time"
        assert len(device.validation) == (bool(left) and len(histories[user]) >= 2)


@given(HISTORIES)
def test_a_table_counts_refits_and_pools_as_its_devices_do(histories: list[list[int]]) -> None:
    devices = leave_last_out(table_of(histories))
    counts = Counter(item for device in devices for item in device.known.tolist())
    assert devices.known_counts().tolist() == [counts[item] for item in range(ITEMS)]
    user, item, value = devices.train_rows()
    rows = [(d.user, *pair) for d in devices for pair in zip(d.history.tolist(), d.values.tolist(), strict=True)]
    assert list(zip(user.tolist(), item.tolist(), value.tolist(), strict=True)) == rows
    for before, after in zip(devices, devices.refitted(), strict=True):
        assert after.history.tolist() == before.known.tolist() and not len(after.validation)
        assert after.test.tolist() == before.test.tolist()
    for outside in (-1, len(devices)):
        with pytest.raises(IndexError, match=f"device {outside} of {len(devices)}"):
            devices[outside]


@dataclass(frozen=True)
class Event:
    item: str
    time: float
    value: float


@settings(max_examples=80)
@given(
    st.lists(st.tuples(st.integers(0, ITEMS), st.integers(0, 4), st.integers(1, 5)), max_size=8),
    st.sampled_from([None, 3.0]),
    st.sampled_from(REPEATS),
)
def test_a_real_device_builds_what_the_simulation_would_have_built_for_it(
    events: list[tuple[int, int, int]], threshold: float | None, repeats: str
) -> None:
    """The same rows, through a data set and through the device's own code; item ITEMS is in no catalogue."""
    events = sorted(events, key=lambda event: event[1])
    names = np.array([f"i{n}" for n in range(ITEMS)])
    catalogue = Catalogue(names, names, position(ITEMS), ("position",), "item file")
    own = device_data(
        [Event(f"i{i}", t, v) for i, t, v in events], catalogue, 0, HistoryRules(threshold, LEAVE_LAST_OUT, repeats)
    )
    inside = [event for event in events if event[0] < ITEMS]
    if not len(own.history) and not len(own.test):
        assert all(value < (threshold or 0) for _, _, value in _settled(list(dict.fromkeys(inside)), repeats))
        return
    item = [f"i{event[0]}" for event in inside]
    distinct = list(dict.fromkeys(item))
    codes = np.array([distinct.index(name) for name in item], np.int64)
    rows = Rows(
        Tokens(np.zeros(len(inside), np.int64), ("me",)),
        Tokens(codes, tuple(distinct)),
        np.array([event[1] for event in inside]),
        np.array([float(event[2]) for event in inside]),
        lambda row: f"f:{row}",
    )
    options = SourceOptions(threshold=threshold, repeats=repeats)
    made = prepare_dataset(rows, options, PrepareOptions("f", catalogue=catalogue)).devices[0]
    for field in ("history", "values", "validation", "test", "test_values"):
        assert getattr(own, field).tolist() == getattr(made, field).tolist(), field


def _settled(events: list[tuple[int, int, int]], repeats: str) -> list[tuple[int, int, float]]:
    """Settle (item, time, value) events, in order, on one for each item: a plain loop."""
    found = list[tuple[int, int, float]]()
    for n, (item, time, value) in enumerate(events):
        before, after = (any(other[0] == item for other in part) for part in (events[:n], events[n + 1 :]))
        if repeats == "count" and not before:
            found.append((item, time, float(sum(other[2] for other in events if other[0] == item))))
        elif repeats == "all" or (repeats == "last" and not after) or (repeats == "first" and not before):
            found.append((item, time, float(value)))
    return found


def rows_of(found: list[tuple[int, int, int, int]]) -> Rows:
    user, item, time, value = (np.array(part) for part in zip(*found, strict=True))

    def tokens(codes: np.ndarray) -> Tokens:
        names, back = np.unique(codes, return_inverse=True)
        return Tokens(back.astype(np.int64), tuple(str(name) for name in names))

    return Rows(tokens(user), tokens(item), time, value.astype(float), lambda row: f"f:{row}")


FOUND = st.lists(st.tuples(*(st.integers(0, top) for top in (3, 4, 2, 3))), min_size=1, max_size=14)


@given(FOUND, st.sampled_from(REPEATS), st.sampled_from([None, 1.0, 2.0]), st.integers(0, 4))
def test_repairs_drop_what_a_loop_drops_and_count_it(
    found: list[tuple[int, int, int, int]], repeats: str, threshold: float | None, minimum: int
) -> None:
    rows = rows_of(found)
    options = SourceOptions(repeats=repeats, threshold=threshold, minimum=minimum)
    assert rows.time is not None
    log = repair(rows, options, order_by(rows.user.codes, rows.time))
    distinct = [(n, row) for n, row in enumerate(found) if row not in found[:n]]
    in_time = sorted(distinct, key=lambda pair: (pair[1][2], pair[0]))
    settled = list[tuple[int, float]]()
    for place, (n, row) in enumerate(in_time):
        same = [(at, other) for at, (_, other) in enumerate(in_time) if other[:2] == row[:2]]
        if repeats == "all" or same[-1 if repeats == "last" else 0][0] == place:
            settled.append((n, float(sum(other[3] for _, other in same)) if repeats == "count" else float(row[3])))
    settled.sort()
    enough = [(n, value) for n, value in settled if threshold is None or value >= threshold]
    counts = Counter(found[n][0] for n, _ in enough)
    left = [(n, value) for n, value in enough if counts[found[n][0]] >= minimum]
    assert log.value is not None and sorted(zip(log.rows.tolist(), log.value.tolist(), strict=True)) == left
    pairs = len({row[:2] for row in found})
    gone = len(found) - len(distinct), len(distinct) - len(settled), len(settled) - len(enough)
    users = sum(counts[user] < minimum for user in {row[0] for row in found})
    assert [count for _, count in log.repairs] == [count for count in (*gone, users) if count]
    assert log.repeats.rows == len(distinct) - pairs
    values = {pair: {row[3] for row in found if row[:2] == pair} for pair in {row[:2] for row in found}}
    assert log.repeats.disagreeing == sum(len(some) > 1 for some in values.values())
    had = [any(other[:2] == row[:2] for _, other in in_time[:n]) for n, (_, row) in enumerate(in_time)]
    last = {row[0]: again for (_, row), again in zip(in_time, had, strict=True)}
    assert log.repeats.last == sum(last.values())


@settings(max_examples=40)
@given(FOUND, st.randoms(use_true_random=False))
def test_a_data_set_is_that_of_its_rows_in_whatever_order_users_come(
    found: list[tuple[int, int, int, int]], chance
) -> None:
    """Users and items have their public order, so that the order of a file matters to rows of equal time alone."""
    distinct = list({row[:2]: row for row in found}.values())
    apart = [(user, item, place, value) for place, (user, item, _, value) in enumerate(distinct)]
    mixed = list(apart)
    chance.shuffle(mixed)
    one, other = (prepare_dataset(rows_of(rows), SourceOptions(), PrepareOptions("f")) for rows in (apart, mixed))
    for field in ("user", "item", "time", "value"):
        assert np.array_equal(getattr(interactions_of(one), field), getattr(interactions_of(other), field)), field
    assert np.array_equal(one.catalogue.ids, other.catalogue.ids)


BROKEN: dict[str, tuple[Callable[[Interactions], Interactions], str]] = {
    "a short column": (lambda t: replace(t, time=t.time[1:]), "unequal length"),
    "a user too many": (lambda t: replace(t, user=t.user + 9), r"user rows must lie in 0\.\.1"),
    "an item below 0": (lambda t: replace(t, item=t.item - 9), r"item rows must lie in 0\.\.6"),
    "users mixed": (lambda t: replace(t, user=t.user[::-1].copy()), "must be sorted by user"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_interactions_that_do_not_fit_together_are_refused(name: str) -> None:
    spoil, said = BROKEN[name]
    with pytest.raises(FedrecError, match=said):
        spoil(table_of([[1, 2], [3, 4]]))


def test_flat_interactions_know_their_users_by_number() -> None:
    flat = FlatInteractions(np.array([0, 2, 2, 5]), np.arange(5, dtype=np.int32), 9)
    assert (len(flat), flat.users, flat.user_ids.tolist()) == (5, 3, ["0", "1", "2"])
    ends = flat.start[1:]
    table = DeviceTable(flat.start, ends, ends, flat.item, np.ones(5, np.float32), 9)
    assert list(itertools.chain.from_iterable(device.history.tolist() for device in table)) == flat.item.tolist()
