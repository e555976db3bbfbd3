"""What stands beside every epsilon: one sentence, and the privacy card of a run."""

import math
from importlib.metadata import version
from typing import Any

from fedrec.privacy.accounting import ACCOUNTANT
from fedrec.privacy.base import Mechanism, Plan, Terms
from fedrec.privacy.ledger import Ledger

TRUST = {
    "device": "the device only",
    "gateway": "the gateway that holds the user's data",
    "server": "the server",
    "none": "everybody",
}
NOT_PROTECTED = (
    "who is enrolled",
    "the catalogue of items",
    "how much is sent and when",
    "which rounds were aborted and who was available",
    "what lies on the device itself",
)
SAMPLING = {
    "device": "sampling of the cohort buys nothing, for the server knows it; each step samples the device's own data",
    "gateway": "sampling of the cohort buys nothing, for the server knows it; each step samples the gateway's users",
    "server": "Poisson: each device is drawn independently in each round, and who was drawn stays with the server",
    "none": "no claim rests on it",
}


def sentence(terms: Terms, epsilon: float, delta: float) -> str:
    """Return epsilon with all that it means nothing without."""
    if terms.unit == "none" or math.isinf(epsilon):
        return "no privacy (epsilon is infinite)"
    return (
        f"epsilon {epsilon:.2f} (unit: {terms.unit}; {terms.neighbouring}; delta {delta:.1e}; "
        f"trust: {TRUST[terms.trust]}; against {terms.adversary}; covers {terms.release_set})"
    )


def card(mechanism: Mechanism, plan: Plan, ledger: Ledger) -> dict[str, Any]:
    """Return the privacy card of a run as JSON: numbers without a guarantee are null and the unit is then "none"."""
    account, epsilon = ledger.account, ledger.epsilon()
    claim = account.private and math.isfinite(epsilon)
    return {
        "claim": sentence(mechanism.terms, epsilon, account.delta) if claim else "no DP claim",
        "privacy": {
            "unit": account.unit if claim else "none",
            "neighbouring": account.neighbouring if claim else "none",
            "trust": account.trust if claim else "none",
            "epsilon": epsilon if claim else None,
            "delta": account.delta if claim else None,
        },
        "adversary": mechanism.terms.adversary,
        "release_set": mechanism.terms.release_set,
        "mechanism": {"name": account.mechanism, **_public(mechanism)},
        "sampling": {"rate": plan.cohort_rate, "assumed": mechanism.terms.sampling or SAMPLING[account.trust]},
        "accountant": {"name": ACCOUNTANT, "version": version("dp-accounting")},
        "composition": {
            "rounds": plan.rounds,
            "participations": account.participations,
            "population_epsilon": ledger.population_epsilon() if claim else None,
            "not_included": "tuning, evaluation and the choice of this run among others, unless they are charged here",
        },
        "not_protected": list(NOT_PROTECTED),
        "ledger": {"head": ledger.head, "rows": ledger.rows()},
    }


def _public(mechanism: Mechanism) -> dict[str, Any]:
    """Return the mechanism's own settings, all of which are public."""
    names: tuple[str, ...] = tuple(getattr(mechanism, "__dataclass_fields__", ()))
    return {name: getattr(mechanism, name) for name in names}
