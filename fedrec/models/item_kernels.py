"""Public kernels: how near two items are by what the item file says.

A kernel returns the nearness [n, m] of rows [n] and columns [m] of the catalogue, between -1 and 1, so that a device
can evaluate it on the few rows that it needs and the server on its head. Nothing here depends on users.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.data.catalogue import Catalogue
from fedrec.models.text_embeddings import text_vectors

Rows = NDArray[np.int64]
Block = NDArray[np.float32]
Sparse = Any  # scipy ships no types
WORD = re.compile(r"[^\W_]+")
YEAR_AT_END = re.compile(r"\(\d{4}\)\s*$")
NUMBER_SCALES = (0.04, 0.2)  # of a column's range: three and fifteen years of eighty
ROW_SCALES = (3.0, 30.0)  # of the item file: neighbours in the publisher's own order
TITLE_SCALE = 10.0  # of the alphabetical order of titles: sequels stand together


@dataclass(frozen=True, slots=True)
class Place:
    """A number an item [V], in units of the length over which nearness falls to 1/e."""

    value: NDArray[np.float32]

    def block(self, rows: Rows, columns: Rows) -> Block:
        """Return exp(-|difference|)."""
        return np.exp(-np.abs(self.value[rows, None] - self.value[columns][None]))


@dataclass(frozen=True, slots=True)
class Cosine:
    """Unit rows [V, F]."""

    vectors: NDArray[np.float32]

    def block(self, rows: Rows, columns: Rows) -> Block:
        """Return the cosines of the rows and the columns."""
        return self.vectors[rows] @ self.vectors[columns].T


@dataclass(frozen=True, slots=True)
class SparseCosine:
    """Unit rows [V, F] in CSR."""

    vectors: Sparse

    def block(self, rows: Rows, columns: Rows) -> Block:
        """Return the cosines of the rows and the columns."""
        return (self.vectors[rows] @ self.vectors[columns].T).toarray()


Kernel = Place | Cosine | SparseCosine


def title_vectors(titles: NDArray[np.str_]) -> Sparse:
    """Return unit vectors of the words of titles [V, words], each weighing log(V / titles with it); no years."""
    words = [sorted(set(WORD.findall(YEAR_AT_END.sub("", str(title)).lower()))) for title in titles]
    spread = Counter(word for line in words for word in line)
    column = {word: n for n, word in enumerate(sorted(spread))}
    row = np.repeat(np.arange(len(words)), [len(line) for line in words])
    place = np.array([column[word] for line in words for word in line], np.int64)
    weight = np.log(len(words) / np.array([spread[word] for line in words for word in line], np.float64))
    length = np.sqrt(np.bincount(row, weight**2, len(words)))
    unit = (weight / np.maximum(length, 1e-12)[row]).astype(np.float32)
    return sparse.csr_array((unit, (row, place)), shape=(len(words), max(len(column), 1)))


def public_kernels(catalogue: Catalogue, encoder: str | None = None) -> dict[str, Kernel]:
    """Return the kernels that this catalogue's columns and titles allow, by name; the first word is the family.

    Columns "group:value" give one cosine a group; "position" nearness in the item file; every other column nearness on
    two scales; titles, where they say more than ids, the cosine of their words and nearness in alphabetical order.
    With an `encoder` (`fedrec/models/text.py`), "text" is the cosine of what it says of items, less the mean over all.
    """
    kernels: dict[str, Kernel] = {}
    groups: dict[str, list[NDArray[np.float32]]] = {}
    for column, name in zip(catalogue.features.T, catalogue.feature_names, strict=True):
        width = float(np.ptp(column)) if len(column) else 0.0
        if ":" in name:
            groups.setdefault(name.split(":")[0], []).append(column)
        elif name == "position":
            kernels |= {f"{name} {s:g}": Place((column * len(catalogue) / s).astype(np.float32)) for s in ROW_SCALES}
        elif width > 0:
            kernels |= {f"{name} {s:g}": Place((column / (s * width)).astype(np.float32)) for s in NUMBER_SCALES}
    for name, columns in groups.items():
        block = np.stack(columns, axis=1).astype(np.float64)
        unit = block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)
        kernels[name] = Cosine(unit.astype(np.float32))
    if not np.array_equal(catalogue.titles, catalogue.ids):
        order = np.argsort(np.argsort(np.char.lower(catalogue.titles), kind="stable"), kind="stable")
        kernels["title order"] = Place((order / TITLE_SCALE).astype(np.float32))
        kernels["title"] = SparseCosine(title_vectors(catalogue.titles))
    if encoder is not None:
        kernels["text"] = Cosine(_centred(text_vectors(catalogue, encoder)))
    return kernels


def _centred(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return unit rows of what each vector says beside the mean: language models put all texts on one side."""
    apart = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    return (apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-12)).astype(np.float32)
