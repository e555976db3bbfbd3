"""What one device keeps on its own disk: one SQLite file, readable by its owner alone. No torch, no Flower.

Everything that must survive a restart lies here and is written in transactions: the events, the private parameters, the
last model received, the answers given. Flower's own state is not trusted with any of it.
"""

import os
import sqlite3
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedrec.errors import FedrecError

VERSION = 1
SCHEMA = """
create table events (id integer primary key, item text not null, time real not null, kind text not null,
                     value real not null, unique (item, time, kind, value));
create table private (run text, round integer, arrays blob not null, primary key (run, round));
create table answers (run text, round integer, request text not null, reply blob, at real not null,
                      bytes_down integer not null, bytes_up integer not null, primary key (run, round));
create table kept (name text primary key, content blob not null);
"""
BUSY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction: `item` as the catalogue calls it, `time` in seconds since 1970, what kind, and its value."""

    item: str
    time: float
    kind: str = "event"
    value: float = 1.0


class DeviceStore:
    """The store of one device; several processes may have it open."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, mode 0600 in a folder of mode 0700."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
        self.path = path
        self.connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self.connection.close()
            raise FedrecError(f"{path} is not a device store ({error}): restore it, or move it away") from error

    def _prepare(self) -> None:
        for pragma in ("journal_mode=wal", "synchronous=full", "secure_delete=on"):
            self.connection.execute(f"pragma {pragma}")
        with self.transaction():
            (version,) = self.connection.execute("pragma user_version").fetchone()
            if version > VERSION:
                raise FedrecError(f"{self.path} was written by a newer fedrec (version {version}): update this one")
            if version == 0:
                for statement in SCHEMA.split(";"):
                    self.connection.execute(statement)
                self.connection.execute(f"pragma user_version={VERSION}")

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Write all or nothing; a transaction inside another is part of it."""
        if self.connection.in_transaction:
            yield self.connection
            return
        self.connection.execute("begin immediate")
        try:
            yield self.connection
            self.connection.execute("commit")
        except BaseException:
            self.connection.execute("rollback")
            raise

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def log_event(self, item: str, kind: str = "event", value: float = 1.0, at: float | None = None) -> bool:
        """Remember one interaction, now where `at` (seconds since 1970) is None; False where it was known already."""
        return bool(self.log_events([Event(item, time.time() if at is None else at, kind, value)]))

    def log_events(self, events: Iterable[Event]) -> int:
        """Remember interactions, all or none; return how many were new: the same one twice counts once."""
        with self.transaction() as connection:
            before = connection.total_changes
            connection.executemany(
                "insert or ignore into events (item, time, kind, value) values (?, ?, ?, ?)",
                ((e.item, e.time, e.kind, e.value) for e in events),
            )
            return connection.total_changes - before

    def history(self, kind: str | None = None) -> list[Event]:
        """Return the interactions, of one kind or all, in the order of time, those of equal time as they came in."""
        where, values = ("where kind = ?", [kind]) if kind else ("", [])
        rows = self.connection.execute(f"select item, time, kind, value from events {where} order by time, id", values)
        return [Event(*row) for row in rows]

    def count_events(self) -> int:
        """Return how many interactions are kept."""
        (count,) = self.connection.execute("select count(*) from events").fetchone()
        return int(count)

    def forget(self, item: str | None = None) -> int:
        """Delete one item's interactions, or all; return how many.

        What was computed from them goes too: the private parameters and the answers kept for sending again. That
        rounds were answered is remembered, so that none is answered twice. Deleted bytes are overwritten on disk.
        """
        with self.transaction() as connection:
            where, values = ("where item = ?", [item]) if item is not None else ("", [])
            gone = connection.execute(f"delete from events {where}", values).rowcount
            if gone or item is None:
                self._drop_derived(connection)
        self._overwrite()
        return gone

    def expire(self, retention_days: float | None, now: float | None = None) -> int:
        """Forget interactions older than that many days; return how many. None keeps all."""
        if retention_days is None:
            return 0
        oldest = (time.time() if now is None else now) - 86400 * retention_days
        with self.transaction() as connection:
            gone = connection.execute("delete from events where time < ?", [oldest]).rowcount
            if gone:
                self._drop_derived(connection)
        if gone:
            self._overwrite()
        return gone

    def generation(self) -> bytes:
        """Return what changes whenever something is forgotten: whoever computes meanwhile must drop the result."""
        row = self.connection.execute("select content from kept where name = 'generation'").fetchone()
        return row[0] if row else b""

    def _drop_derived(self, connection: sqlite3.Connection) -> None:
        connection.execute("insert or replace into kept values ('generation', ?)", [os.urandom(8)])
        connection.execute("delete from private")
        connection.execute("update answers set reply = null")

    def _overwrite(self) -> None:
        """Bring deletions into the main file and empty the log, so that no old page stays behind."""
        self.connection.execute("vacuum")
        self.connection.execute("pragma wal_checkpoint(truncate)")
