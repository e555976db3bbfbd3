"""Files as streams of bytes, unpacked as their first bytes say, and what kind of file those bytes begin.

Unpacking streams and is bounded: a small file that unpacks to an absurd size is refused, not obeyed.
"""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from fedrec.errors import FedrecError

PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
KINDS = {
    b"PAR1": "Parquet",
    b"PARE": "encrypted Parquet",
    b"ARROW1": "Arrow",
    b"\xff\xff\xff\xff": "Arrow stream",
    b"FEA1": "Feather 1",
    b"SQLite format 3\x00": "SQLite",
    b"\xd0\xcf\x11\xe0": "old Excel",
    b"%PDF": "PDF",
    b"ORC": "ORC",
    b"Obj\x01": "Avro",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "NumPy",
    b"\x80\x04\x95": "pickle",
    b"\x80\x05\x95": "pickle",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "RAR",
}
DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    MemoryError,
    OverflowError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    pa.ArrowException,
)
HEAD = 1 << 14  # bytes at the start of a file that are looked at
FREE, RATIO = 1 << 28, 200  # unpacked bytes that need no excuse, and how many times its size a file may unpack to


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or bytes, that can be read from the start again and again; `name` is what errors call it.

    `packed` says how it was packed, or nothing. `path` is where it lies as it is, where it lies in a file.
    """

    name: str
    open: Callable[[], BinaryIO]
    packed: str = ""
    path: Path | None = None

    def head(self, size: int = HEAD) -> bytes:
        """Return the first bytes."""
        with self.open() as stream:
            return stream.read(size)

    @property
    def size(self) -> int:
        """How many bytes there are; 0 where that is not known before they are unpacked."""
        return 0 if self.packed or self.path is None else self.path.stat().st_size

    @property
    def kind(self) -> str:
        """What the first bytes say: a name of `KINDS`, "Excel", "JSON" or "text"."""
        if self.packed == "Excel":
            return "Excel"
        head = self.head()
        for start, kind in KINDS.items():
            if head.startswith(start):
                return kind
        return "JSON" if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[") else "text"


def source_of(content: bytes, name: str) -> Source:
    """Return bytes that are not unpacked as a source."""
    return Source(name, lambda: io.BytesIO(content))


def open_source(path: Path) -> Source:
    """Return a file, unpacked where it is packed; a damaged archive is an error, so is one of several files."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
        packed = next((how for magic, how in PACKED.items() if start.startswith(magic)), "")
        if not packed:
            return Source(str(path), lambda: cast(BinaryIO, path.open("rb")), path=path)
        if packed == "zip" and _is_workbook(path):
            return Source(str(path), lambda: cast(BinaryIO, path.open("rb")), "Excel", path)
        opened = _opener(path, packed)
        return Source(str(path), lambda: _bounded(opened, path), packed, path)
    except FedrecError:
        raise
    except DAMAGED as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> FedrecError:
    """Return the error for a file that can't be unpacked."""
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return FedrecError(f"{path}: truncated or damaged, or not to be read ({why}); write or fetch it again")


def _is_workbook(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.startswith("xl/workbook") for name in archive.namelist())


def _opener(path: Path, packed: str) -> Callable[[], BinaryIO]:
    if packed == "zip":
        with zipfile.ZipFile(path) as archive:
            names = [one.filename for one in archive.infolist() if not one.is_dir()]
        names = [name for name in names if not name.startswith(("__MACOSX/", ".")) and "/." not in name]
        if len(names) != 1:
            found = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "none"
            raise FedrecError(f"{path}: an archive with one file is expected; found {found}: unpack it and name one")
        return lambda: cast(BinaryIO, zipfile.ZipFile(path).open(names[0]))
    if packed in ("zstd", "lz4"):
        return lambda: cast(BinaryIO, pa.CompressedInputStream(pa.OSFile(str(path)), packed))
    openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    return lambda: openers[packed](path, "rb")


def _bounded(opened: Callable[[], BinaryIO], path: Path) -> BinaryIO:
    try:
        stream = opened()
    except DAMAGED as error:
        raise damaged(path, error) from error
    return cast(BinaryIO, io.BufferedReader(_Bounded(stream, path), 1 << 20))


class _Bounded(io.RawIOBase):
    """What a packed file holds; an absurd size and damage are errors that name the file."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        super().__init__()
        self.stream, self.path, self.read_so_far = stream, path, 0
        self.most = max(FREE, RATIO * path.stat().st_size)

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        try:
            content = self.stream.read(len(buffer))
        except DAMAGED as error:
            raise damaged(self.path, error) from error
        self.read_so_far += len(content)
        if self.read_so_far > self.most:
            much = f"unpacks to more than {RATIO} times its size, as no log does"
            raise FedrecError(f"{self.path}: {much}; if it is right, unpack it yourself and name the unpacked file")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Close the file."""
        self.stream.close()
        super().close()
