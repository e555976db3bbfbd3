"""Events that are chosen among the rows of a table, and columns that nobody reads."""

from pathlib import Path

import pyarrow as pa
import pytest

from fedrec.data.dataset import Dataset
from fedrec.data.datasets.csv import Delimited
from fedrec.data.io.table import ColumnMapping, Table
from fedrec.data.mapped import map_rows, parse_events, suspect_unread
from fedrec.errors import FedrecError
from tests.support.tiny import interactions_of

KINDS = ("view", "cart", "purchase")
ROWS = [(f"u{n % 2}", f"i{n // 2 % 4}", n, KINDS[n % 3], n % 5) for n in range(24)]


def loaded(folder: Path, columns: dict[str, str | None] | None = None, **options: str) -> Dataset:
    body = "".join(f"{','.join(map(str, row))}\n" for row in ROWS)
    (folder / "log.csv").write_text(f"user,item,time,action,stars\n{body}")
    return Delimited(path=str(folder / "log.csv"), columns=columns, **options).load()  # pyright: ignore[reportArgumentType]


def test_columns_that_look_like_events_or_ratings_are_told_and_others_named(tmp_path: Path) -> None:
    data = loaded(tmp_path)
    told = [f"{one.text} -> {one.setting}" for one in data.findings]
    assert any(
        "'action' (3 values: view, cart, purchase) is not read" in one and "events=purchase" in one for one in told
    )
    assert any("'stars' is not read" in one and "dataset.columns.value=stars" in one for one in told)
    assert data.reading is not None and data.reading.unread == ("action", "stars")
    assert data.reading.columns == {"user": "user", "item": "item", "time": "time"} and "','" in data.reading.form
    read = loaded(tmp_path, {"event": "action", "value": "stars"})
    assert not any("not read" in one.text for one in read.findings)


def test_chosen_events_are_read_and_the_others_counted(tmp_path: Path) -> None:
    every = loaded(tmp_path, repeats="all")
    data = loaded(tmp_path, {"event": "action"}, events="purchase,cart", repeats="all")
    assert len(data.interactions) == 16 and dict(data.repairs) == {"rows with action=view": 8}
    assert data.population == every.population, "these are the same people"
    with pytest.raises(FedrecError, match=r"log\.csv:2: no row has action=purchas. Did you mean 'purchase'"):
        loaded(tmp_path, {"event": "action"}, events="purchas")
    with pytest.raises(FedrecError, match=r"which column holds the event\? dataset\.columns\.event=COLUMN"):
        loaded(tmp_path, events="purchase")


def test_weights_of_events_are_values_and_are_added_up(tmp_path: Path) -> None:
    data = loaded(tmp_path, {"event": "action"}, events="purchase:5,view:1", repeats="count")
    weight = {"purchase": 5, "view": 1, "cart": 0}
    pairs = {row[:2] for row in ROWS if weight[row[3]]}
    assert len(data.interactions) == len(pairs)
    assert interactions_of(data).value.sum() == sum(weight[row[3]] for row in ROWS)
    with pytest.raises(FedrecError, match="one of them is the value"):
        loaded(tmp_path, {"event": "action", "value": "stars"}, events="purchase:5")


def test_events_are_names_with_or_without_weights() -> None:
    assert parse_events(None) == {} and parse_events(" a , b ") == {"a": None, "b": None}
    assert parse_events("a:2,b:c:0.5") == {"a": 2, "b:c": 0.5} and parse_events("x:y") == {"x:y": None}
    with pytest.raises(FedrecError, match="give each event a weight"):
        parse_events("a:2,b")


def test_a_column_of_lists_that_nobody_reads_stops_nothing() -> None:
    columns = {"user": ["a", "b"], "item": ["x", "y"], "tags": [["p", "q"], []], "seen": [{"n": 1}, None]}
    table = Table({name: pa.array(values) for name, values in columns.items()}, str)
    found = map_rows(table, ColumnMapping("user", "item", None, None), None)
    assert found.findings == () and found.reading.unread == ("tags", "seen")


@pytest.mark.parametrize(
    ("name", "values", "setting"),
    [
        ("thumb", ["up", "down", "up"], "dataset.columns.event=thumb dataset.events=up"),
        ("clicked", ["0", "1", "1"], "dataset.columns.value=clicked"),
        ("label", ["positive", "negative", "positive"], "dataset.columns.event=label dataset.events=positive"),
        ("colour", ["red", "green", "red"], None),
    ],
)
def test_what_says_like_or_not_is_told_where_it_is_not_read(name: str, values: list[str], setting: str | None) -> None:
    table = Table({name: pa.array(values), "user": pa.array(["a"] * 3), "item": pa.array(["x"] * 3)}, str)
    found = suspect_unread(table, name, ColumnMapping("user", "item", None, None))
    assert (found is None) == (setting is None)
    assert found is None or str(setting) in found.setting
