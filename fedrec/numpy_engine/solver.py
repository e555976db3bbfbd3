"""The closed-form user vector: what one device can learn from its own history while everything shared stands still.

Squares: the user half of iALS (Rendle, Krichene, Zhang & Koren, "Revisiting the performance of iALS", 2022, eq. 4), for
scores that are ratings. Logits: the first step of Newton's method for logistic regression (McCullagh & Nelder,
"Generalized linear models", 1989, section 2.5) from a user without any taste. Both are linear in the history: each item
of it has its part of the vector. Shapes: n items of a history, V items, d dimensions; double precision.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedrec.numpy_engine.models import Floats, Items, sigmoid


@dataclass(frozen=True, slots=True)
class SolveWeights:
    """`unobserved` weighs every item's squared score, `regularization` the squared length of the user vector."""

    unobserved: float
    regularization: float


@dataclass(frozen=True)
class Solved:
    """A user vector, `inverse` [d, d] @ the sum of `pulls` [n, d]: one pull from each item of the history."""

    pulls: Floats
    inverse: Floats

    @cached_property
    def user(self) -> Floats:
        """The user vector [d]."""
        return self.inverse @ self.pulls.sum(0)

    def parts(self) -> Floats:
        """Return each item's part [n, d] of the user vector, which is their sum."""
        return self.pulls @ self.inverse.T

    def item_contributions(self, vector: Floats) -> Floats:
        """Return what each item's part adds [n] to u . vector, without making the parts."""
        return self.pulls @ (self.inverse.T @ vector)


def solve_user(used: Floats, targets: Floats, gram: Floats, weights: SolveWeights) -> Solved:
    """Return the user vector u in the parts of the used items: u is linear in the targets [n].

    u minimises sum_used (target - u.v)^2 + unobserved * sum_all (u.v)^2 + regularization * |u|^2, for vectors `used`
    [n, d] of the history and `gram` [d, d], the sum over all items of v v'.
    """
    vectors = np.asarray(used, np.float64)
    system = vectors.T @ vectors + weights.unobserved * gram + weights.regularization * np.eye(vectors.shape[1])
    return Solved(vectors * np.asarray(targets, np.float64)[:, None], np.linalg.inv(system))


class LogitStep:
    """Newton's first step on the loss that devices train: every used item against all items, `negatives` times as much.

    The loss of a user vector u is sum_used softplus(-(u.v + b)) + negatives * n / V * sum_all softplus(u.v + b) +
    ridge * L / 2 * |u|^2, b what an item has on its own and L the mean squared length of an item's vector.
    """

    def __init__(self, vectors: Floats, own: Floats, negatives: float, ridge: float) -> None:
        every, chance = vectors.astype(np.float64), sigmoid(own.astype(np.float64))
        self._vectors, self._chance, self._share = vectors, chance, negatives / len(own)
        self._push = every.T @ chance
        self._curvature = (every * (chance * (1 - chance))[:, None]).T @ every
        length = max(float(np.einsum("vd,vd->", every, every)) / len(own), 1e-6)  # zeros have a solution too
        self._ridge = ridge * length * np.eye(every.shape[1])

    def of(self, used: Items) -> Solved:
        """Return the user vector in the parts of the used items, for different item rows [n]."""
        vectors, chance = self._vectors[used].astype(np.float64), self._chance[used]
        system = (vectors * (chance * (1 - chance))[:, None]).T @ vectors
        system += self._share * len(used) * self._curvature + self._ridge
        return Solved(vectors * (1 - chance)[:, None] - self._share * self._push, np.linalg.inv(system))
