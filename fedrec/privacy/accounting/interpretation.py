"""What an epsilon means to somebody: under either neighbouring relation, and as what an attacker can do with it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.accounting.composition import ADD_REMOVE, COARSE, REPLACE_ONE, Spent, composed, epsilon_of
from fedrec.privacy.accounting.tradeoff import trade_off
from fedrec.privacy.ledger.account import Account, from_lists

FALSE_ALARMS = 0.01
SHARES = {"least": 0.0, "median": 0.5, "ninth_decile": 0.9, "largest": 1.0}


def epsilons(total: Spent, neighbouring: str, delta: float) -> dict[str, float]:
    """Return epsilon under both relations, upper bounds, for a composition accounted under one of them.

    Add-remove compares a unit's data with none (a contribution of zero, at most the clip away), replace-one with any
    other data (at most twice the clip away). What is accounted under replace-one takes part always, so that the same
    noise is worth twice as much under add-remove.
    """
    if neighbouring == REPLACE_ONE:
        alone = frozenset((2 * z, rate, count) for z, rate, count in total)
        return {ADD_REMOVE: epsilon_of(alone, delta, COARSE), REPLACE_ONE: epsilon_of(total, delta, COARSE)}
    return {name: epsilon_of(total, delta, COARSE, name) for name in (ADD_REMOVE, REPLACE_ONE)}


def over_devices(account: Account, counts: NDArray[np.uint32]) -> dict[str, float]:
    """Return epsilon of the device that took part least, of the median one, of the ninth decile, and of the largest.

    `counts` [devices] is how often each took part, where each is charged for itself.
    """
    once = from_lists(account.event)
    times = {name: int(np.quantile(counts, share, method="higher")) for name, share in SHARES.items()}
    return {name: epsilon_of(composed([(once, n)]), account.delta, COARSE) for name, n in times.items()}


def beside(total: Spent, neighbouring: str, delta: float) -> dict[str, Any]:
    """Return what stands beside every epsilon: that of either relation, and what an attacker finds at most."""
    caught = float(trade_off(total).largest_tpr(FALSE_ALARMS)[0])
    attacker = {"false_alarms": FALSE_ALARMS, "finds_at_most": caught}
    return {"epsilons": epsilons(total, neighbouring, delta), "attacker": attacker}


def meaning(total: Spent, account: Account, counts: NDArray[np.uint32]) -> dict[str, Any]:
    """Return what stands beside the epsilon of a run with a guarantee, after it spent `total`."""
    found = beside(total, account.neighbouring, account.delta)
    return {**found, "over_devices": over_devices(account, counts)} if account.per_device else found


def clause(found: Mapping[str, Any], neighbouring: str) -> str:
    """Return the other relation's epsilon and the attacker's gain as half a sentence."""
    other = next(name for name in (ADD_REMOVE, REPLACE_ONE) if name != neighbouring)
    attacker = found["attacker"]
    return (
        f"{other} {found['epsilons'][other]:.2f}; at {100 * attacker['false_alarms']:.0f} % false alarms an attacker "
        f"finds at most {100 * attacker['finds_at_most']:.0f} %"
    )
