"""EASE as two sums over devices: counts choose the head, then one bounded Gram matrix over it, solved on the server.

Steck 2019, eq. 8, with every user weighing 1/n: the Gram matrix of a unit-length history has length one, its upper
triangle with the diagonal at most one (invariant P5). By default the same weight is used with and
without a mechanism, so that the two differ by the noise alone.

Item-kNN from the sums of EASE: the same counts and Gram matrix, read as cosines.

Sarwar et al., "Item-based collaborative filtering recommendation algorithms", 2001, with a shrunk cosine:
g_ij / (sqrt(g_ii g_jj) + shrink), every user weighing 1/n.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from fedrec.algorithms.base import StatisticAlgorithm
from fedrec.algorithms.item_bounds import ItemBound, bounding, check_shortest_history
from fedrec.algorithms.item_counts import bounded_counts
from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import Arrays, cells
from fedrec.models.base import Recommender
from fedrec.models.ease import Ease, ItemKnn, same_head
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import Aggregate


def bounded_gram(
    history: NDArray[np.int32], head: NDArray[np.int64], items: int, exponent: float = 1.0, shortest_history: int = 1
) -> NDArray[np.float32]:
    """Return the upper triangle, diagonal included, of x x' / (x'x)^exponent for the device's items in the head, flat.

    Its length is at most one where the exponent is at least 1; fewer than `shortest_history` items weigh no more each
    than so many do. In double precision, so that the sum is the pooled one to the last digits.
    """
    place = np.full(items, -1)
    place[head] = np.arange(len(head))
    inside = np.sort(place[np.unique(history)])
    inside = inside[inside >= 0]
    row, column = (inside[i] for i in np.triu_indices(len(inside)))
    index = row * len(head) - row * (row - 1) // 2 + column - row
    return cells(
        index, np.full(len(index), max(len(inside), shortest_history) ** -exponent), (len(head) * (len(head) + 1) // 2,)
    )


def unfolded_gram(flat: NDArray[np.floating], size: int) -> NDArray[np.float64]:
    """Return the symmetric matrix [H, H] of a flat upper triangle with its diagonal."""
    gram = np.zeros((size, size))
    gram[np.triu_indices(size)] = flat
    return gram + np.triu(gram, 1).T


def solve(flat: NDArray[np.floating], size: int, regularization: float) -> NDArray[np.float64]:
    """Return EASE's weights [H, H] from the flat upper triangle of the Gram matrix.

    Noise can leave the matrix without a positive direction; it is brought back to the nearest positive semi-definite
    one first. `regularization` is in units of the mean diagonal.
    """
    gram = unfolded_gram(flat, size)
    value, vector = linalg.eigh(gram)
    value = np.maximum(value, 0.0)
    ridge = regularization * max(float(value.mean()), 1e-12)
    inverse = (vector / (value + ridge)) @ vector.T
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


@dataclass(frozen=True, slots=True)
class GramMatrix(StatisticAlgorithm):
    """Round 1 sums counts, round 2 Gram matrices over the head of the catalogue by those counts.

    A user with n items in the head weighs n^-`user_exponent`. Below 1 long histories weigh more than short ones, and
    what one user adds has no bound: that needs `privacy=none`. With a `shortest_history` no device says more of an
    item, of a pair, or of all pairs of an item, than a history of so many items does.
    """

    name: ClassVar[str] = "gram"
    head: int = 1500
    regularization: float = 1.0
    count_share: float = 0.1
    user_exponent: float = 1.0
    shortest_history: int | str | None = None

    float64_arrays: ClassVar[frozenset[str]] = frozenset({"gram"})
    accepts: ClassVar[tuple[type[Recommender], ...]] = (Ease,)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.regularization) and self.regularization > 0):
            raise FedrecError(f"algorithm.regularization={self.regularization} must be a positive number")
        if not 0 < self.count_share < 1:
            raise FedrecError(f"algorithm.count_share={self.count_share} must lie between 0 and 1")
        if not 0 <= self.user_exponent <= 2:
            raise FedrecError(f"algorithm.user_exponent={self.user_exponent} must lie between 0 and 2")
        check_shortest_history(self.shortest_history)

    def init(self, model: Recommender, catalogue: Catalogue) -> Arrays:
        """Start from no counts and no weights; "stage/gram" says which of the two rounds comes next."""
        shared = model.shared_arrays()
        same_head(self.head, len(shared["head_items"]), len(catalogue))
        return {**shared, "stage/gram": np.zeros(1, np.float32)}

    def rounds(self, rounds: int) -> int:
        """Take two rounds, whatever is asked for."""
        return 2

    def budget_shares(self, rounds: int) -> tuple[float, ...] | None:
        """Spend `count_share` of the budget on the counts and the rest on the Gram matrix."""
        return (self.count_share, 1 - self.count_share)

    def broadcast(self, state: Arrays) -> Arrays:
        """Send everything that a device needs to know which round it is, and to score."""
        return state

    def sensitivity(self, unit: Unit) -> float | None:
        """One at user level. One interaction re-weighs a whole history, for which there is no argument here."""
        if unit == Unit.USER and self.user_exponent < 1:
            weight = f"algorithm.user_exponent={self.user_exponent:g}"
            raise RefusedError(f"{weight} leaves what one user adds without a bound: take at least 1, or privacy=none")
        return 1.0 if unit in (Unit.USER, Unit.NONE) else None

    def weights(self, flat: NDArray[np.floating], size: int) -> NDArray[np.float32]:
        """Return what the model scores by [H, H], from the flat (noised) Gram matrix."""
        return solve(flat, size, self.regularization).astype(np.float32)

    def shapes(self, state: Arrays) -> dict[str, tuple[int, ...]]:
        """Expect counts [V] in the first round, a flat triangle [H (H + 1) / 2] in the second."""
        size = len(state["head_items"])
        return {"gram": (size * (size + 1) // 2,)} if state["stage/gram"][0] else {"counts": state["counts"].shape}

    def statistic(self, broadcast: Arrays, device: DeviceData, unit: Unit) -> Arrays:
        """Return the device's counts in the first round, its Gram matrix in the second."""
        items, shortest = len(broadcast["counts"]), bounding(self.shortest_history, unit)
        if not broadcast["stage/gram"][0]:
            return {"counts": bounded_counts(device.history, items, Unit.USER, shortest)}
        head = broadcast["head_items"].astype(np.int64)
        return {"gram": bounded_gram(device.history, head, items, self.user_exponent, shortest or 1)}

    def item_bounds(self, unit: Unit, state: Arrays) -> dict[str, ItemBound]:
        """Bound each count, each pair, and the sum over the pairs of an item, which is n^(1 - user_exponent)."""
        if (n := bounding(self.shortest_history, unit)) is None:
            return {}
        row = n ** (1 - self.user_exponent) if self.user_exponent >= 1 else math.inf
        return {"counts": ItemBound(n**-0.5), "gram": ItemBound(n**-self.user_exponent, row, diagonal=True)}

    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        """Choose the head by the counts, or solve for the weights."""
        size = len(state["head_items"])
        if state["stage/gram"][0]:
            return {**state, "weights": self.weights(total.arrays["gram"], size)}
        counts = total.arrays["counts"]
        head = np.sort(np.argsort(-counts, kind="stable")[:size]).astype(np.float32)
        return {**state, "counts": counts, "head_items": head, "stage/gram": np.ones(1, np.float32)}


@dataclass(frozen=True, slots=True)
class ItemKnnGram(GramMatrix):
    """Keeps the `neighbours` most similar items of each; `shrink` is in units of the Gram matrix's mean diagonal."""

    name: ClassVar[str] = "neighbours"
    shrink: float = 1.0
    neighbours: int = 50

    accepts: ClassVar[tuple[type[Recommender], ...]] = (ItemKnn,)

    def __post_init__(self) -> None:
        GramMatrix.__post_init__(self)
        if not (math.isfinite(self.shrink) and self.shrink >= 0):
            raise FedrecError(f"algorithm.shrink={self.shrink} must be a number from 0")
        if self.neighbours < 1:
            raise FedrecError(f"algorithm.neighbours={self.neighbours} must be at least 1")

    def weights(self, flat: NDArray[np.floating], size: int) -> NDArray[np.float32]:
        """Return the similarities [H, H], column j those of the neighbours of item j, zeros elsewhere."""
        gram = unfolded_gram(flat, size)
        diagonal = np.maximum(gram.diagonal(), 1e-12)
        similarity = gram / (np.sqrt(np.outer(diagonal, diagonal)) + self.shrink * diagonal.mean())
        np.fill_diagonal(similarity, 0.0)
        if self.neighbours < size:
            least = -np.partition(-similarity, self.neighbours - 1, axis=0)[self.neighbours - 1]
            similarity[similarity < least] = 0.0
        return similarity.astype(np.float32)
