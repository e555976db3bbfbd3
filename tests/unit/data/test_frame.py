"""Rows in memory: every kind of table gives the same rows, and what is wrong is named by column and row."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from fedrec.data.datasets import frame
from fedrec.data.datasets.csv import Delimited
from fedrec.data.datasets.frame import Frame, hold, read_frame
from fedrec.errors import FedrecError

ROWS = 120
GIVEN = {"user": "customer_id", "item": "sku", "time": "order_date"}


def purchases() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "customer_id": [f"C{n}" for n in rng.integers(0, 12, ROWS)],
            "sku": rng.integers(0, 30, ROWS),
            "order_date": pd.date_range("2025-01-01", periods=ROWS, freq="h"),
            "rating": rng.integers(1, 6, ROWS),
        }
    )


def seconds(df: pd.DataFrame) -> Any:
    return df["order_date"].astype("datetime64[s]").astype("int64")


def in_aden(df: pd.DataFrame) -> Any:
    return df["order_date"].dt.tz_localize("UTC").dt.tz_convert("Asia/Aden")


def lists(df: pd.DataFrame) -> dict[str, list[Any]]:
    return {name: df[name].tolist() for name in df}


SAME: dict[str, Callable[[pd.DataFrame], Any]] = {
    "polars": pl.from_pandas,
    "polars, lazy": lambda df: pl.from_pandas(df).lazy(),
    "Arrow": pa.Table.from_pandas,
    "lists": lists,
    "arrays": lambda df: {name: df[name].to_numpy() for name in df},
    "records": lambda df: df.to_records(),
    "categories": lambda df: df.assign(customer_id=df["customer_id"].astype("category")),
    "moments with a zone": lambda df: df.assign(order_date=in_aden(df)),
    "nanoseconds": lambda df: df.assign(order_date=df["order_date"].astype("datetime64[ns]")),
    "ISO texts": lambda df: df.assign(order_date=df["order_date"].astype(str)),
    "ISO texts with a zone": lambda df: df.assign(order_date=[f"{t.isoformat()}Z" for t in df["order_date"]]),
    "seconds": lambda df: df.assign(order_date=seconds(df)),
    "seconds as text": lambda df: df.assign(order_date=seconds(df).astype(str)),
    "Python's moments": lambda df: {**lists(df), "order_date": list(df["order_date"].dt.to_pydatetime())},
    "whole numbers as floats": lambda df: df.assign(sku=df["sku"].astype(float)),
    "another index": lambda df: df.set_index(pd.Index(range(5, 5 + ROWS))),
}


@pytest.mark.parametrize("kind", SAME)
def test_every_kind_of_table_gives_the_same_rows(kind: str) -> None:
    expected, mapping = read_frame(purchases(), GIVEN)
    found, _ = read_frame(SAME[kind](purchases()), GIVEN)
    assert found.content == expected.content
    assert (mapping.user, mapping.item, mapping.time, mapping.value) == ("customer_id", "sku", "order_date", None)
    assert expected.rows.time is not None
    seconds = expected.rows.clock.numbers(expected.rows.time)
    assert seconds[1] - seconds[0] == 3600
    assert seconds[0] == datetime(2025, 1, 1, tzinfo=UTC).timestamp()


def test_days_are_moments_and_values_are_read() -> None:
    days = {"user": ["a", "a"], "item": [1, 2], "time": [date(1970, 1, 2), date(1970, 1, 3)], "stars": [4, 5.5]}
    rows = read_frame(days, {"value": "stars"})[0].rows
    assert rows.time is not None and rows.time.tolist() == [86400, 2 * 86400]
    assert rows.value is not None and rows.value.tolist() == [4, 5.5]


def test_a_frame_and_a_file_of_the_same_rows_are_the_same_people(tmp_path: Any) -> None:
    purchases().to_parquet(tmp_path / "frame.parquet")
    file = Delimited(path=str(tmp_path / "frame.parquet"), columns=GIVEN).load()
    ours = Frame(columns=GIVEN, content=hold(read_frame(purchases(), GIVEN)[0])).load()
    assert ours.population == file.population  # the ledger's name: where the file has the same one
    assert np.array_equal(ours.devices.item, file.devices.item) and ours.split == file.split
    assert np.array_equal(ours.catalogue.features, file.catalogue.features)


def test_usual_names_are_found_and_other_settings_apply() -> None:
    renamed = purchases().rename(columns={"customer_id": "user_id", "sku": "movieId", "order_date": "timestamp"})
    held, mapping = read_frame(renamed, {"value": "rating"})
    assert (mapping.user, mapping.item, mapping.time) == ("user_id", "movieId", "timestamp")
    loaded = Frame(content=hold(held), threshold=4).load()
    first = purchases().sort_values("order_date", kind="stable").drop_duplicates(["customer_id", "sku"])
    assert len(loaded.interactions) == (first["rating"] >= 4).sum()


def test_titles_come_from_a_column_and_do_not_change_who_the_people_are() -> None:
    named = purchases().assign(name=[f"thing {n}" for n in purchases()["sku"]])
    named.loc[named["sku"] == 3, "name"] = None
    bare, titled = read_frame(named, GIVEN)[0], read_frame(named, GIVEN, "name")[0]
    first, second = (Frame(content=hold(held)).load() for held in (bare, titled))
    assert first.population == second.population and bare.content != titled.content
    titles = dict(zip(second.catalogue.ids.tolist(), second.catalogue.titles.tolist(), strict=True))
    assert titles["5"] == "thing 5" and titles["3"] == "3"
    assert first.catalogue.titles.tolist() == first.catalogue.ids.tolist()


def without(row: int, column: str, value: object) -> pd.DataFrame:
    changed = purchases().astype({column: object})
    changed.loc[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("table", "given", "said"),
    [
        (purchases(), {**GIVEN, "user": "custmer_id"}, r"no column 'custmer_id' \(user=\).*mean 'customer_id'"),
        (
            purchases()[["customer_id", "sku"]],
            {"user": "customer_id", "item": "sku"},
            "holds the time.*time=None where.*columns: customer_id",
        ),
        (without(3, "order_date", None), GIVEN, r"row 3 \(from 0\): order_date"),
        (without(4, "order_date", "soon"), GIVEN, r"row 4 \(from 0\): order_date 'soon'"),
        (without(7, "customer_id", None), GIVEN, r"row 7 \(from 0\): blank customer_id"),
        (without(7, "sku", 2.5), GIVEN, r"row 7 \(from 0\): fractional sku '2\.5'"),
        (purchases()[:0], GIVEN, "no rows"),
        ({"user": [1, 2], "item": [1], "time": [1, 2]}, {}, "unequal length: user 2, item 1, time 2"),
        ({"user": [[1], [2]], "item": [1, 2], "time": [1, 2]}, {}, "column 'user' holds lists"),
        ([1, 2], {}, "a list is no data frame: a pandas, polars"),
        (np.zeros((3, 3)), {}, "a ndarray is no data frame"),
    ],
)
def test_what_is_wrong_is_named(table: Any, given: dict[str, str], said: str) -> None:
    with pytest.raises(FedrecError, match=said):
        read_frame(table, given)


def test_rows_in_no_order_of_time_stand_in_their_own() -> None:
    held, mapping = read_frame(purchases(), {**GIVEN, "time": None})
    assert mapping.time is None and held.rows.time is None
    assert "file order" in Frame(content=hold(held)).load().split


def test_mixed_ids_are_text() -> None:
    mixed = {"user": ["a", 7, "a"], "item": [1, 2, 3], "time": [1, 2, 3]}
    assert read_frame(mixed, {})[0].rows.user.names == ("a", "7")


def test_rows_that_are_not_here_are_refused_with_what_to_do() -> None:
    with pytest.raises(FedrecError, match=r"content abc\) are not in this process.*load_run\(FOLDER, frame\)"):
        Frame(content="abc").load()
    with pytest.raises(FedrecError, match=r"handed over from Python: fedrec.simulate\(frame"):
        Frame().load()


def test_a_process_keeps_the_last_few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "_held", type(frame._held)())
    names = [hold(read_frame(purchases()[n:], GIVEN)[0]) for n in range(frame.KEPT + 1)]
    with pytest.raises(FedrecError, match="not in this process"):
        Frame(content=names[0]).load()
    assert Frame(content=names[1]).load().interactions.users == 12


def test_columns_of_other_names_are_told_by_names_and_values_and_said() -> None:
    renamed = purchases().rename(columns={"customer_id": "Kundennummer", "sku": "Artikel", "order_date": "bought_at"})
    with pytest.warns(UserWarning, match=r"user = Kundennummer \(by its name\), item = Artikel.*time = bought_at"):
        held, mapping = read_frame(renamed.assign(tags=[["x"]] * ROWS), {})
    assert (mapping.user, mapping.item, mapping.time) == ("Kundennummer", "Artikel", "bought_at")
    assert held.content == read_frame(purchases(), GIVEN)[0].content
    with pytest.raises(FedrecError, match="which column holds the time"):  # never guessed away
        read_frame(renamed.drop(columns="bought_at"), {})


def test_events_of_a_frame_are_chosen_and_weighed() -> None:
    kinds = ["view", "cart", "purchase"]
    table = purchases().assign(action=[kinds[n % 3] for n in range(ROWS)])
    held, mapping = read_frame(table, {**GIVEN, "event": "action"})
    columns = {part: getattr(mapping, part) for part in ("user", "item", "time", "event")}
    plain = Frame(columns=columns, content=hold(held), repeats="all").load()
    chosen = Frame(columns=columns, content=hold(held), events="purchase,cart", repeats="all").load()
    weighed = Frame(columns=columns, content=hold(held), events="purchase:5,cart:2", repeats="all").load()
    assert len(plain.interactions) == ROWS and len(chosen.interactions) == 2 * ROWS // 3
    assert dict(chosen.repairs) == {"rows with action=view": ROWS // 3}
    assert set(np.unique(weighed.devices.value).tolist()) == {2.0, 5.0}
    assert plain.population == chosen.population  # the same people, whichever events are chosen
    assert held.content != read_frame(table, GIVEN)[0].content
    with pytest.raises(FedrecError, match=r"dataset\.events=cart: which column holds the event\? event=COLUMN"):
        Frame(columns=GIVEN, content=hold(read_frame(table, GIVEN)[0]), events="cart").load()
    with pytest.raises(FedrecError, match="no row has action=bought"):
        Frame(columns=columns, content=hold(held), events="bought").load()
