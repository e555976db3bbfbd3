"""Published sources that the user brings: their publishers offer no archive of fixed address and content."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedrec.data.archive import Files, open_files
from fedrec.data.sources import Settings
from fedrec.errors import FedrecError


@dataclass(frozen=True, kw_only=True)
class Provided(Settings):
    """A source `name`, read from a folder or archive that `path` names and known by one of the files `needed`.

    `publisher` says in words who offers it.
    """

    name: ClassVar[str]
    needed: ClassVar[tuple[str, ...]]
    publisher: ClassVar[str]

    def files(self) -> tuple[Files, str]:
        """Return the publisher's files, and which of the names in `needed` is there."""
        if self.path is None:
            raise FedrecError(
                f"dataset.path is not set: dataset={self.name} reads {' or '.join(self.needed)} from a folder or zip "
                f"archive of yours ({self.publisher})"
            )
        for needed in self.needed[:-1]:
            try:
                return open_files(Path(self.path), self.name, needed), needed
            except FedrecError:
                continue
        return open_files(Path(self.path), self.name, self.needed[-1]), self.needed[-1]
