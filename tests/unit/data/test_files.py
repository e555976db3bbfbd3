"""Files of every kind that people bring: read exactly, or refused with what would be right."""

import bz2
import gzip
import io
import json
import lzma
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrec.data.dataset import Dataset
from fedrec.data.datasets.csv import Delimited
from fedrec.data.io import databases
from fedrec.errors import FedrecError
from tests.support.tiny import interactions_of

ROWS = [("ann", "x", 30), ("bob", "y", 10), ("ann", "y", 20), ("bob", "x", 40)]
CSV = "user,item,time\n" + "".join(f"{user},{item},{time}\n" for user, item, time in ROWS)
TABLE = pa.table({name: [row[place] for row in ROWS] for place, name in enumerate(("user", "item", "time"))})


def load(path: Path, **options: Any) -> Dataset:
    return Delimited(path=str(path), **options).load()


def used(data: Dataset) -> list[tuple[str, str, float]]:
    table = interactions_of(data)
    return [
        (str(table.user_ids[user]), str(data.catalogue.ids[item]), float(time))
        for user, item, time in zip(table.user, table.item, data.clock.numbers(table.time), strict=True)
    ]


EXPECTED = [("ann", "y", 20.0), ("ann", "x", 30.0), ("bob", "y", 10.0), ("bob", "x", 40.0)]


def zipped(content: bytes, **others: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, of in {"log.csv": content, **others}.items():
            archive.writestr(name, of)
    return made.getvalue()


def packed(how: str) -> Callable[[bytes], bytes]:
    def pack(content: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, how) as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()

    return pack


def arrow(table: pa.Table, stream: bool = False) -> bytes:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


LINES = [dict(zip(("user", "item", "time"), row, strict=True)) for row in ROWS]
WRITTEN: dict[str, bytes] = {
    "log.csv": CSV.encode(),
    "crlf.csv": CSV.replace("\n", "\r\n").encode("utf-8-sig"),
    "cr.csv": CSV.replace("\n", "\r").encode(),
    "wide.csv": CSV.encode("utf-16"),
    "log.csv.gz": gzip.compress(CSV.encode()),
    "gz-by-its-bytes.csv": gzip.compress(CSV.encode()),
    "two-members.gz": gzip.compress(CSV[:20].encode()) + gzip.compress(CSV[20:].encode()),
    "log.bz2": bz2.compress(CSV.encode()),
    "log.xz": lzma.compress(CSV.encode()),
    "log.zst": packed("zstd")(CSV.encode()),
    "log.lz4": packed("lz4")(CSV.encode()),
    "log.zip": zipped(CSV.encode(), **{"__MACOSX/._log.csv": b"x"}),
    "log.jsonl": "".join(json.dumps(line) + "\n" for line in LINES).encode(),
    "log.json": json.dumps(LINES, indent=2).encode(),
    "log.jsonl.gz": gzip.compress("\n\n".join(json.dumps(line) for line in LINES).encode()),
    "log.arrow": arrow(TABLE),
    "log.stream": arrow(TABLE, stream=True),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_is_read_for_what_its_first_bytes_say(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(WRITTEN[name])
    data = load(tmp_path / name)
    assert used(data) == EXPECTED
    (tmp_path / "same.csv").write_text(CSV)
    same = load(tmp_path / "same.csv")
    assert data.population.rpartition("-")[2] == same.population.rpartition("-")[2]


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    for day, part in enumerate((TABLE.slice(0, 2), TABLE.slice(2))):
        folder = tmp_path / "log" / f"day={day}"
        folder.mkdir(parents=True)
        pq.write_table(part, folder / "part-0.parquet")
    (tmp_path / "log" / "_SUCCESS").touch()
    assert used(load(tmp_path / "log")) == EXPECTED
    by_day = load(tmp_path / "log", columns={"item": "day", "time": None})
    assert by_day.catalogue.ids.tolist() == ["0", "1"]
    pq.write_table(TABLE.set_column(1, "item", pa.array(["x", None, "y", "x"])), tmp_path / "log/day=1/part-1.parquet")
    with pytest.raises(FedrecError, match=r"part-1\.parquet: row 2: blank item"):
        load(tmp_path / "log")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FedrecError, match="a folder without Parquet parts"):
        load(tmp_path / "empty")


def test_a_query_chooses_the_rows_of_a_database(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table log (who, what, at)")
        connection.executemany("insert into log values (?, ?, ?)", ROWS)
    connection.close()
    before, query = path.read_bytes(), "select who as user, what as item, at as time from log"
    assert used(load(path, query=query)) == EXPECTED
    with pytest.raises(FedrecError, match=r'dataset\.query="select .* from log" says which rows. Tables: log'):
        load(path)
    for bad in ("drop table log", "attach 'x.db' as x", "select 1; select 2", "select nothing from log"):
        with pytest.raises(FedrecError, match=r"dataset\.query is one select statement"):
            load(path, query=bad)
    assert path.read_bytes() == before and not list(tmp_path.glob("x.db"))


def test_a_database_by_url_keeps_its_password_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("postgresql://ann:secret@host/db", "mysql://ann:se@cret:@host/db"):
        with pytest.raises(FedrecError, match="FEDREC_DATABASE_PASSWORD") as error:
            Delimited(path=url, query="select 1").load()
        assert "secret" not in str(error.value) and "cret" not in str(error.value)
    monkeypatch.setattr(databases.importlib, "import_module", missing)
    with pytest.raises(FedrecError, match=r'pip install "fedrec\[sql\]"'):
        Delimited(path="sqlite:///x.db", query="select 1").load()


def missing(name: str) -> None:
    raise ImportError(name=name)


def test_sqlalchemy_reads_where_it_is_there(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("create table log (user, item, time)")
        connection.executemany("insert into log values (?, ?, ?)", ROWS)
    connection.close()
    url = f"sqlite:///{tmp_path}/shop.db"
    assert used(Delimited(path=url, query="select * from log where user <> ':x'").load()) == EXPECTED
    with pytest.raises(FedrecError, match="no such table"):
        Delimited(path=url, query="select * from other").load()


def test_a_workbook_is_read_where_the_extra_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.xlsx"
    path.write_bytes(zipped(b"", **{"xl/workbook.xml": b"<workbook/>"}))
    with monkeypatch.context() as patch:
        patch.setattr(databases.importlib, "import_module", missing)
        with pytest.raises(FedrecError, match=r'pip install "fedrec\[excel\]"'):
            load(path)
    openpyxl = pytest.importorskip("openpyxl")
    with pytest.raises(FedrecError, match="not a complete Excel file"):
        load(path)
    book = openpyxl.Workbook()
    for row in [(None,), ("user", "item", "time"), *ROWS]:
        book.active.append(row)
    book.save(path)
    assert used(load(path)) == EXPECTED
    book.active.cell(5, 1).value = None
    book.save(path)
    with pytest.raises(FedrecError, match=r"log\.xlsx: row 5: blank user"):
        load(path)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("ann\tx\t30\nbob\ty\t10\n", {"separator": "tab", "columns": {"user": 0, "item": 1, "time": 2}}, ["x", "y"]),
        ("a,x\nb,y\n", {"header": False, "columns": {"user": 0, "item": 1, "time": None}}, ["x", "y"]),
        ("0,1,2\nann,x,30\n", {"columns": {"user": 0, "item": 1, "time": 2}}, ["x"]),
        ("u,i,t\nann,x,3\n", {"columns": {"user": 0, "item": "1", "time": 2}, "header": "true"}, ["x"]),
        ('user;item\nann;"\\"x\\";"\n', {"separator": ";", "escape": "backslash", "columns": {"time": None}}, ['"x";']),
        ('user\titem\nann\t"A" b\n', {"separator": "tab", "quote": "none", "columns": {"time": None}}, ['"A" b']),
        ("user,item\nann,'x,y'\n", {"quote": "'", "columns": {"time": None}}, ["x,y"]),
        ('user,item\nann,5" pipe\n', {"columns": {"time": None}}, ['5" pipe']),
        (
            "user,item\nann,NA\nbob,null\nbob,1E+05\n",
            {"ids": "text", "columns": {"time": None}},
            ["NA", "null", "1E+05"],
        ),
        ("user,item\nann,NA\nbob,x\n,y\n", {"missing": "drop", "columns": {"time": None}}, ["x"]),
        ("ann x y\nbob  z\n", {"layout": "lists"}, ["x", "y", "z"]),
        ("ann,x y,z\n", {"layout": "lists", "separator": "comma"}, ["x y", "z"]),
        ("ann\tx|y\n", {"layout": "lists", "separator": "tab", "list_separator": "|"}, ["x", "y"]),
        ("user,item\nann,x|y\n", {"list_separator": "|", "columns": {"time": None}}, ["x", "y"]),
        ("who,x,y,z\nann,1,,NaN\nbob,,2,3\n", {"layout": "matrix", "columns": {"user": "user"}}, ["x", "y", "z"]),
    ],
)
def test_how_a_file_is_written_can_be_said(
    tmp_path: Path, text: str, options: dict[str, Any], expected: list[str]
) -> None:
    (tmp_path / "log.csv").write_text(text)
    data = load(tmp_path / "log.csv", **options)
    assert sorted(data.catalogue.ids.tolist()) == sorted(expected)
    assert len(data.interactions) == len(expected)


def test_a_matrix_keeps_values_and_a_list_its_order(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text("who,x,y\nann,4,5\nbob,,2.5\n")
    assert interactions_of(load(tmp_path / "wide.csv", layout="matrix")).value.tolist() == [4, 5, 2.5]
    lists = {"user": ["ann", "bob", "cy"], "item": [["b", "a"], ["c"], []], "time": [[2, 1], [5], []]}
    pq.write_table(pa.table(lists), tmp_path / "log.parquet")
    assert used(load(tmp_path / "log.parquet")) == [("ann", "a", 1), ("ann", "b", 2), ("bob", "c", 5)]
    lists["time"][1] = [5, 6]
    pq.write_table(pa.table(lists), tmp_path / "log.parquet")
    with pytest.raises(FedrecError, match=r"row 2: 2 of time for 1 of item"):
        load(tmp_path / "log.parquet")


def test_a_decimal_comma_is_a_point(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user;item;time;value\nann;x;1,5;4,5\n")
    data = load(tmp_path / "log.csv", separator=";", decimal="comma", columns={"value": "value"})
    assert interactions_of(data).value.tolist() == [4.5] and used(data) == [("ann", "x", 1.5)]


ADVICE: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "two.zip": (zipped(b"a", **{"b.csv": b"b"}), {}, r"one file is expected; found log\.csv, b\.csv"),
    "cut.csv.gz": (gzip.compress(CSV.encode())[:-12], {}, "truncated or damaged"),
    "not.zip": (b"PK\x03\x04 and no more", {}, "truncated or damaged"),
    "packed.gz": (gzip.compress(b"PAR1 whatever"), {}, "a Parquet file packed by gzip: unpack it"),
    "old.xls": (b"\xd0\xcf\x11\xe0 whatever", {}, "of the kind old Excel; CSV"),
    "model.pkl": (b"\x80\x04\x95 whatever", {}, "of the kind pickle"),
    "cut.parquet": (b"PAR1 whatever", {}, "not a complete Parquet file"),
    "none.parquet": (b"user,item\n", {}, "not a complete Parquet file"),
    "cut.arrow": (arrow(TABLE)[:-30], {}, "not a complete Arrow file"),
    "bad.db": (b"SQLite format 3\x00" + bytes(50), {"query": "select user from log"}, r"select statement"),
    "cut.json": (json.dumps(LINES)[:-5].encode(), {}, r"cut\.json:1: .*JSON"),
    "open.json": (json.dumps(LINES)[:-1].encode(), {}, "the list is not closed"),
    "line.jsonl": (b'{"user": 1}\n{"user": 2\n', {}, r"line\.jsonl:\d: not JSON"),
    "twice.jsonl": (b'{"user": 1}\n{"user": 2, "user": 3}\n', {}, r"twice\.jsonl:2: 'user' stands twice"),
    "lists.json": (b"[[1, 2]]", {}, "a list where an object is expected"),
    "deep.json": (b"[" + b"[" * 100_000, {}, "nested too deeply|JSON"),
    "half.jsonl": (b'{"user": "\\ud800", "item": 1}', {}, "half a character"),
    "bom.csv": ("user,item\n1,2\n".encode("utf-16-le"), {}, r"dataset\.encoding=utf-16-le"),
    "data.csv": (b"u0,i2,1365032707\nu0,i1,1365036307\n", {}, r"looks like data: dataset\.header=false"),
    "either.csv": (b"u0,i2\n", {"columns": {"user": 0, "item": 1, "time": None}}, r"true or dataset\.header=false"),
    "quote.tsv": (b'user\titem\n1\t"A" b\n', {"separator": "tab"}, r"quote\.tsv:2: .*dataset\.quote=none"),
    "escape.csv": (b'user,item\n1,"\\"x\\""\n', {}, r"escape\.csv:2: .*dataset\.escape=backslash"),
    "NA.csv": (b"user,item,time\n1,NA,3\n", {}, r"NA\.csv:2: item 'NA': .*dataset\.ids=text.*dataset\.missing=drop"),
    "rounded.csv": (b"user,item,time\n1.23E+18,2,3\n", {}, r"rounded\.csv:2: user '1\.23E\+18' has lost digits"),
    "bytes.csv": (b"user,item,time\nb'ann',2,3\n", {}, r"bytes\.csv:2: user 'b'ann'' is no id.*Python"),
    "none": (b"", {"separator": "comma"}, "none:1: empty file"),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVICE)
def test_what_can_not_be_read_is_named_with_what_would_be_right(tmp_path: Path, name: str) -> None:
    content, options, message = ADVICE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FedrecError, match=message) as error:
        load(tmp_path / name, **options)
    assert name in str(error.value)


def test_what_unpacks_to_an_absurd_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrec.data.io.unpack.FREE", 1 << 16)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"user,item,time\n" + b"1,2,3\n" * 200_000))
    with pytest.raises(FedrecError, match=r"bomb\.gz: unpacks to more than 200 times its size"):
        load(tmp_path / "bomb.gz")


def test_options_that_do_not_exist_are_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    for options, message in (
        ({"header": "maybe"}, "dataset.header=maybe"),
        ({"layout": "wide"}, "dataset.layout=wide"),
        ({"time_unit": "m"}, "dataset.time_unit=m"),
        ({"quote": "''"}, "dataset.quote=''"),
        ({"columns": {"user": 7, "item": 1}}, "no column '7'"),
    ):
        with pytest.raises(FedrecError, match=message):
            load(tmp_path / "log.csv", **options)
