"""Titles and features of items from a table with a row for each: numbers, categories, and several values in a field.

What fits no feature is named, with the reason: nothing is left out without a word.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue, multi_hot, position, texts
from fedrec.data.facts import Finding
from fedrec.data.io.table import Table
from fedrec.errors import FedrecError

MOST = 100  # values of a column that become features, the most common
SHARED = 2  # items that a value must have, to say what they have in common
YEARS = (1000, 2200)
NOTHING = ("", "nan", "null", "none")

Block = tuple[NDArray[np.float32], list[str]]


@dataclass(frozen=True, slots=True)
class ItemColumns:
    """Which columns of a table of items hold the id, the title and the features; None: all that are left and fit.

    `kinds` are RecBole's types of columns, where they are known; `between` stands between several values of a field.
    """

    id: str
    title: str | None = None
    features: Sequence[str] | None = None
    kinds: Mapping[str, str] | None = None
    between: str = "|"


def describe_items(table: Table, columns: ItemColumns) -> tuple[Catalogue, tuple[Finding, ...]]:
    """Return the catalogue of a table, and which of its columns became no features and why."""
    named = [name for name in (columns.id, columns.title, *(columns.features or ())) if name]
    table.require(named)
    ids = table.keys(columns.id)
    titles = table.texts(columns.title) if columns.title else ids
    others = [name for name in table.columns if name not in (columns.id, columns.title)]
    blocks, unread = list[Block](), dict[str, str]()
    for name in others:
        made = "not asked for" if name not in (columns.features or others) else _block(table, name, columns)
        if not isinstance(made, str):
            blocks.append(made)
        elif name in (columns.features or ()):
            raise FedrecError(f"{table.place(-1)}: column '{name}' can be no feature: {made}")
        else:
            unread[name] = made
    features = [values for values, _ in blocks] or [position(len(ids))]
    names = [name for _, labels in blocks for name in labels] or ["position"]
    said = ", ".join(f"{name} ({reason})" for name, reason in unread.items())
    findings = (Finding(f"columns of items that are no features: {said}"),) if said else ()
    shown = texts(title.strip() or item for title, item in zip(titles, ids, strict=True))
    made = np.concatenate(features, axis=1).astype(np.float32)
    return Catalogue(texts(ids), shown, made, tuple(names), "item file"), findings


def _block(table: Table, name: str, columns: ItemColumns) -> Block | str:
    """Return the features that a column makes, or why it makes none."""
    values, kind = [text.strip() for text in table.texts(name)], (columns.kinds or {}).get(name, "")
    there = [text for text in values if text.lower() not in NOTHING]
    if not there:
        return "blank"
    if kind == "float_seq":
        return _vectors(values, name)
    if kind in ("", "float") or _are_years(there):
        found = _numbers(there)
        if found is not None:
            return _filled(values, found), [name]
        if kind == "float":
            return "not all numbers"
    if kind == "token_seq" or (not kind and any(columns.between in text for text in there)):
        between = None if kind else columns.between
        return _flags([[part.strip() for part in text.split(between) if part.strip()] for text in values], name)
    return _flags([[text] if text.lower() not in NOTHING else [] for text in values], name)


def _numbers(values: Sequence[str]) -> list[float] | None:
    try:
        found = [float(text) for text in values]
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None


def _are_years(values: Sequence[str]) -> bool:
    return all(text.isdecimal() and YEARS[0] <= int(text[:6]) <= YEARS[1] for text in values)


def _filled(values: Sequence[str], found: Sequence[float]) -> NDArray[np.float32]:
    """Return numbers [V, 1], the median where there is none."""
    middle, numbers = float(np.median(found)), iter(found)
    return np.array([[middle if text.lower() in NOTHING else next(numbers)] for text in values], np.float32)


def _flags(values: Sequence[Sequence[str]], name: str) -> Block | str:
    """Return 0/1 for the most common values, those that two items share at least."""
    items_with = Counter(value for one in values for value in set(one))
    kept = [value for value, count in items_with.most_common(MOST) if count >= SHARED]
    if not kept or sum(items_with[value] for value in kept) < 0.5 * sum(items_with.values()):
        return "hardly any two items share a value"
    flags, labels = multi_hot([[value for value in one if value in kept] for one in values])
    return flags, [f"{name}:{label}" for label in labels]


def _vectors(values: Sequence[str], name: str) -> Block | str:
    """Return lists of equally many numbers as so many features, zeros where there is none."""
    rows = [_numbers(text.split()) for text in values]
    width = max((len(row) for row in rows if row), default=0)
    if any(row is None or len(row) not in (0, width) for row in rows):
        return "lists of different lengths"
    filled = [row or [0.0] * width for row in rows]
    return np.array(filled, np.float32), [f"{name}[{n}]" for n in range(width)]
