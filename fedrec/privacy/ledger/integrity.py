"""The newest entry of a ledger, in a second file: a ledger that was rolled back, cut or deleted no longer holds it.

Whoever puts back an old copy of both files at once is found out only by what lies elsewhere: the head in the checkpoint
of a run, the head in its privacy card. FEDREC_ANCHORS puts the anchors on another disk than the ledgers.
"""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from fedrec.errors import Refused


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
            raise Refused(
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
