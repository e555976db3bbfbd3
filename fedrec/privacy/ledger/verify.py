"""Verifies a ledger file by itself: nothing but Python is needed, and nothing of fedrec is imported.

    python check_ledger.py LEDGER.sqlite [--anchor FILE] [--head HASH]

Each entry's hash covers the hash before it, so that an entry that was edited, dropped or put in between breaks the
chain. A hash from outside (an anchor file, a checkpoint's or a card's) says that nothing after it was cut off.
"""

import argparse
import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIRST = "0" * 64  # what the first entry follows
FOLLOWS = {"open": (None,), "reserve": ("open", "commit", "lost"), "commit": ("reserve",), "lost": ("reserve",)}
ALONE = ("charge", "refuse")  # what the ledger of a device holds: each entry stands for itself


def entry_hash(previous: str, run: str, kind: str, body: str) -> str:
    """Return the hash of an entry that follows `previous`; `body` is its JSON text."""
    return hashlib.sha256("\n".join((previous, run, kind, body)).encode()).hexdigest()


def problems(database: sqlite3.Connection) -> Iterator[str]:
    """Yield what is wrong with a ledger, each in words; nothing where it is whole."""
    faults = [row[0] for row in database.execute("PRAGMA integrity_check(3)") if row[0] != "ok"]
    yield from (f"the file is damaged: {fault}" for fault in faults)
    previous, last, counts = FIRST, dict[str, tuple[str, int]](), dict[str, str]()
    rows = database.execute("SELECT seq, run, kind, body, previous, hash FROM entries ORDER BY seq")
    for number, (seq, run, kind, body, before, digest) in enumerate(rows, 1):
        if seq != number:
            yield f"entry {number} is missing"
            return
        if entry_hash(before, run, kind, body) != digest:
            yield f"entry {seq} (a {kind} of {run}) was changed after it was written"
            return
        if before != previous:
            yield f"entry {seq} does not follow entry {seq - 1}: one of them was replaced"
            return
        fields: dict[str, Any] = json.loads(body)
        yield from out_of_order(seq, run, kind, int(fields.get("round", 0)), last.get(run, (None, 0)))
        previous, last[run] = digest, (kind, int(fields.get("round", 0)))
        if kind == "open":
            counts[run] = hashlib.sha256(bytes(4 * int(fields["devices"]))).hexdigest()
        counts[run] = str(fields.get("counts", counts.get(run)))
    stored = {run: hashlib.sha256(blob).hexdigest() for run, blob in database.execute("SELECT * FROM participations")}
    for run, digest in counts.items():
        if last[run][0] not in ALONE and stored.get(run) != digest:
            yield f"how often each device took part in {run} was changed"


def out_of_order(seq: int, run: str, kind: str, round_: int, before: tuple[str | None, int]) -> Iterator[str]:
    """Yield what is wrong with an entry of this kind and round that follows (kind, round) of the same run."""
    if kind not in ALONE and before[0] not in FOLLOWS.get(kind, ()):
        yield f"entry {seq}: a {kind} of {run} can't follow {before[0] or 'nothing'}"
    elif kind in ("commit", "lost") and round_ != before[1]:
        yield f"entry {seq}: a {kind} of round {round_} of {run}, but round {before[1]} was reserved"


def held(database: sqlite3.Connection, digest: str, seq: int | None = None) -> bool:
    """Say whether the ledger holds an entry of this hash (at this place, where one is given)."""
    row = database.execute("SELECT seq FROM entries WHERE hash = ?", (digest,)).fetchone()
    return (digest, seq) == (FIRST, 0) or (row is not None and seq in (None, row[0]))


def check(path: Path, heads: list[tuple[str, int | None]]) -> list[str]:
    """Return what is wrong with the ledger file, the (hash, place) that it must hold included."""
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        found = list(problems(database))
        cut = "entry {} of the ledger is gone ({}): it was rolled back, cut off or replaced"
        return found + [cut.format(seq or "", digest) for digest, seq in heads if not held(database, digest, seq)]
    except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
        return [f"it can't be read as a ledger: {error!r}"]


def main() -> int:
    """Check one file; print what is wrong, or that it is whole; return the exit status."""
    parser = argparse.ArgumentParser(description="Verify a ledger file of fedrec.")
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--anchor", type=Path, help="its anchor file: '<place> <hash>'")
    parser.add_argument("--head", action="append", default=[], help="a hash that it must hold, of a checkpoint or card")
    options = parser.parse_args()
    heads: list[tuple[str, int | None]] = [(head, None) for head in options.head]
    if options.anchor is not None:
        place, digest = options.anchor.read_text().split()
        heads.append((digest, int(place)))
    found = check(options.ledger, heads)
    print("\n".join(found) if found else f"{options.ledger}: whole; every entry follows the one before it")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
