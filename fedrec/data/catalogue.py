"""The public side of a data set: items, their titles and features, and how devices that lack them are sent them.

Features come from the item file, never from what users did. On the wire a catalogue is the same bytes for everybody.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import RefusedError


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items that everybody may know: `ids[items]`, `titles[items]` and `features[items, feature_names]`.

    `origin` is "item file" where the source lists its items apart from who used them, else "interactions":
    then the vocabulary depends on users and every privacy claim carries "assumed public".
    """

    ids: NDArray[np.str_]
    titles: NDArray[np.str_]
    features: NDArray[np.float32]
    feature_names: tuple[str, ...]
    origin: str

    def __len__(self) -> int:
        return len(self.ids)


def texts(values: Iterable[str]) -> NDArray[np.str_]:
    """Return texts as an array that takes as much memory as they are long together, whatever the longest."""
    return cast("NDArray[np.str_]", np.array(list(values), dtype=np.dtypes.StringDType()))


YEAR_IN_TITLE = re.compile(r"\((\d{4})[^()]*\)\s*$")
NO_GENRE = "(no genres listed)"


def position(items: int) -> NDArray[np.float32]:
    """Return [items, 1]: the row of the item file divided by the number of items, the publisher's own order."""
    return (np.arange(items) / max(items, 1)).astype(np.float32)[:, None]


def multi_hot(genres: Sequence[Sequence[str]]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return 0/1 [items, genres] and the genres' names in alphabetical order."""
    names = sorted({genre for row in genres for genre in row})
    column = {genre: n for n, genre in enumerate(names)}
    flags = np.zeros((len(genres), len(names)), np.float32)
    for row, of_item in enumerate(genres):
        flags[row, [column[genre] for genre in of_item]] = 1
    return flags, tuple(names)


def common_words(words: Sequence[Sequence[str]], least: int) -> list[list[str]]:
    """Return each item's words less those that fewer than `least` items have."""
    items_with = Counter(word for row in words for word in set(row))
    return [[word for word in row if items_with[word] >= least] for row in words]


def split_genres(text: str) -> list[str]:
    """Return the genres of "Comedy|Drama"."""
    return [genre for genre in text.split("|") if genre and genre != NO_GENRE]


def year_of(title: str) -> float:
    """Return the year at the end of "Toy Story (1995)", NaN where there is none."""
    match = YEAR_IN_TITLE.search(title)
    return float(match[1]) if match else float("nan")


def films(
    ids: Sequence[str], titles: Sequence[str], flags: NDArray[np.float32], genres: Sequence[str], years: Sequence[float]
) -> Catalogue:
    """Return a catalogue from an item file: genres as 0/1, the year (the median where unknown), the position."""
    year = np.asarray(years, np.float64)
    known = year[np.isfinite(year)]
    year = np.where(np.isfinite(year), year, np.median(known) if len(known) else 0.0).astype(np.float32)
    features = np.concatenate([flags, year[:, None], position(len(ids))], axis=1)
    names = (*(f"genre:{genre}" for genre in genres), "year", "position")
    return Catalogue(texts(ids), texts(titles), features.astype(np.float32), names, "item file")


Arrays = dict[str, NDArray[Any]]


def encode(catalogue: Catalogue) -> tuple[dict[str, Any], Arrays]:
    """Return (header, arrays) of a catalogue: texts as UTF-8 bytes one behind the other, and where each ends."""
    header = {"feature_names": list(catalogue.feature_names), "origin": catalogue.origin}
    arrays: Arrays = {"features": np.asarray(catalogue.features, np.float32)}
    for name, column in (("ids", catalogue.ids), ("titles", catalogue.titles)):
        arrays[f"{name}_text"], arrays[f"{name}_end"] = encode_texts(column)
    return header, arrays


def encode_texts(column: NDArray[np.str_]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return texts as UTF-8 bytes one behind the other, and where each ends."""
    encoded = [str(text).encode() for text in column]
    return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(text) for text in encoded], dtype=np.int64)


def decode(header: dict[str, Any], arrays: Arrays) -> Catalogue:
    """Return the catalogue that was encoded; anything else is `RefusedError`."""
    try:
        ids, titles = (decode_texts(arrays[f"{name}_text"], arrays[f"{name}_end"]) for name in ("ids", "titles"))
        names = tuple(str(name) for name in header["feature_names"])
        features, origin = np.asarray(arrays["features"], np.float32), str(header["origin"])
    except (KeyError, ValueError, TypeError) as error:
        raise RefusedError("the server sent something that is not a catalogue") from error
    if not len(ids) == len(titles) == len(features) or features.shape[1:] != (len(names),):
        raise RefusedError("the server sent a catalogue whose columns do not fit together")
    return Catalogue(ids, titles, features, names, origin)


def digest(catalogue: Catalogue) -> str:
    """Return a name for exactly this catalogue."""
    header, arrays = encode(catalogue)
    hasher = hashlib.sha256(repr(sorted(header.items())).encode())
    for name, array in sorted(arrays.items()):
        hasher.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()


def decode_texts(joined: NDArray[Any], ends: NDArray[Any]) -> NDArray[np.str_]:
    """Return the texts that were encoded; ends that are none are `ValueError`."""
    content, places = joined.tobytes(), [0, *ends.tolist()]
    if places != sorted(places) or places[-1] != len(content):
        raise ValueError("ends that are none")
    return texts(content[a:b].decode() for a, b in pairwise(places))
