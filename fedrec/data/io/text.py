"""Text files as blocks of UTF-8 and as records of fields: encodings, line ends, quotes and escapes in one place.

A fast reader takes the blocks; the records, read slowly, are for first lines and for saying what is wrong where.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TextIO

import numpy as np

from fedrec.data.io.unpack import Source
from fedrec.data.stages import tell
from fedrec.errors import FedrecError

MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
UNIT = "\x1f"  # stands in for separators of several characters, which Arrow can't split at
LONGEST = 1 << 22  # characters of a line
BLOCK = 1 << 23  # bytes that are read at a time; longer than any line
LINE_END = re.compile(rb"\r\n|\n|\r")
csv.field_size_limit(LONGEST)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is written: its `columns` by name, or empty where its first line names them.

    `quoted` says that a field may stand in quotes and then hold the separator, and `quote` in which; with `escape`
    the next character stands for itself. `skip` lines above the first one are no part of it.
    """

    separator: str = ","
    encoding: str = "utf-8"
    columns: tuple[str, ...] = ()
    quoted: bool = False
    quote: str = '"'
    escape: str = ""
    skip: int = 0

    @property
    def quotes(self) -> str | None:
        """Return the character of quotes; separators of several characters go without."""
        return self.quote if self.quoted and len(self.separator) == 1 else None


def codec_of(source: Source, encoding: str) -> str:
    """Return the codec of a text: what its byte order mark says, else the encoding stated."""
    head = source.head(4)
    for mark, name in MARKS:
        if head.startswith(mark):
            return "utf-8-sig" if name == "utf-8" else name
    try:
        "".encode(encoding)
        codec = codecs.lookup(encoding).name
    except LookupError as error:
        raise FedrecError(f"no encoding is called '{encoding}'; utf-8, latin-1 and utf-16 are") from error
    if codec == "utf-8" and b"\x00" in (start := source.head()):
        side = "utf-16-le" if start[1::2].count(0) >= start[::2].count(0) else "utf-16-be"
        wide = start.count(0) * 4 > len(start)
        what = f"the file is perhaps {side}: dataset.encoding={side}" if wide else "a text file is expected"
        line = start.count(b"\n", 0, start.index(b"\x00")) + 1
        raise FedrecError(f"{source.name}:{line}: byte 0x00 is not {encoding} text; {what}")
    return codec


def open_text(source: Source, encoding: str) -> TextIO:
    """Return the text from its start, lines ended as they are written; a byte order mark is no part of it."""
    return io.TextIOWrapper(source.open(), codec_of(source, encoding), newline="")


def lines_of(source: Source, encoding: str) -> Iterator[str]:
    """Yield every line with its end; bytes of another encoding and endless lines are errors that name the line."""
    number = 1
    try:
        with open_text(source, encoding) as text:
            while line := text.readline(LONGEST):
                if len(line) >= LONGEST:
                    raise FedrecError(f"{source.name}:{number}: a line of more than {LONGEST:,} characters")
                yield line
                number += 1
    except UnicodeError as error:
        raise misread(source, encoding) from error


def misread(source: Source, encoding: str) -> FedrecError:
    """Return the error that names the first byte that is not of the encoding, its line, and a likely one."""
    codec, line = codec_of(source, encoding), 1
    decoder = codecs.getincrementaldecoder(codec)()
    with source.open() as stream:
        while True:
            content = stream.read(1 << 16)
            held = len(decoder.getstate()[0])
            try:
                line += decoder.decode(content, not content).count("\n")
            except UnicodeDecodeError as error:
                at = max(error.start - held, 0)
                line += content[:at].count(b"\n")
                byte = error.object[error.start : error.start + 1].hex()
                likely = "windows-1252" if re.search(rb"[\x80-\x9f]", content) else "latin-1"
                message = f"{source.name}:{line}: byte 0x{byte} is not {encoding} text; the file is perhaps {likely}"
                return FedrecError(f"{message}: dataset.encoding={likely}, or save it as {encoding}")
            except UnicodeError as error:
                return FedrecError(f"{source.name}: not {encoding} text ({error})")
            if not content:
                return FedrecError(f"{source.name}: not {encoding} text")


def records(source: Source, layout: Layout) -> Iterator[tuple[int, int, list[str]]]:
    """Yield (first line, last line, fields) of every record that is not blank; `csv.Error` carries the first line."""
    lines = islice(lines_of(source, layout.encoding), layout.skip, None)
    if not layout.quotes and not layout.escape:
        for number, line in enumerate(lines, 1 + layout.skip):
            if text := line.rstrip("\r\n"):
                yield number, number, text.split(layout.separator)
        return
    reader = csv.reader(
        lines,
        delimiter=layout.separator,
        quotechar=layout.quotes,
        quoting=csv.QUOTE_MINIMAL if layout.quotes else csv.QUOTE_NONE,
        escapechar=layout.escape or None,
        strict=True,
    )
    start = 1 + layout.skip
    try:
        for fields in reader:
            last = reader.line_num + layout.skip
            if fields:
                yield start, last, fields
            start = last + 1
    except csv.Error as error:
        raise csv.Error(start, str(error)) from error


class UnclearQuotesError(Exception):
    """Quotes stand where none opens or closes a field: the file needs a slower look."""


class Utf8Blocks:
    """A text as blocks of whole records in UTF-8, from the line after `skip`; quotes are checked as they pass by.

    Quotes open a field at its start and close it at its end, or are doubled: anything else is `UnclearQuotesError`.
    """

    def __init__(self, source: Source, layout: Layout, skip: int) -> None:
        codec = codec_of(source, layout.encoding)
        plain = codec in ("utf-8", "utf-8-sig", "ascii")
        self.source, self.layout, self.skip, self.marked = source, layout, skip, codec == "utf-8-sig"
        self.decoder = None if plain else codecs.getincrementaldecoder(codec)()
        self.quote = (layout.quotes or "").encode()
        self.edges = np.zeros(256, bool)
        self.edges[list(b"\n\r" + self.quote + layout.separator.encode()[:1])] = True

    def __iter__(self) -> Iterator[bytes]:
        """Yield the blocks; a line, or a quoted field, longer than a block is an error."""
        held, done, size = b"", 0, self.source.size
        with self.source.open() as stream:
            if self.marked:
                stream.read(3)
            while True:
                content = stream.read(BLOCK)
                done, last = done + len(content), not content
                tell("reading", done, size)
                if self.decoder is not None:
                    content = self.decoder.decode(content, last).encode()
                held = self._skipped(held + content)
                cut = self._cut(held, last)
                if cut:
                    yield self._checked(held[:cut])
                held = held[cut:]
                if last:
                    return
                if len(held) > 2 * BLOCK:
                    raise UnclearQuotesError if self.quote in held else ValueError("a line without end")

    def _skipped(self, content: bytes) -> bytes:
        while self.skip and (found := LINE_END.search(content)):
            content, self.skip = content[found.end() :], self.skip - 1
        return b"" if self.skip else content

    def _cut(self, content: bytes, last: bool) -> int:
        """Return where the last whole record ends."""
        if last:
            return len(content)
        end = max(content.rfind(b"\n"), content.rfind(b"\r", 0, -1)) + 1
        while self.quote and end and content.count(self.quote, 0, end) % 2:
            end = max(content.rfind(b"\n", 0, end - 1), content.rfind(b"\r", 0, end - 1)) + 1
        return end

    def _checked(self, block: bytes) -> bytes:
        """Return a block with one character between fields, its quotes checked."""
        if self.quote and self.quote in block:
            letters = np.frombuffer(b"\n" + block + b"\n", np.uint8)
            at = np.flatnonzero(letters == self.quote[0])
            opens, closes = at[::2], at[1::2]
            if len(at) % 2 or not (self.edges[letters[opens - 1]].all() and self.edges[letters[closes + 1]].all()):
                raise UnclearQuotesError
        several = len(self.layout.separator) > 1
        return block.replace(self.layout.separator.encode(), UNIT.encode()) if several else block
