"""What the best attacker gains, read from the accounted curve (epsilon, delta(epsilon)) and not from one point of it.

Any test of "was this unit there?" obeys TPR <= e^epsilon FPR + delta and 1 - FPR <= e^epsilon (1 - TPR) + delta for
every epsilon (Kairouz, Oh & Viswanath, "The composition theorem for differential privacy", 2015; Dong, Roth & Su,
"Gaussian differential privacy", 2022).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.accounting.composition import ADD_REMOVE, COARSE, Spent, loss_distribution

Numbers = NDArray[np.float64]
LARGEST, POINTS = 60.0, 1201  # epsilons of the curve: further ones bound nothing that a test could measure


@dataclass(frozen=True, slots=True)
class TradeOff:
    """The curve of a composition: `deltas[k]` at `epsilons[k]`, as upper bounds."""

    epsilons: Numbers
    deltas: Numbers

    def largest_tpr(self, false_positive_rate: Numbers | float) -> Numbers:
        """Return the largest true-positive rate that any test reaches at each false-positive rate."""
        fpr = np.atleast_1d(np.asarray(false_positive_rate, np.float64))[:, None]
        straight = np.exp(self.epsilons) * fpr + self.deltas
        mirrored = 1 - np.exp(-self.epsilons) * (1 - fpr - self.deltas)
        return np.clip(np.minimum(straight, mirrored).min(axis=1), 0, 1)

    def largest_auc(self) -> float:
        """Return the largest area under a test's curve: the area under the bound."""
        grid = np.concatenate([[0.0], np.geomspace(1e-9, 1.0, 2000)])
        # The bound rises: its value at the right end of each cell is an upper bound of the area.
        return float(np.sum(np.diff(grid) * self.largest_tpr(grid)[1:]))


def trade_off(total: Spent, relation: str = ADD_REMOVE) -> TradeOff:
    """Return the curve of a composition; of one without any guarantee, that of certainty."""
    epsilons = np.linspace(0, LARGEST, POINTS)
    if not total:
        return TradeOff(epsilons, np.zeros(POINTS))
    if any(z == 0 for z, _, _ in total):
        return TradeOff(epsilons, np.ones(POINTS))
    deltas = np.asarray(loss_distribution(total, COARSE, relation).get_delta_for_epsilon(list(epsilons)), np.float64)
    return TradeOff(epsilons, np.clip(deltas, 0, 1))
