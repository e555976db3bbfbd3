"""What is said of a ledger that was edited, cut, rolled back or deleted, and that nothing may be spent on it."""

import sqlite3
from pathlib import Path

from fedrec.errors import Refused
from fedrec.privacy.ledger.integrity import Anchor
from fedrec.privacy.ledger.verify import FIRST, held, problems

WITHOUT_IT = "Without one, nobody knows what these users have spent, and no epsilon can be claimed for them."


def check_there(path: Path, anchor: Anchor) -> None:
    """Raise `Refused` where the anchor knows entries and the ledger file is gone."""
    known = anchor.read()
    if known is not None and known[0] and not path.exists():
        raise Refused(
            f"the ledger {path} is gone, though its anchor {anchor.path} knows {known[0]} entries: put back its newest "
            f"copy, or set FEDREC_STATE to where it lies. {WITHOUT_IT}"
        )


def check_whole(database: sqlite3.Connection, path: Path, anchor: Anchor) -> None:
    """Raise `Refused`, saying what is wrong, unless every entry stands and the anchor's is among them.

    A ledger without entries gets its anchor here.
    """
    put_back = f"Put back the newest copy of the ledger. {WITHOUT_IT}"
    if found := read_problems(database):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise Refused(f"the ledger {path} was tampered with or damaged: {found[0]}{more}. {put_back}")
    known = anchor.read()
    if known is None and database.execute("SELECT 1 FROM entries LIMIT 1").fetchone():
        raise Refused(
            f"the ledger {path} has lost its anchor {anchor.path}, which tells whether it is the newest: put the "
            "anchor back, or set FEDREC_ANCHORS to where it lies"
        )
    if known is None:
        anchor.create(0, FIRST)
    elif not held(database, known[1], known[0]):
        raise Refused(
            f"the ledger {path} was rolled back, cut or replaced: entry {known[0]}, which its anchor {anchor.path} "
            f"knows, is not in it. {put_back}"
        )


def read_problems(database: sqlite3.Connection) -> list[str]:
    """Return what is wrong with a ledger, an entry that can't even be read included."""
    try:
        return list(problems(database))
    except (KeyError, TypeError, ValueError) as error:
        return [f"an entry can't be read ({type(error).__name__})"]
