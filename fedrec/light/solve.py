"""The closed-form user vector: what one device can learn from its own history while everything shared stands still.

The user half of iALS (Rendle, Krichene, Zhang & Koren, "Revisiting the performance of iALS", 2022, eq. 4) on factors
that were learned in any way. Shapes: n items of a history, V items, d dimensions.
"""

from dataclasses import dataclass

import numpy as np

from fedrec.light.losses import Floats


@dataclass(frozen=True, slots=True)
class SolveWeights:
    """`unobserved` weighs every item's squared score, `regulariser` the squared length of the user vector."""

    unobserved: float
    regulariser: float


def solve_user(used: Floats, targets: Floats, gram: Floats, weights: SolveWeights) -> Floats:
    """Return each used item's part [n, d] of the user vector u, which is their sum: u is linear in the targets [n].

    u minimises sum_used (target - u.v)^2 + unobserved * sum_all (u.v)^2 + regulariser * |u|^2, for vectors `used`
    [n, d] of the history and `gram` [d, d], the sum over all items of v v'. Double precision.
    """
    vectors = np.asarray(used, np.float64)
    system = vectors.T @ vectors + weights.unobserved * gram + weights.regulariser * np.eye(vectors.shape[1])
    return np.linalg.solve(system, (vectors * np.asarray(targets, np.float64)[:, None]).T).T
