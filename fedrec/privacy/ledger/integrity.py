"""The newest entry of a ledger, in a second file: a ledger that was rolled back, cut or deleted no longer holds it.

Putting back an old copy of both files at once is found out only by what lies elsewhere: the head in the checkpoint of a
run, the head in its privacy card. FEDREC_ANCHORS puts the anchors on another disk than the ledgers. On a ledger that
was tampered with nothing may be spent.
"""

import fcntl
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from fedrec.errors import RefusedError
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
