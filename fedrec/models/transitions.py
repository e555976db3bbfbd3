"""Order statistics: what follows what, released once, scored on the device from what it used last.

The score of item j after a history s_1 .. s_n is

    log sum_k decay^k P[s_(n-k), j] - popularity * log counts[j]            over the `near` window of last items
    + weight * (the same over the `far` window with its own decay and exponent)
    + freshness * log(how often j is among the last items of users, over what its counts let expect)

P[i, j] = transitions[i, j] / counts[i]: released estimates where both items are in the head, elsewhere what public
features and the released counts expect, computed on the device. Nothing about the history leaves it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Arrays, Recommender, check_sizes
from fedrec.models.item_head import check_head
from fedrec.models.item_kernels import Block, Rows
from fedrec.models.transition_prior import Expectation, sizes

KEPT_CELLS = 100_000_000  # of P: 400 MB where devices of one machine ask for so many rows of it
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


class OrderStatistics(Recommender):
    """Shares H (H - 1) / 2 released weights of head pairs for either part, two counts [V] and a few coefficients.

    `counts[V]` are positive; `symmetric` and `antisymmetric` are strict upper triangles over the head in units in which
    popularity alone expects counts[i] counts[j] / sum(counts); `symmetric_weights` and `antisymmetric_weights` are the
    coefficients of `Expectation`, whose `encoder` must be the algorithm's; `freshness[V]` is a logarithm.
    """

    name: ClassVar[str] = "order"
    shared = frozenset(
        {
            "counts",
            "freshness",
            "head_items",
            "symmetric",
            "antisymmetric",
            "symmetric_weights",
            "antisymmetric_weights",
        }
    )

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
        self.windows = near, far
        self.freshness_weight, self.catalogue, self.encoder = freshness, catalogue, encoder
        symmetric, antisymmetric = sizes(catalogue, encoder)
        for name, shape in (
            ("freshness", self.items),
            ("symmetric", size * (size - 1) // 2),
            ("antisymmetric", size * (size - 1) // 2),
            ("symmetric_weights", symmetric),
            ("antisymmetric_weights", antisymmetric),
        ):
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("counts", torch.ones(self.items))
        self.register_buffer("head_items", torch.arange(size, dtype=torch.float32))
        self._known: _Released | None = None

    def load(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Copy named arrays into the model; what was computed from the old ones is forgotten."""
        super().load(arrays)
        self._known = None

    def scores(self, history: Tensor) -> Tensor:
        """Return a score for every item [V]; without a history, popularity and freshness alone."""
        past = history.cpu().numpy().astype(np.int64)[::-1]
        level = np.log(cast(Tensor, self.counts).cpu().numpy().clip(1e-12))
        score = self.freshness_weight * cast(Tensor, self.freshness).cpu().numpy()
        if not len(past):
            return torch.from_numpy((score + level).astype(np.float32)).to(history.device)
        longest = past[: max(window.items for window in self.windows)]
        rows = self._transitions(longest)
        for one in self.windows:
            factor = (np.float32(one.decay) ** np.arange(len(past[: one.items]))).astype(np.float32)
            nearness = np.log(factor @ rows[: one.items] + np.float32(1e-12))
            score = score + one.weight * (nearness - one.popularity * level)
        return torch.from_numpy(score.astype(np.float32)).to(history.device)

    def _transitions(self, items: Rows) -> Block:
        """Return P[items, :] [n, V]."""
        if self._known is None:
            arrays = self.shared_arrays()
            self._known = _Released(Expectation(self.catalogue, arrays["counts"], self.encoder), arrays)
        return self._known.kept_rows(items)


class _Released:
    """What was released, ready to give rows of P."""

    def __init__(self, expectation: Expectation, arrays: Arrays) -> None:
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

    def kept_rows(self, items: Rows) -> Block:
        """Return P[items, :] [n, V], each row computed once while there is room to keep it."""
        new = np.unique(items[self._line[items] < 0])[: len(self._table) - self._lines]
        if len(new):
            lines = np.arange(self._lines, self._lines + len(new))
            self._table[lines], self._line[new] = self.rows(new), lines
            self._lines += len(new)
        kept = self._line[items]
        if (kept >= 0).all():
            return self._table[kept]
        found = np.empty((len(items), len(self.place)), np.float32)
        found[kept >= 0], found[kept < 0] = self._table[kept[kept >= 0]], self.rows(items[kept < 0])
        return found

    def rows(self, items: Rows) -> Block:
        """Return P[items, :] [n, V]."""
        every = np.arange(len(self.place))
        both, ascending = self.expectation.expected(self.weights, items, every)
        base = self.expectation.base(items, every)
        found = combined(np.maximum(both, LEAST_EXPECTED * base), ascending, base)
        inside = np.flatnonzero(self.place[items] >= 0)
        found[np.ix_(inside, self.head)] = self.block[self.place[items[inside]]]
        found[np.arange(len(items)), items] = 0
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
