"""Whatever stands in a file, reading it ends in a data set or in one complaint: no traceback, hang or flood of memory.

By default a few hundred mutated files of all formats; the long run, of FEDREC_FUZZ files (100,000), is marked slow:
    FEDREC_FUZZ=100000 pytest -m slow tests/properties/test_any_file.py
"""

import gzip
import io
import json
import os
import random
import resource
import sqlite3
import time
import zipfile
from collections.abc import Iterator
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrec.data.datasets.csv import Delimited
from fedrec.errors import FedrecError

USERS = ["ann", "bob", "ann", "7", "\xe9t\xe9", "bob"] * 4
ITEMS = ["x", "y", "z", "x", "00070", "w,v"] * 4
TIMES = [1365032707 + 60 * n for n in range(24)]
WORDS = [
    *(b'"', b"\x00", b"\xff\xfe", b"\n", b"\r", b",", b"\t", b"\\", b"nan", b"1E+18", b"-", b"9" * 40, b"{", b"]"),
    *(b"null", b"\xed\xa0\x80", b"2013-04-03", b"b'x'", b"=", b"  ", b"1e999", b'"\\ud800"', b"[[[[", b"\xef\xbb\xbf"),
]
OPTIONS: list[dict[str, Any]] = [
    {}, {}, {}, {"columns": {"time": None}}, {"header": False, "columns": {"user": 0, "item": 1, "time": 2}},
    {"quote": "none"}, {"escape": "backslash"}, {"separator": "tab"}, {"separator": "::"}, {"layout": "lists"},
    {"layout": "matrix"}, {"ids": "text", "missing": "drop"}, {"encoding": "utf-16"}, {"encoding": "latin-1"},
    {"list_separator": ","}, {"decimal": "comma"}, {"time_unit": "ns"}, {"time_format": "%Y-%m-%d"},
    {"columns": {"value": "value"}, "threshold": 2},
]  # fmt: skip
QUERY = "select * from log"


def seeds(folder: Path) -> dict[str, bytes]:
    """Return small files of every format that is read."""
    columns = {"user": USERS, "item": ITEMS, "time": TIMES, "value": [float(n % 5) for n in range(24)]}
    table = pa.table(columns)
    rows = list(zip(*columns.values(), strict=True))
    text = "user,item,time,value\n" + "".join(f'{u},"{i}",{t},{v}\n' for u, i, t, v in rows)
    other = "user\titem\ttime\n" + "".join(
        f"{u}\t{i}\t{datetime.fromtimestamp(t).isoformat()}\n" for u, i, t, _ in rows
    )
    lines = [dict(zip(columns, row, strict=True)) for row in rows]
    made = {
        "log.csv": text.encode(),
        "log.tsv": other.encode(),
        "log.txt": text.encode("utf-16"),
        "log.jsonl": "\n".join(map(json.dumps, lines)).encode(),
        "log.json": json.dumps(lines).encode(),
        "lists.txt": b"ann x y z\nbob y\n7 w v\n",
    }
    for name in ("log.csv", "log.jsonl"):
        made[f"{name}.gz"] = gzip.compress(made[name])
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, made[name])
        made[f"{name}.zip"] = sink.getvalue()
        for codec in ("zstd", "bz2", "lz4"):
            packed = pa.BufferOutputStream()
            with pa.CompressedOutputStream(packed, codec) as stream:
                stream.write(made[name])
            made[f"{name}.{codec}"] = packed.getvalue().to_pybytes()
    nested = table.set_column(1, "item", pa.array([[i] * (n % 3) for n, i in enumerate(ITEMS)]))
    moments = table.set_column(2, "time", pa.array(TIMES, pa.timestamp("s"))).set_column(
        0, "user", pa.array(USERS).dictionary_encode()
    )
    for name, of in {"log": table, "nested": nested, "moments": moments}.items():
        for compression in ("none", "snappy"):
            pq.write_table(of, folder / "seed", compression=compression)
            made[f"{name}-{compression}.parquet"] = (folder / "seed").read_bytes()
        for kind in (pa.ipc.new_file, pa.ipc.new_stream):
            sink = pa.BufferOutputStream()
            with kind(sink, of.schema) as writer:
                writer.write_table(of)
            made[f"{name}.{kind.__name__}"] = sink.getvalue().to_pybytes()
    with sqlite3.connect(folder / "seed.db") as connection:
        connection.execute("create table log (user, item, time, value)")
        connection.executemany("insert into log values (?, ?, ?, ?)", rows)
    connection.close()
    made["log.db"] = (folder / "seed.db").read_bytes()
    if find_spec("openpyxl") is None:
        return made
    book: Any = import_module("openpyxl").Workbook()
    for row in (tuple(columns), *rows):
        book.active.append(row)
    book.save(folder / "seed.xlsx")
    made["log.xlsx"] = (folder / "seed.xlsx").read_bytes()
    return made


def mutated(chance: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """Return bytes with a few changes: bits, cuts, copies, words that readers stumble over, pieces of other files."""
    made = bytearray(content)
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(made) + 1)
        end = min(len(made), at + chance.choice((1, 2, 4, 16, 200)))
        how = chance.randrange(7)
        if how == 0 and at < len(made):
            made[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            made[at:end] = chance.randbytes(end - at)
        elif how == 2:
            del made[at:end]
        elif how == 3:
            made[at:at] = chance.choice(WORDS) * chance.choice((1, 1, 1, 3, 1000))
        elif how == 4:
            made[at:at] = made[at:end] * chance.choice((1, 2, 50))
        elif how == 5:
            del made[at:]
        else:
            other = chance.choice(others)
            first = chance.randrange(len(other) + 1)
            made[at:end] = other[first : first + chance.choice((4, 40, 400))]
    return bytes(made)


def cases(chance: random.Random, folder: Path, count: int) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Yield mutated files, by turns of every format, and the options they are read with."""
    made = seeds(folder)
    names, contents = sorted(made), list(made.values())
    for number in range(count):
        name = names[number % len(names)]
        yield name, mutated(chance, made[name], contents), chance.choice(OPTIONS)


def fuzz(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Read mutated files; return how many were read and refused, and the slowest."""
    chance, read, slowest = random.Random(seed), 0, (0.0, "")
    for number, (name, content, options) in enumerate(cases(chance, folder, count)):
        path = folder / name
        path.write_bytes(content)
        begun = time.monotonic()
        try:
            Delimited(path=str(path), query=QUERY, **options).load()
            read += 1
        except FedrecError as error:
            assert str(error).strip(), (number, name)
        except BaseException as error:
            kept = folder / f"kept-{name}"
            kept.write_bytes(content)
            raise AssertionError(f"case {number} of seed {seed}: {name} with {options}: {error!r}; {kept}") from error
        slowest = max(slowest, (time.monotonic() - begun, f"case {number}: {name} with {options}"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"read": read, "refused": count - read, "seconds": slowest, "megabytes": peak}


def test_a_mutated_file_is_read_or_refused(tmp_path: Path) -> None:
    found = fuzz(tmp_path, 400, random.getrandbits(32))
    assert found["read"] and found["refused"]


@pytest.mark.slow
def test_very_many_mutated_files_are_read_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = fuzz(tmp_path, int(os.environ.get("FEDREC_FUZZ", "20000")), random.getrandbits(32))
    with capsys.disabled():
        print(found)
    assert found["seconds"][0] < 10 and found["megabytes"] < 2048
