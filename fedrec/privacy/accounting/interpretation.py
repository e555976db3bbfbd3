"""What an epsilon means: under either neighbouring relation, and as what the best attacker gains.

An attacker's gain is read from the whole accounted curve (epsilon, delta(epsilon)). Any test of "was this unit there?"
obeys TPR <= e^epsilon FPR + delta and 1 - FPR <= e^epsilon (1 - TPR) + delta for every epsilon (Kairouz, Oh &
Viswanath, "The composition theorem for differential privacy", 2015; Dong, Roth & Su, "Gaussian differential privacy",
2022).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.accounting.composition import (
    COARSE,
    Composition,
    compose,
    compute_epsilon,
    loss_distribution,
)
from fedrec.privacy.guarantee import Relation
from fedrec.privacy.ledger.account import Account, composition_from_json
from fedrec.privacy.wording import FALSE_ALARMS

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


def trade_off(total: Composition, relation: Relation = Relation.ADD_REMOVE) -> TradeOff:
    """Return the curve of a composition; of one without any guarantee, that of certainty."""
    epsilons = np.linspace(0, LARGEST, POINTS)
    if not total:
        return TradeOff(epsilons, np.zeros(POINTS))
    if any(z == 0 for z, _, _ in total):
        return TradeOff(epsilons, np.ones(POINTS))
    deltas = np.asarray(loss_distribution(total, COARSE, relation).get_delta_for_epsilon(list(epsilons)), np.float64)
    return TradeOff(epsilons, np.clip(deltas, 0, 1))


SHARES = {"least": 0.0, "median": 0.5, "ninth_decile": 0.9, "largest": 1.0}


def epsilons(total: Composition, relation: Relation, delta: float) -> dict[str, float]:
    """Return epsilon under both relations, upper bounds, for a composition accounted under one of them.

    Add-remove compares a unit's data with none (a contribution of zero, at most the clip away), replace-one with any
    other data (at most twice the clip away). What is accounted under replace-one takes part always, so that the same
    noise is worth twice as much under add-remove.
    """
    if relation == Relation.REPLACE_ONE:
        alone = frozenset((2 * z, rate, count) for z, rate, count in total)
        whole = {Relation.ADD_REMOVE: alone, Relation.REPLACE_ONE: total}
        return {str(name): compute_epsilon(part, delta, COARSE) for name, part in whole.items()}
    return {
        str(name): compute_epsilon(total, delta, COARSE, name) for name in (Relation.ADD_REMOVE, Relation.REPLACE_ONE)
    }


def over_devices(account: Account, counts: NDArray[np.uint32]) -> dict[str, float]:
    """Return epsilon of the device that took part least, of the median one, of the ninth decile, and of the largest.

    `counts` [devices] is how often each took part, where each is charged for itself.
    """
    once = composition_from_json(account.event)
    times = {name: int(np.quantile(counts, share, method="higher")) for name, share in SHARES.items()}
    return {name: compute_epsilon(compose([(once, n)]), account.delta, COARSE) for name, n in times.items()}


def interpret(total: Composition, relation: Relation, delta: float) -> dict[str, Any]:
    """Return what stands beside every epsilon: that of either relation, and what an attacker finds at most."""
    caught = float(trade_off(total).largest_tpr(FALSE_ALARMS)[0])
    attacker = {"false_alarms": FALSE_ALARMS, "finds_at_most": caught}
    return {"epsilons": epsilons(total, relation, delta), "attacker": attacker}


def interpretation(total: Composition, account: Account, counts: NDArray[np.uint32]) -> dict[str, Any]:
    """Return what stands beside the epsilon of a run with a guarantee, after it spent `total`."""
    found = interpret(total, Relation(account.neighbouring), account.delta)
    return {**found, "over_devices": over_devices(account, counts)} if account.per_device else found
