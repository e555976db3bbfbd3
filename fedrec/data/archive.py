"""A publisher's files, wherever they lie: an unpacked folder, a zip archive, or a folder that holds either."""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fedrec.errors import FedrecError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one source: `place` is the folder or the archive, `inside` what precedes names in an archive."""

    place: Path
    inside: str | None = None

    def has(self, name: str) -> bool:
        """Say whether there is such a file."""
        if self.inside is None:
            return (self.place / name).is_file()
        return _unzip(self.place, lambda archive: f"{self.inside}{name}" in archive.namelist())

    def label(self, name: str) -> str:
        """Return what errors call a file."""
        return str(self.place / name if self.inside is None else self.place / f"{self.inside}{name}")

    def read(self, name: str) -> bytes:
        """Return the bytes of a file, its archive's own checksum tested."""
        if not self.has(name):
            raise FedrecError(f"{self.label(name)}: no such file; the publisher's layout has one of that name")
        if self.inside is None:
            return (self.place / name).read_bytes()
        return _unzip(self.place, lambda archive: archive.read(f"{self.inside}{name}"))


def open_files(path: Path, source: str, needed: str) -> Files:
    """Return the files of `source` ("ml-100k") under a path that holds its folder or archive, or is one of them.

    `needed` is the file by which they are known ("u.data").
    """
    if not path.exists():
        raise FedrecError(f"{path}: no such file or folder; dataset.path names {source}.zip or its unpacked folder")
    if path.is_file():
        return _open_archive(path, needed)
    for folder in (path, path / source):
        if (folder / needed).is_file():
            return Files(folder)
    if (path / f"{source}.zip").is_file():
        return _open_archive(path / f"{source}.zip", needed)
    raise FedrecError(
        f"{path}: holds neither {needed}, nor {source}/{needed}, nor {source}.zip; dataset.path needs one"
    )


def _open_archive(path: Path, needed: str) -> Files:
    names = _unzip(path, zipfile.ZipFile.namelist)
    roots = [name.removesuffix(needed) for name in names if name == needed or name.endswith(f"/{needed}")]
    if not roots:
        raise FedrecError(f"{path}: holds no {needed}; it is not the publisher's archive, or another edition of it")
    return Files(path, min(roots, key=len))


def _unzip(path: Path, use: Callable[[zipfile.ZipFile], T]) -> T:
    try:
        with zipfile.ZipFile(path) as archive:
            return use(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        message = f"{path}: truncated or damaged archive ({error}); a complete zip is expected: download it again"
        raise FedrecError(message) from error
