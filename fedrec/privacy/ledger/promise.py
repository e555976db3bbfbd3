"""What a run promises before it starts, in one sentence."""

import math

from fedrec.privacy.accounting.composition import epsilon_of
from fedrec.privacy.accounting.interpretation import beside, clause
from fedrec.privacy.card import sentence
from fedrec.privacy.ledger.projection import projected
from fedrec.privacy.mechanisms.protocol import Mechanism, Plan


def promised(mechanism: Mechanism, plan: Plan, epsilon: float | None = None) -> str:
    """Return what a calibrated mechanism promises for a whole run, in the words that go with every epsilon.

    `epsilon` is the ledger's, where the run has one already.
    """
    terms, delta = mechanism.terms, mechanism.delta_for(plan)
    if not mechanism.private:
        return sentence(terms, math.inf, delta)
    total = projected(mechanism, plan, plan.rounds)
    said = sentence(terms, epsilon_of(total, delta) if epsilon is None else epsilon, delta)
    return f"{said}; {clause(beside(total, terms.neighbouring, delta), terms.neighbouring)}"
