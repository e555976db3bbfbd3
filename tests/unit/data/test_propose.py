"""Which column plays which part, told from names and values as they come from elsewhere."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fedrec.data.io.files import FileOptions
from fedrec.data.propose import ask, decimal_commas, found_settings, propose, read_head

UNIX, ISO, NUMBER, WORD = ["1365032707", "1365032708"], ["2013-04-03T23:45:07Z"], ["4", "3.5"], ["a", "b"]


def head(**columns: Sequence[str]) -> Mapping[str, Sequence[str]]:
    return columns


@pytest.mark.parametrize(
    ("names", "values", "expected"),
    [
        ("userId,movieId,rating,timestamp", [NUMBER, NUMBER, NUMBER, UNIX], "userId movieId timestamp rating"),
        ("customer_id,sku,order_date,price", [WORD, WORD, ISO, NUMBER], "customer_id sku order_date"),
        ("reviewerID,asin,overall,unixReviewTime,reviewTime", [WORD, WORD, NUMBER, UNIX, ["09 13, 2009"]],
         "reviewerID asin unixReviewTime overall"),
        ("Member_number,Date,itemDescription,item", [NUMBER, ["21-07-2015"], WORD, WORD], "Member_number Date"),
        ("timestamp,visitorid,event,itemid,transactionid", [UNIX, NUMBER, WORD, NUMBER, NUMBER],
         "visitorid itemid timestamp"),
        ("user_id:token,item_id:token,timestamp:float", [WORD, WORD, UNIX],
         "user_id:token item_id:token timestamp:float"),
        ("Kundennummer,Artikelnummer,Datum,Bewertung", [NUMBER, NUMBER, ISO, NUMBER],
         "Kundennummer Artikelnummer Datum Bewertung"),
        ("id_client,produit,créé,note", [NUMBER, WORD, ISO, NUMBER], "id_client produit créé note"),
        ("product/productId,review/userId,review/score,review/time", [WORD, WORD, NUMBER, UNIX],
         "review/userId product/productId review/time review/score"),
        ("uid,iid,ts", [WORD, WORD, UNIX], "uid iid ts"),
        ("household_id,product_id,product_name,release_date,purchased_at", [WORD, WORD, WORD, ISO, ISO],
         "household_id product_id purchased_at"),
        ("user,item", [WORD, WORD], "None"),
        ("user,item,time,stars", [WORD, WORD, UNIX, WORD], ""),
    ],
)  # fmt: skip
def test_names_from_elsewhere_are_understood(names: str, values: list[list[str]], expected: str) -> None:
    columns = dict(zip(names.split(","), values, strict=True))
    found = propose(columns, {})
    assert " ".join(str(column) for column in found.columns.values()) == expected and not found.unsure
    assert found.columns.keys() == found.why.keys()


def test_what_is_given_is_not_proposed_and_plays_no_other_part() -> None:
    columns = head(user_id=WORD, customer_id=WORD, item=WORD, when=ISO)
    assert propose(columns, {}).unsure == {"user": ["user_id", "customer_id"]}
    assert propose(columns, {"user": "customer_id"}).columns == {"time": "when"}
    assert propose(columns, {"user": "customer_id", "time": None}).columns == {}


def test_all_that_is_missing_is_asked_for_at_once() -> None:
    columns = head(a=WORD, b=WORD, order_date=ISO, ship_date=ISO)
    found = propose(columns, {})
    assert found.unsure == {"user": [], "item": [], "time": ["order_date", "ship_date"]}
    said = str(ask("my log.csv", columns, found))
    assert "the user and the item and the time (order_date or ship_date?)" in said and "a (a, b, ...)" in said
    assert said.endswith(
        "fedrec data check 'my log.csv' dataset.columns.user=COLUMN dataset.columns.item=COLUMN "
        "dataset.columns.time=order_date"
    )


def test_times_are_found_by_their_values_where_one_column_alone_has_them() -> None:
    found = propose(head(user=WORD, item=WORD, c=ISO, price=NUMBER), {})
    assert found.columns == {"time": "c"} and "values are times" in found.told()


def test_the_head_is_that_of_any_kind_of_file(tmp_path: Path) -> None:
    rows = [("u1", "i1", 5), ("u2", "i2", 6)]
    (tmp_path / "log.csv").write_text("who;what;at\n" + "".join(f"{a};{b};{c}\n" for a, b, c in rows))
    objects = (dict(zip(("who", "what", "at"), row, strict=True)) for row in rows)
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in objects))
    (tmp_path / "parts").mkdir()
    columns = dict(zip(("who", "what", "at"), map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pa.table(columns), tmp_path / "parts" / "one.parquet")
    expected = {"who": ["u1", "u2"], "what": ["i1", "i2"], "at": ["5", "6"]}
    for name, options in (
        ("log.csv", FileOptions(separator=";")),
        ("log.jsonl", FileOptions()),
        ("parts", FileOptions()),
    ):
        assert read_head(str(tmp_path / name), options) == expected, name
    (tmp_path / "bare.csv").write_text("7,8,9\n4,5,6\n")
    assert read_head(str(tmp_path / "bare.csv"), FileOptions()) == {}
    assert read_head(str(tmp_path / "log.csv"), FileOptions(layout="lists")) == {}


FOUND = {
    "a;b;c\nx;1;3,5\ny;2;4\n": {"separator": "semicolon"},
    "a,b\nx,1\n": {},
    "u1::i1::5::978300719\nu1::i2::4::978300719\n": {"separator": "colons", "header": "false"},
    "196\t242\t3\t881250949\n186\t302\t3\t891717742\n": {"separator": "tab", "header": "false"},
    "ann bread\nann milk\nbob bread\n": {"separator": "space", "header": "false"},
    "0 1 2 3\n1 7\n2 9 4 5 6\n": {"layout": "lists"},
    "# exported\n#\nuser|item\na|b\nc|d\n": {"skip": "2", "separator": "pipe"},
    "sep=;\nuser;item\na;b\nc;d\n": {"skip": "1", "separator": "semicolon"},
    "user,at\na,2013-04-03 23:45:07\nb,2013-04-03 23:45:08\n": {},
    'a;"b;c";d\nx;"y,z";e\n': {"separator": "semicolon"},
    "one\ntwo\n": {},
}


@pytest.mark.parametrize("text", FOUND)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_first_lines_tell_how_a_text_is_written(text: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(text.encode(encoding))
    assert found_settings(str(path), FileOptions()) == FOUND[text]


def test_what_is_set_is_not_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("1;2,3\n4;5,6\n")
    assert found_settings(str(path), FileOptions(separator=",")) == {"header": "false"}
    assert found_settings(str(path), FileOptions(separator=","), named=True) == {}
    assert found_settings(str(path), FileOptions(layout="matrix")) == {}


def test_the_one_table_of_a_database_is_read(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute('create table "my log" (customer text, sku text, bought_at integer)')
        connection.execute("insert into \"my log\" values ('a', 'x', 1500000000), ('b', 'y', 1500000001)")
    found = found_settings(str(path), FileOptions())
    assert found == {"query": 'select * from "my log"'}
    assert read_head(str(path), FileOptions(query=found["query"])) == {
        "customer": ["a", "b"],
        "sku": ["x", "y"],
        "bought_at": ["1500000000", "1500000001"],
    }
    with sqlite3.connect(path) as connection:
        connection.execute("create table other (a)")
    assert found_settings(str(path), FileOptions()) == {}


@pytest.mark.parametrize("kind", ["file", "stream", "excel"])
def test_the_first_rows_of_other_files_are_looked_at(kind: str, tmp_path: Path) -> None:
    table, path = pa.table({"customer": ["a", "b"], "sku": [1, 2]}), tmp_path / "log"
    if kind == "excel":
        book = pytest.importorskip("openpyxl", reason="needs openpyxl: Excel files").Workbook()
        for row in (["customer", "sku"], ["a", 1], ["b", 2]):
            book.active.append(row)
        book.save(path)
    else:
        new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table)
    assert read_head(str(path), FileOptions()) == {"customer": ["a", "b"], "sku": ["1", "2"]}


def test_a_damaged_arrow_file_tells_nothing(tmp_path: Path) -> None:
    """Its lengths are looked at before its texts are: a wrong one would read what is not there."""
    table, path = pa.table({"customer": pa.array(["aa", "bb", "cc"], pa.large_string())}), tmp_path / "log.arrow"
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    content = path.read_bytes()
    ends = np.array([0, 2, 4, 6], "<i8").tobytes()
    path.write_bytes(content.replace(ends, np.array([0, 4, 2, 2**40], "<i8").tobytes()))
    assert path.read_bytes() != content and read_head(str(path), FileOptions()) == {}


def test_decimal_commas_are_told_from_texts() -> None:
    assert decimal_commas({"a": ["4,5", "3", "-1,0"]})
    assert not decimal_commas({"a": ["4", "5"], "b": ["1,2,3"], "c": ["4,5", "x"]})


def test_a_wide_table_of_numbers_may_be_a_matrix() -> None:
    columns = head(user=WORD, **{f"m{n}": ["1", "", "5"] for n in range(9)})
    assert "dataset.layout=matrix" in str(ask("m.csv", columns, propose(columns, {})))
    narrow = head(user=WORD, a=["1"], b=["2"])
    assert "dataset.layout=matrix" not in str(ask("m.csv", narrow, propose(narrow, {})))
