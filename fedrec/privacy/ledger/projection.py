"""What a run will have spent before it starts, and what then all runs on its users will have."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from fedrec.paths import ledger_path
from fedrec.privacy.accounting.composition import Composition, compose, compose_events, compute_epsilon
from fedrec.privacy.accounting.interpretation import interpret
from fedrec.privacy.guarantee import PrivacyGuarantee
from fedrec.privacy.ledger.account import Account, composition_from_json
from fedrec.privacy.ledger.population import runs
from fedrec.privacy.ledger.store import LedgerStore
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.wording import format_epsilon, format_guarantee


@dataclass(frozen=True, slots=True)
class Projection:
    """Epsilon after each of some numbers of rounds, and over all runs on these users before and after this one.

    `beside` holds for the same numbers of rounds what stands beside an epsilon: either relation, an attacker's gain.
    """

    mechanism: str
    unit: str
    neighbouring: str
    trust: str
    delta: float
    noise_multiplier: float
    rounds: dict[int, float]
    beside: dict[int, dict[str, Any]]
    population: str
    population_before: float
    population_after: float
    population_limit: float | None

    @property
    def affordable(self) -> bool:
        """Whether the whole run keeps within the limit of all runs on these users."""
        return self.population_limit is None or self.population_after <= self.population_limit

    def json(self) -> dict[str, Any]:
        """Return the projection as JSON."""
        return {**asdict(self), "affordable": self.affordable}

    def lines(self) -> list[str]:
        """Return the projection for a reader."""
        guarantee = PrivacyGuarantee.from_json(asdict(self))
        last = max(self.rounds)
        attacker = {number: beside["attacker"] for number, beside in self.beside.items()}
        whole = format_guarantee(guarantee, self.rounds[last], self.delta, attacker[last])
        limit = "no limit" if self.population_limit is None else f"limit {self.population_limit:g}"
        more = "" if self.affordable else ": it would be refused before its end"
        return [
            f"{self.mechanism}, noise multiplier {self.noise_multiplier:.3f}, after {last} rounds: {whole}",
            *(
                f"  after round {number:>{len(str(last))}}: {format_epsilon(epsilon)}, attacker at most "
                f"{100 * attacker[number]['finds_at_most']:.0f} %"
                for number, epsilon in self.rounds.items()
            ),
            f"  all runs on {self.population}: {format_epsilon(self.population_before)} so far, "
            f"{format_epsilon(self.population_after)} with this one ({limit}){more}",
        ]


def projected(mechanism: Mechanism, plan: TrainingPlan, rounds: int) -> Composition:
    """Return what the first rounds of a calibrated mechanism cost; where devices spend, it is the busiest's."""
    account = Account.of(mechanism, plan, plan.population)
    if account.per_device:
        times = mechanism.participation_limit(replace(plan, rounds=rounds, shares=None))
        return compose([(composition_from_json(account.event), times)])
    return compose_events([(mechanism.event(plan, number), 1) for number in range(1, rounds + 1)])


def project(mechanism: Mechanism, plan: TrainingPlan, population: str, limit: float | None) -> Projection:
    """Return the projection of a run that has not begun; nothing is written. The mechanism must be private."""
    account = Account.of(mechanism, plan, plan.population)
    others = compose((part, 1) for part in _spent_by_others(population, account))
    parts = {number: projected(mechanism, plan, number) for number in milestones(plan.rounds)}
    whole = compose([(others, 1), (parts[plan.rounds], 1)])
    return Projection(
        mechanism=account.mechanism,
        unit=account.unit,
        neighbouring=account.neighbouring,
        trust=account.trust,
        delta=account.delta,
        noise_multiplier=mechanism.noise_multiplier or 0.0,
        rounds={number: compute_epsilon(part, account.delta) for number, part in parts.items()},
        beside={number: interpret(part, mechanism.terms.relation, account.delta) for number, part in parts.items()},
        population=population,
        population_before=compute_epsilon(others, account.delta),
        population_after=compute_epsilon(whole, account.delta),
        population_limit=limit,
    )


def milestones(rounds: int) -> list[int]:
    """Return the first round, some between, and the last."""
    return sorted({1, *(max(1, round(rounds * share)) for share in (0.1, 0.25, 0.5, 0.75)), rounds})


def _spent_by_others(population: str, account: Account) -> list[Composition]:
    if not ledger_path(population).exists():
        return []
    store = LedgerStore(ledger_path(population))
    try:
        return [run.spent for run in runs(store) if run.adds_to(account)]
    finally:
        store.close()
