"""Downloads from a publisher, once, into a cache, against a pinned checksum; and how archives are read.

A publisher's files may lie in an unpacked folder, in a zip archive, or in a folder that holds either.
"""

import hashlib
import os
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

import platformdirs

from fedrec.errors import FedrecError, suggest

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60


def cache() -> Path:
    """Return the folder of downloads: FEDREC_DATA, or the platform's own for user data."""
    return Path(os.environ.get("FEDREC_DATA") or platformdirs.user_data_dir("fedrec"))


def fetch(url: str, checksum: str | None, name: str) -> Path:
    """Return the file `name` of the cache, downloaded from `url` where it is not there yet.

    Either way it must match `checksum` ("sha256:..." or "md5:..."; None is refused). A download takes its name only
    when it is complete and right, so that a broken one leaves nothing behind.
    """
    if not checksum:
        raise FedrecError(f"{name}: no checksum of it is known: set dataset.checksum=sha256:... or dataset.path")
    target = cache() / name
    if target.is_file():
        verify(target, checksum)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{name}.{os.getpid()}.part")
    try:
        _download(url, part, name)
        _compare(part, checksum, f"{url}: downloaded bytes")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def verify(path: Path, checksum: str) -> None:
    """Refuse a file that does not match "sha256:..." or "md5:..."."""
    _compare(path, checksum, str(path))


def _compare(path: Path, checksum: str, what: str) -> None:
    kind, _, wanted = checksum.partition(":")
    if kind not in ("md5", "sha256") or not wanted:
        raise FedrecError(
            f"checksum '{checksum}': sha256:<hex> or md5:<hex> is expected.{suggest(kind, ['sha256', 'md5'])}"
        )
    # MD5 is what some publishers print: it finds damage, not forgery.
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != wanted.lower():
        message = f"{what}: wrong checksum {kind}:{digest.hexdigest()}; {checksum} is expected"
        raise FedrecError(f"{message}: delete the file and download it again, or set dataset.checksum if you trust it")


def _download(url: str, part: Path, name: str) -> None:
    way_round = f"dataset.path=... names a folder or archive that you already have ({name})"
    if not url.startswith(("http://", "https://")):
        raise FedrecError(f"{url}: an http or https address is expected; {way_round}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, part.open("wb") as file:
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
    except urllib.error.HTTPError as error:
        raise FedrecError(f"{url}: the server answers {error.code} {error.reason}; {way_round}") from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise FedrecError(f"{url}: can't be reached ({error}); {way_round}") from error


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
