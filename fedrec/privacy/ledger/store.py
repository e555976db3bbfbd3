"""Where a ledger rests: one SQLite file a population, appended to and never changed, each entry chained to the last.

The newest entry of a ledger, in a second file: a ledger that was rolled back, cut or deleted no longer holds it.

Putting back an old copy of both files at once is found out only by what lies elsewhere: the head in the checkpoint of a
run, the head in its privacy card. FEDREC_ANCHORS puts the anchors on another disk than the ledgers. On a ledger that
was tampered with nothing may be spent.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.errors import FedrecError, RefusedError
from fedrec.paths import anchor_path
from fedrec.privacy.ledger.verify import FIRST, held, problems


@dataclass(frozen=True, slots=True)
class Anchor:
    """One line of fixed length, '<place> <hash>', written over in place and synced; it never goes back."""

    path: Path

    def read(self) -> tuple[int, str] | None:
        """Return (place, hash) of the newest entry, or None where there is none yet; a damaged anchor is refused."""
        content = self.path.read_bytes() if self.path.exists() else b""
        if not content:
            return None
        place, _, digest = content.decode("ascii", "replace").strip().partition(" ")
        if not place.isdecimal() or len(digest) != 64:
            raise RefusedError(
                f"the anchor {self.path} is damaged: put back its newest copy; nothing may be spent without it"
            )
        return int(place), digest

    def create(self, place: int, digest: str) -> None:
        """Make the anchor where there is none, durably."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        self.advance(place, digest)
        sync_folder(self.path.parent)

    def advance(self, place: int, digest: str) -> None:
        """Set the newest entry, durably; a place that is not newer than the anchor's changes nothing."""
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # two processes may have written to the ledger at once
            known = os.pread(descriptor, 20, 0)
            if not known or int(known) < place:
                os.pwrite(descriptor, f"{place:020d} {digest}\n".encode(), 0)
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


WITHOUT_IT = "Without one, nobody knows what these users have spent, and no epsilon can be claimed for them."


def check_there(path: Path, anchor: Anchor) -> None:
    """Raise `RefusedError` where the anchor knows entries and the ledger file is gone."""
    known = anchor.read()
    if known is not None and known[0] and not path.exists():
        raise RefusedError(
            f"the ledger {path} is gone, though its anchor {anchor.path} knows {known[0]} entries: put back its newest "
            f"copy, or set FEDREC_STATE to where it lies. {WITHOUT_IT}"
        )


def check_whole(database: sqlite3.Connection, path: Path, anchor: Anchor) -> None:
    """Raise `RefusedError`, saying what is wrong, unless every entry stands and the anchor's is among them.

    A ledger without entries gets its anchor here.
    """
    put_back = f"Put back the newest copy of the ledger. {WITHOUT_IT}"
    if found := read_problems(database):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise RefusedError(f"the ledger {path} was tampered with or damaged: {found[0]}{more}. {put_back}")
    known = anchor.read()
    if known is None and database.execute("SELECT 1 FROM entries LIMIT 1").fetchone():
        raise RefusedError(
            f"the ledger {path} has lost its anchor {anchor.path}, which tells whether it is the newest: put the "
            "anchor back, or set FEDREC_ANCHORS to where it lies"
        )
    if known is None:
        anchor.create(0, FIRST)
    elif not held(database, known[1], known[0]):
        raise RefusedError(
            f"the ledger {path} was rolled back, cut or replaced: entry {known[0]}, which its anchor {anchor.path} "
            f"knows, is not in it. {put_back}"
        )


def read_problems(database: sqlite3.Connection) -> list[str]:
    """Return what is wrong with a ledger, an entry that can't even be read included."""
    try:
        return list(problems(database))
    except (KeyError, TypeError, ValueError) as error:
        return [f"an entry can't be read ({type(error).__name__})"]


TABLES = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY, run TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
    previous TEXT NOT NULL, hash TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS entries_of_run ON entries (run, seq);
CREATE TABLE IF NOT EXISTS participations (run TEXT PRIMARY KEY, counts BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS people (sketch BLOB PRIMARY KEY);
"""


def file_id(path: Path) -> tuple[int, int] | None:
    """Return what tells this file from another one under the same name; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger: `kind` is open, reserve, commit or lost (of a device: charge or refuse)."""

    seq: int
    kind: str
    body: dict[str, Any]
    hash: str


def entry_hash(previous: str, run: str, kind: str, body: str) -> str:
    """Return the hash of an entry that follows `previous`; `body` is its JSON text.

    The verifier says the same in words of its own: what writes the chain must not be what vouches for it.
    """
    return hashlib.sha256("\n".join((previous, run, kind, body)).encode()).hexdigest()


def make(path: Path) -> None:
    """Make an empty file for its owner alone; SQLite gives its journal files the same rights.

    One that is there is not opened: closing it again would drop this process's locks on it (POSIX), and with them what
    keeps two processes from destroying it.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


class LedgerStore:
    """An open ledger file. What `append` and `set_counts` do becomes durable when their `transaction` ends.

    Opening verifies every entry, and that the ledger holds what its anchor knows to be the newest; a ledger that was
    edited, cut, rolled back or deleted is `RefusedError`.
    """

    def __init__(self, path: Path, anchor: Path | None = None) -> None:
        """Open or create the file; `anchor` is where its anchor lies, by default where the server's anchors do."""
        self.path, self._anchor, self._file = path, Anchor(anchor or anchor_path(path)), None
        check_there(path, self._anchor)
        with self._named_errors():
            self._open()
            with self.transaction():
                check_whole(self._database, path, self._anchor)
        self._file = file_id(path)

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        make(self.path)
        sync_folder(self.path.parent)
        self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        with self.transaction():
            for statement in TABLES.split(";"):
                self._database.execute(statement)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def check_in_place(self) -> None:
        """Raise `RefusedError` where the ledger was deleted, replaced or rolled back since it was opened.

        Its file is the one that was opened, and it holds what its anchor knows to be the newest.
        """
        if self._file is None:  # it is being opened: `check_whole` looks at more
            return
        known = self._anchor.read()
        found = known and self._database.execute("SELECT hash FROM entries WHERE seq = ?", (known[0],)).fetchone()
        if file_id(self.path) != self._file or known is None or not (known[0] == 0 or found == (known[1],)):
            raise RefusedError(
                f"the ledger {self.path}, or its anchor {self._anchor.path}, was deleted, replaced or rolled back "
                f"while it was in use: nothing more is released. Put back its newest copy, then go on. {WITHOUT_IT}"
            )

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Hold the ledger alone; make everything durable at the end, or undo it all on an exception.

        One that is no longer in its place is refused.
        """
        with self._named_errors():
            self._database.execute("BEGIN IMMEDIATE")
            before = self._database.total_changes
            try:
                self.check_in_place()
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            if self._database.total_changes > before and (newest := self._newest()):
                self._anchor.advance(*newest)

    def append(self, run: str, kind: str, body: dict[str, Any]) -> None:
        """Add an entry, chained to the newest of any run."""
        text, previous = json.dumps(body, sort_keys=True, allow_nan=False), self.head()
        row = (run, kind, text, previous, entry_hash(previous, run, kind, text))
        self._database.execute("INSERT INTO entries (run, kind, body, previous, hash) VALUES (?, ?, ?, ?, ?)", row)

    def head(self) -> str:
        """Return the hash of the newest entry."""
        newest = self._newest()
        return newest[1] if newest else FIRST

    def _newest(self) -> tuple[int, str] | None:
        row = self._database.execute("SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        return (int(row[0]), str(row[1])) if row else None

    def holds(self, digest: str) -> bool:
        """Say whether an entry has this hash."""
        return held(self._database, digest)

    def entries(self, run: str | None, after: int = 0) -> list[Entry]:
        """Return a run's entries in order (all runs' where None), those after a `seq` where one is given."""
        query = "SELECT seq, kind, body, hash FROM entries WHERE run = coalesce(?, run) AND seq > ? ORDER BY seq"
        if run is not None:
            query = query.replace("coalesce(?, run)", "?")  # so that SQLite takes the index
        rows = self._database.execute(query, (run, after))
        return [Entry(seq, kind, json.loads(body), digest) for seq, kind, body, digest in rows]

    def runs(self) -> list[str]:
        """Return the names of all runs on this population."""
        return [str(row[0]) for row in self._database.execute("SELECT DISTINCT run FROM entries ORDER BY run")]

    def counts(self, run: str) -> bytes:
        """Return how often each device took part, as it was stored."""
        row = self._database.execute("SELECT counts FROM participations WHERE run = ?", (run,)).fetchone()
        return bytes(row[0]) if row else b""

    def set_counts(self, run: str, counts: bytes) -> None:
        """Store how often each device took part."""
        self._database.execute("INSERT OR REPLACE INTO participations VALUES (?, ?)", (run, counts))

    def secret(self) -> bytes:
        """Return this ledger's own key, drawn when it is first asked for; call it inside a transaction."""
        self._database.execute("INSERT OR IGNORE INTO secrets VALUES ('cohorts', ?)", (os.urandom(32),))
        return bytes(self._database.execute("SELECT value FROM secrets WHERE name = 'cohorts'").fetchone()[0])

    def add_people(self, sketch: bytes) -> None:
        """Store whose data were charged, unless that is known."""
        self._database.execute("INSERT OR IGNORE INTO people VALUES (?)", (sketch,))

    @contextmanager
    def _named_errors(self) -> Generator[None, None, None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise FedrecError(
                f"the ledger {self.path} can't be written or read ({error}): nothing may be released"
            ) from error
