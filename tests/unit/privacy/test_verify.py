"""The ledger's own checker: by itself, with nothing but Python, it finds every entry that was touched."""

import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrec.privacy.ledger import verify
from fedrec.privacy.ledger.verify import FIRST, check, entry_hash, out_of_order

DEVICES = 3
ENTRIES = [
    ("a", "open", {"devices": DEVICES}),
    ("a", "reserve", {"round": 1}),
    ("a", "commit", {"round": 1}),
    ("b", "open", {"devices": DEVICES}),
    ("a", "reserve", {"round": 2}),
    ("a", "lost", {"round": 2}),
    ("b", "reserve", {"round": 1}),
    ("b", "commit", {"round": 1}),
]


def write(path: Path, entries: list[tuple[str, str, dict[str, int]]]) -> list[str]:
    """Write a ledger of these entries, each hashed onto the one before; return the hashes."""
    hashes = [FIRST]
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE entries (seq INTEGER, run, kind, body, previous, hash)")
        database.execute("CREATE TABLE participations (run, counts BLOB)")
        for number, (run, kind, fields) in enumerate(entries, 1):
            body = json.dumps(fields)
            digest = entry_hash(hashes[-1], run, kind, body)
            row = (number, run, kind, body, hashes[-1], digest)
            database.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", row)
            hashes.append(digest)
        for run in {run for run, _, _ in entries}:
            database.execute("INSERT INTO participations VALUES (?, ?)", (run, bytes(4 * DEVICES)))
    database.close()
    return hashes[1:]


def change(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as database:
        database.execute(statement, values)
    database.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    write(tmp_path / "ledger.sqlite", ENTRIES)
    return tmp_path / "ledger.sqlite"


def test_a_whole_ledger_has_no_problems(ledger: Path) -> None:
    assert check(ledger, []) == []


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE entries SET body = '{\"round\": 7}' WHERE seq = 3", "entry 3 (a commit of a) was changed"),
        ("UPDATE entries SET run = 'b' WHERE seq = 2", "entry 2 (a reserve of b) was changed"),
        ("UPDATE entries SET kind = 'commit' WHERE seq = 5", "entry 5 (a commit of a) was changed"),
        ("DELETE FROM entries WHERE seq = 4", "entry 4 is missing"),
        ("DELETE FROM entries WHERE seq = 1", "entry 1 is missing"),
        ("UPDATE participations SET counts = x'01000000' WHERE run = 'a'", "took part in a was changed"),
        ("DELETE FROM participations WHERE run = 'b'", "took part in b was changed"),
        ("DROP TABLE participations", "it can't be read as a ledger"),
    ],
)
def test_every_change_is_found_and_said_in_words(ledger: Path, statement: str, said: str) -> None:
    change(ledger, statement)
    found = check(ledger, [])
    assert len(found) == 1 and said in found[0]


def test_an_entry_that_was_replaced_with_its_hash_does_not_follow(ledger: Path) -> None:
    body = '{"round": 9}'
    row = (body, FIRST, entry_hash(FIRST, "a", "reserve", body))
    change(ledger, "UPDATE entries SET body = ?, previous = ?, hash = ? WHERE seq = 2", *row)
    assert check(ledger, []) == ["entry 2 does not follow entry 1: one of them was replaced"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seq=st.integers(1, len(ENTRIES)), data=st.data())
def test_no_single_letter_of_an_entry_can_be_changed(ledger: Path, seq: int, data: st.DataObject) -> None:
    column = data.draw(st.sampled_from(["run", "kind", "body", "previous", "hash"]))
    with sqlite3.connect(ledger) as database:
        ((text,),) = database.execute(f"SELECT {column} FROM entries WHERE seq = ?", (seq,))
    database.close()
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
    change(ledger, f"UPDATE entries SET {column} = ? WHERE seq = ?", changed, seq)
    assert check(ledger, [])
    change(ledger, f"UPDATE entries SET {column} = ? WHERE seq = ?", text, seq)
    assert check(ledger, []) == []


@pytest.mark.parametrize("kept", range(len(ENTRIES)))
def test_a_ledger_that_was_cut_lacks_the_heads_of_what_is_gone(tmp_path: Path, kept: int) -> None:
    whole = write(tmp_path / "whole.sqlite", ENTRIES)
    write(tmp_path / "cut.sqlite", ENTRIES[:kept])
    assert check(tmp_path / "cut.sqlite", []) == [], "by itself it looks whole"
    for place, digest in enumerate(whole, 1):
        found = check(tmp_path / "cut.sqlite", [(digest, place)])
        assert bool(found) == (place > kept)
        assert not found or f"entry {place} of the ledger is gone ({digest})" in found[0]
    assert check(tmp_path / "cut.sqlite", [(FIRST, 0)]) == []


@pytest.mark.parametrize(
    ("kind", "number", "before", "said"),
    [
        ("open", 0, (None, 0), []),
        ("open", 0, ("open", 0), ["entry 9: a open of r can't follow open"]),
        ("reserve", 1, (None, 0), ["entry 9: a reserve of r can't follow nothing"]),
        ("reserve", 2, ("lost", 1), []),
        ("reserve", 2, ("reserve", 1), ["entry 9: a reserve of r can't follow reserve"]),
        ("commit", 2, ("reserve", 1), ["entry 9: a commit of round 2 of r, but round 1 was reserved"]),
        ("lost", 2, ("reserve", 2), []),
        ("charge", 5, (None, 0), []),
        ("refund", 1, ("commit", 1), ["entry 9: a refund of r can't follow commit"]),
    ],
)
def test_entries_have_an_order(kind: str, number: int, before: tuple[str | None, int], said: list[str]) -> None:
    assert list(out_of_order(9, "r", kind, number, before)) == said


@pytest.fixture
def run_checker(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["check_ledger.py", *map(str, arguments)])
        return verify.main(), capsys.readouterr().out

    return run


def test_the_command_says_whole_or_what_is_wrong(ledger: Path, run_checker: Callable[..., tuple[int, str]]) -> None:
    with sqlite3.connect(ledger) as database:
        hashes = [row[0] for row in database.execute("SELECT hash FROM entries ORDER BY seq")]
    database.close()
    anchor = ledger.with_suffix(".anchor")
    anchor.write_text(f"{len(hashes)} {hashes[-1]}\n")
    status, said = run_checker(ledger, "--anchor", anchor, "--head", hashes[2], "--head", FIRST.replace("0", "f"))
    assert status == 1 and said.count("is gone") == 1 and "f" * 64 in said
    status, said = run_checker(ledger, "--anchor", anchor, "--head", hashes[2])
    assert (status, said) == (0, f"{ledger}: whole; every entry follows the one before it\n")
    anchor.write_text(f"{len(hashes) - 1} {hashes[-1]}\n")
    assert run_checker(ledger, "--anchor", anchor)[0] == 1


@pytest.mark.parametrize("content", [b"", b"no data base", b"SQLite format 3\0" + bytes(90)])
def test_a_file_that_is_no_ledger_is_said_to_be_none(
    tmp_path: Path, content: bytes, run_checker: Callable[..., tuple[int, str]]
) -> None:
    (tmp_path / "file").write_bytes(content)
    status, said = run_checker(tmp_path / "file")
    assert status == 1 and ("can't be read as a ledger" in said or "is damaged" in said)
    assert run_checker(tmp_path / "none")[0] == 1 and not (tmp_path / "none").exists()
