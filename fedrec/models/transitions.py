"""Order statistics: what follows what, released once, scored on the device from what it used last.

The score of item j is a weighted sum of what the device's history says of it (`fedrec.models.history_features`). The
weights start as

    log sum_k decay^k P[s_(n-k), j] - popularity * log counts[j]            over the `near` window of last items
    + weight * (the same over the `far` window with its own decay and exponent)
    + freshness * log(how often j is among the last items of users, over what its counts let expect)

and are released too where the algorithm learns them.
P[i, j] = transitions[i, j] / counts[i]: released estimates where both items are in the head, elsewhere what public
features and the released counts expect, computed on the device. Nothing about the history leaves it.

What public features and popularity alone expect of item-to-item transitions: a linear model of few coefficients.

expected[i, j] = base[i, j] * sum_l weights[l] feature_l[i, j], base[i, j] = counts[i] counts[j] / sum(counts); one such
model for the symmetric part of the transitions and one for their direction. The coefficients are fitted to noisy sums
over millions of cells, so that next to no noise is left in them; a device evaluates them on the rows that it needs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Arrays, ModelInput, Recommender, check_sizes
from fedrec.models.ease import check_head
from fedrec.models.history_features import HistoryFeatures, Past, feature_kernels, feature_names
from fedrec.models.item_kernels import Block, Kernel, Rows, public_kernels
from fedrec.models.text_embeddings import encoder_input

Floats = NDArray[np.float32]
NEAR_SHARE = 0.06  # of a column's range: how far items differ until their order is fully felt
CHUNK = 256  # rows whose features are held at once


def sizes(catalogue: Catalogue, encoder: str | None = None) -> tuple[int, int]:
    """Return how many coefficients the symmetric and the antisymmetric model have for this catalogue and encoder."""
    return TransitionPrior(catalogue, np.ones(len(catalogue), np.float32), encoder).sizes()


class TransitionPrior:
    """The features of pairs of items, for counts [V] above 0; `encoder` is that of `public_kernels`."""

    def __init__(self, catalogue: Catalogue, counts: Floats, encoder: str | None = None) -> None:
        self.kernels: dict[str, Kernel] = public_kernels(catalogue, encoder)
        self.counts = counts.astype(np.float64)
        level = np.log(self.counts)
        self.level = ((level - level.mean()) / max(float(level.std()), 1e-12)).astype(np.float32)
        self._ordered = {
            name: (column / max(float(np.ptp(column)), 1e-12)).astype(np.float32)
            for name, column in zip(catalogue.feature_names, catalogue.features.T, strict=True)
            if ":" not in name
        }

    def sizes(self) -> tuple[int, int]:
        """Return how many coefficients the symmetric and the antisymmetric model have."""
        few = np.arange(min(len(self.counts), 1))
        return len(list(self.symmetric(few, few))), len(list(self.antisymmetric(few, few)))

    def base(self, rows: Rows, columns: Rows) -> Block:
        """Return what popularity alone expects, [n, m]."""
        return np.outer(self.counts[rows] / self.counts.sum(), self.counts[columns]).astype(np.float32)

    def symmetric(self, rows: Rows, columns: Rows) -> Iterator[Block]:
        """Yield the features of the symmetric part: a constant, every kernel, every product of two families."""
        yield np.ones((len(rows), len(columns)), np.float32)
        kernels = {**self._public(rows, columns), **self._popular(rows, columns)}
        if "title" in kernels:
            kernels["title cubed"] = np.maximum(kernels["title"], 0) ** 3
        yield from kernels.values()
        for (one, a), (other, b) in combinations(kernels.items(), 2):
            if one.split()[0] != other.split()[0]:
                yield a * b

    def antisymmetric(self, rows: Rows, columns: Rows) -> Iterator[Block]:
        """Yield the features of the direction: the signs of differences, alone and times each kernel."""
        near = [*self._public(rows, columns).values(), self._popular(rows, columns)["popularity near"]]
        for sign in self._signs(rows, columns):
            yield sign
            yield from (sign * kernel for kernel in near)

    def expected(self, weights: tuple[Floats, Floats], rows: Rows, columns: Rows) -> tuple[Block, Block]:
        """Return both parts [n, m] for their coefficients."""
        shape = (len(rows), len(columns))
        found = np.empty(shape, np.float32), np.empty(shape, np.float32)
        for first in range(0, len(rows), CHUNK):
            part = rows[first : first + CHUNK]
            for out, features, theta in zip(
                found, (self.symmetric(part, columns), self.antisymmetric(part, columns)), weights, strict=True
            ):
                out[first : first + CHUNK] = _weighted(features, theta, len(part), len(columns))
                out[first : first + CHUNK] *= self.base(part, columns)
        return found

    def _public(self, rows: Rows, columns: Rows) -> dict[str, Block]:
        return {name: kernel.block(rows, columns) for name, kernel in self.kernels.items()}

    def _popular(self, rows: Rows, columns: Rows) -> dict[str, Block]:
        one, other = self.level[rows, None], self.level[columns][None]
        square = (one - other) ** 2
        return {
            "popularity near": np.exp(-0.5 * square),
            "popularity nearer": np.exp(-3.125 * square),
            "popularity sum": np.maximum(one + other, np.float32(-3)) / 2,
        }

    def _signs(self, rows: Rows, columns: Rows) -> Iterator[Block]:
        yield np.tanh(self.level[columns][None] - self.level[rows, None])
        for name, column in self._ordered.items():
            change = column[columns][None] - column[rows, None]
            yield np.sign(change) if name == "position" else np.tanh(change / np.float32(NEAR_SHARE))


def _weighted(features: Iterator[Block], theta: Sequence[float] | Floats, rows: int, columns: int) -> Block:
    found = np.zeros((rows, columns), np.float32)
    for feature, weight in zip(features, theta, strict=True):
        found += feature * np.float32(weight)
    return found


SUMS, COEFFICIENTS = ("symmetric", "antisymmetric"), ("symmetric_weights", "antisymmetric_weights")
KEPT_CELLS = 100_000_000  # of P: 400 MB where devices of one machine ask for so many rows of it
MANY = 8  # one in so many rows of P are computed as they are asked for, then all others at once
LEAST_EXPECTED, LEAST = 0.1, 0.05  # of what popularity alone expects: no transition is rarer
LARGEST_EXCESS = 0.95  # of a pair's weight: how one-sided it can be


@dataclass(frozen=True, slots=True)
class Window:
    """The last `items` of a history: each older one weighs `decay` of the next, counts are raised to `popularity`."""

    items: int
    decay: float
    popularity: float
    weight: float = 1.0


NEAR, FAR = Window(10, 0.7, 0.45), Window(40, 0.95, 0.9, 0.5)


class ItemTransitionModel(Recommender):
    """Shares H (H - 1) / 2 released weights of head pairs for either part, two counts [V] and a few coefficients.

    `counts[V]` are positive; `symmetric` and `antisymmetric` are strict upper triangles over the head in units in which
    popularity alone expects counts[i] counts[j] / sum(counts); `symmetric_weights` and `antisymmetric_weights` are the
    coefficients of `TransitionPrior`, whose `encoder` must be the algorithm's; `freshness[V]` is a logarithm;
    `feature_weights` are those of the `feature_names`.
    """

    name: ClassVar[str] = "order"
    shared = frozenset({"counts", "freshness", "head_items", "feature_weights", *SUMS, *COEFFICIENTS})

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        head: int = 1500,
        near: Window = NEAR,
        far: Window = FAR,
        freshness: float = 0.5,
        encoder: str | None = None,
    ) -> None:
        super().__init__()
        for name, window in (("near", near), ("far", far)):
            check_sizes(**{f"{name}.items": window.items, f"{name}.decay": window.decay})
        self.items, size = len(catalogue), check_head(head, len(catalogue), 8)
        self.freshness_weight = freshness
        self.pasts = {name: Past(window.items, window.decay) for name, window in (("near", near), ("far", far))}
        self.catalogue, self.encoder = catalogue, encoder
        expectation = TransitionPrior(catalogue, np.ones(len(catalogue), np.float32), encoder)
        shapes = {name: size * (size - 1) // 2 for name in SUMS} | {"freshness": self.items}
        shapes |= dict(zip(COEFFICIENTS, expectation.sizes(), strict=True))
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("counts", torch.ones(self.items))
        self.register_buffer("head_items", torch.arange(size, dtype=torch.float32))
        start = {"near": near.weight, "far": far.weight, "fresh": freshness}
        start["level"] = -(near.weight * near.popularity + far.weight * far.popularity)
        names = feature_names(feature_kernels(expectation.kernels, catalogue))
        self.register_buffer("feature_weights", torch.tensor([start.get(name, 0.0) for name in names]))
        self._known: HistoryFeatures | None = None

    def inputs(self, catalogue: Catalogue) -> tuple[ModelInput, ...]:
        """Return the encoder of titles."""
        return encoder_input("model.encoder", self.encoder, catalogue)

    def load(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Copy named arrays into the model; what was computed from old ones that differ is forgotten."""
        own = self.state_dict()
        if not all(name in own and np.array_equal(own[name].cpu().numpy(), array) for name, array in arrays.items()):
            super().load(arrays)
            self._known = None

    def scores(self, history: Tensor) -> Tensor:
        """Return a score for every item [V]; without a history, popularity and freshness alone."""
        past, features = history.cpu().numpy(), self.features()
        weights = cast(Tensor, self.feature_weights).cpu().numpy()
        if not len(past):
            weights = np.zeros_like(weights)
            weights[features.names.index("level")] = 1.0
            weights[features.names.index("fresh")] = self.freshness_weight
            past = np.zeros(1, np.int64)  # what no feature of weight above 0 looks at
        wanted = np.flatnonzero(weights)
        return torch.from_numpy(weights[wanted] @ features.of(past, wanted=wanted.tolist())).to(history.device)

    def features(self) -> HistoryFeatures:
        """Return the features that the arrays loaded last make of a history."""
        if self._known is None:
            self._known = history_features(self.catalogue, self.shared_arrays(), self.pasts, self.encoder)
        return self._known


def history_features(
    catalogue: Catalogue, arrays: Arrays, pasts: Mapping[str, Past], encoder: str | None = None
) -> HistoryFeatures:
    """Return the features that the model's arrays make of a history."""
    expectation = TransitionPrior(catalogue, arrays["counts"], encoder)
    kernels = feature_kernels(expectation.kernels, catalogue)
    transitions = ReleasedTransitions(expectation, arrays).at
    return HistoryFeatures(kernels, arrays["counts"], arrays["freshness"], transitions, pasts)


class ReleasedTransitions:
    """P from what was released: rows over the whole catalogue are computed once, while there is room to keep them."""

    def __init__(self, expectation: TransitionPrior, arrays: Arrays) -> None:
        self.head, self.expectation = arrays["head_items"].astype(np.int64), expectation
        items = len(arrays["counts"])
        self.weights = arrays["symmetric_weights"], arrays["antisymmetric_weights"]
        self.place = np.full(items, -1)
        self.place[self.head] = np.arange(len(self.head))
        both, ascending = (unfolded(arrays[name], len(self.head)) for name in ("symmetric", "antisymmetric"))
        self.block = both + both.T + ascending - ascending.T

        # Not touched before a row is written, so that a single device holds no more than its own rows.
        self._table = np.empty((min(items, KEPT_CELLS // items), items), np.float32)
        self._line, self._lines = np.full(items, -1), 0

    def at(self, items: Rows, columns: Rows | None = None) -> Block:
        """Return P[items, columns] [n, m], over the whole catalogue where `columns` is None."""
        new = np.unique(items[self._line[items] < 0])
        if len(new) and len(self._table) == len(self.place) and self._lines > len(self.place) // MANY:
            new = np.flatnonzero(self._line < 0)  # who asks for so many will ask for all
        new = new[: len(self._table) - self._lines]
        for some in (new[first : first + CHUNK] for first in range(0, len(new), CHUNK)):
            lines = np.arange(self._lines, self._lines + len(some))
            self._table[lines], self._line[some] = self.computed(some), lines
            self._lines += len(some)
        kept = self._line[items]
        if (kept >= 0).all():
            return self._table[kept] if columns is None else self._table[kept].take(columns, axis=1)
        found = np.empty((len(items), len(self.place) if columns is None else len(columns)), np.float32)
        every = slice(None) if columns is None else columns
        found[kept >= 0] = self._table[kept[kept >= 0]][:, every]
        found[kept < 0] = self.computed(items[kept < 0], columns)
        return found

    def computed(self, items: Rows, columns: Rows | None = None) -> Block:
        """Return P[items, columns] [n, m] anew."""
        every = np.arange(len(self.place)) if columns is None else columns
        both, ascending = self.expectation.expected(self.weights, items, every)
        base = self.expectation.base(items, every)
        found = combined(np.maximum(both, LEAST_EXPECTED * base), ascending, base)
        inside, along = np.flatnonzero(self.place[items] >= 0), np.flatnonzero(self.place[every] >= 0)
        found[np.ix_(inside, along)] = self.block[np.ix_(self.place[items[inside]], self.place[every[along]])]
        found[items[:, None] == every] = 0
        return found / self.expectation.counts[items, None].astype(np.float32)


def unfolded(flat: NDArray[np.float32], size: int) -> Block:
    """Return a flat strict upper triangle as a matrix [H, H] with zeros elsewhere."""
    found = np.zeros((size, size), np.float32)
    found[np.triu_indices(size, 1)] = flat
    return found


def combined(both: Block, ascending: Block, base: Block) -> Block:
    """Return both parts joined to positive transitions: no pair is wholly one-sided, none rarer than LEAST * base."""
    both = np.maximum(both, LEAST * base)
    bound = LARGEST_EXCESS * both
    return np.maximum(both + np.clip(ascending, -bound, bound), LEAST * base)
