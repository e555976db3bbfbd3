"""Sources that a publisher offers as one archive: given by the user, or downloaded once."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedrec.data.archive import Files, open_files
from fedrec.data.download import fetch, verify
from fedrec.data.sources import Settings
from fedrec.errors import FedrecError


@dataclass(frozen=True, kw_only=True)
class Published(Settings):
    """A published archive `name`.zip, known by the file `needed` in it, whose checksum is pinned.

    `url` and `checksum` override where it is fetched from and what it must match. An archive that the user names by
    `path` is tested only where `checksum` is set: it may be packed anew.
    """

    name: ClassVar[str]
    needed: ClassVar[str]
    address: ClassVar[str]
    pinned: ClassVar[str]

    url: str | None = None
    checksum: str | None = None

    def files(self) -> Files:
        """Return the publisher's files, downloading them where no path is set."""
        if self.path is None:
            return open_files(self.get(), self.name, self.needed)
        files = open_files(Path(self.path), self.name, self.needed)
        if self.checksum and files.inside is None:
            raise FedrecError(f"{files.place}: dataset.checksum is that of an archive, and this is an unpacked folder")
        if self.checksum:
            verify(files.place, self.checksum)
        return files

    def get(self) -> Path:
        """Return the archive in the cache, fetched from the publisher where it is not there yet."""
        return fetch(self.url or self.address, self.checksum or self.pinned, f"{self.name}.zip")
