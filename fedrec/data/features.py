"""Public item features: what the item file says, never what users did."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue

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
    return Catalogue(np.array(ids), np.array(titles), features.astype(np.float32), names, "item file")
