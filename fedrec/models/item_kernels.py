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
LARGEST_EXPONENT = 300.0  # of a product of two exponentials in double precision
TITLE_SCALE = 10.0  # of the alphabetical order of titles: sequels stand together


@dataclass(frozen=True, slots=True)
class Place:
    """A number an item [V], in units of the length over which nearness falls to 1/e."""

    value: NDArray[np.float32]

    def block(self, rows: Rows, columns: Rows) -> Block:
        """Return exp(-|difference|)."""
        return np.exp(-np.abs(self.value[rows, None] - self.value[columns][None]))

    def mean_block(self, rows: Rows, weights: NDArray[np.float64], columns: Rows) -> NDArray[np.float32]:
        """Return weights [n] times the block [n, m].

        exp(-|a - b|) is exp(a) exp(-b) below b and exp(-a) exp(b) above it, so that sums up to each column will do.
        """
        order = np.argsort(self.value[rows])
        value, wanted = self.value[rows[order]].astype(np.float64), self.value[columns].astype(np.float64)
        middle = (float(value[0]) + float(value[-1])) / 2
        if max(float(np.abs(wanted - middle).max(initial=0)), float(value[-1]) - middle) > LARGEST_EXPONENT:
            return (weights @ self.block(rows, columns)).astype(np.float32)
        up, weight = np.exp(value - middle), weights[order]
        below = np.concatenate([[0.0], np.cumsum(weight * up)])
        above = np.concatenate([np.cumsum((weight / up)[::-1])[::-1], [0.0]])
        place, rise = np.searchsorted(value, wanted, side="right"), np.exp(wanted - middle)
        return (below[place] / rise + above[place] * rise).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Cosine:
    """Unit rows [V, F]."""

    vectors: NDArray[np.float32]

    def block(self, rows: Rows, columns: Rows) -> Block:
        """Return the cosines of the rows and the columns."""
        return self.vectors[rows] @ self.vectors[columns].T

    def mean_block(self, rows: Rows, weights: NDArray[np.float64], columns: Rows) -> NDArray[np.float32]:
        """Return weights [n] times the block [n, m]."""
        mean: NDArray[np.float32] = weights.astype(np.float32) @ self.vectors[rows]
        return self.vectors[columns] @ mean


@dataclass(frozen=True, slots=True)
class SparseCosine:
    """Unit rows [V, F] in CSR."""

    vectors: Sparse

    def block(self, rows: Rows, columns: Rows) -> Block:
        """Return the cosines of the rows and the columns."""
        return (self.vectors[rows] @ self.vectors[columns].T).toarray()

    def mean_block(self, rows: Rows, weights: NDArray[np.float64], columns: Rows) -> NDArray[np.float32]:
        """Return weights [n] times the block [n, m]."""
        # Over the whole catalogue: taking a few rows of a sparse matrix out takes longer than to multiply all.
        one = np.bincount(rows, weights, self.vectors.shape[0]).astype(np.float32)
        return (self.vectors @ (self.vectors.T @ one))[columns]


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
