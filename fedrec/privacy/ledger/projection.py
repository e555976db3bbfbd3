"""What a run will have spent before it starts, and what then all runs on its users will have.

What a ledger tells its reader, and all ledgers of this machine.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fedrec.errors import FedrecError, suggest
from fedrec.paths import ledger_path, populations
from fedrec.privacy.accounting.composition import Composition, compose, compose_events, compute_epsilon
from fedrec.privacy.accounting.interpretation import interpret
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation
from fedrec.privacy.ledger.account import Account, composition_from_json
from fedrec.privacy.ledger.population import PopulationTotal, Run, Total, add_up, readable_name, runs, totals
from fedrec.privacy.ledger.store import LedgerStore
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.wording import (
    NO_GUARANTEE,
    SAMPLING,
    format_delta,
    format_epsilon,
    format_guarantee,
    format_not_covered,
    format_rounds,
)


@dataclass(frozen=True, slots=True)
class LedgerListing:
    """One population's ledger: its runs and totals, or what is wrong with it."""

    population: str
    path: str
    head: str
    problem: str
    totals: list[Total]
    runs: list[Run]

    @property
    def together(self) -> PopulationTotal | None:
        """What all runs spent together; None where none did."""
        return add_up(self.runs, self.runs[0].account) if any(run.spent for run in self.runs) else None

    def json(self) -> dict[str, Any]:
        """Return the ledger as JSON: a run's epsilon is null where nothing bounds it."""
        return {
            "population": self.population,
            "path": self.path,
            "head": self.head,
            "wrong": self.problem or None,
            "together": None if (together := self.together) is None else together.json(),
            "totals": [asdict(total) for total in self.totals],
            "runs": [{**_summary(run), "rows": run.rows} for run in self.runs],
        }

    def lines(self) -> list[str]:
        """Return the ledger for a reader."""
        if self.problem:
            return [f"{self.population}: {self.problem}", ""]
        made = [f"{self.population}  (verified; head {self.head[:12]}...)"]
        if (total := self.together) is not None and (total.unprotected or len(self.totals) > 1):
            made.append(f"  all runs together: {total.sentence()}")
        for total in self.totals:
            together = f"all {total.runs} private runs together" if total.runs > 1 else "one private run"
            guarantee = PrivacyGuarantee.from_json(asdict(total))
            attacker = total.beside["attacker"]
            said = format_guarantee(guarantee, total.epsilon, total.delta, attacker, claim=total.claim)
            made.append(f"  {together}: {said}")
        return [*made, *(f"  {_line(run)}" for run in self.runs), ""]


def read_ledgers(population: str | None) -> list[LedgerListing]:
    """Return the ledger of a population, or all of this machine; one that was tampered with says so in `problem`."""
    known = populations()
    if population is not None and population not in known:
        raise FedrecError(f"no ledger of a population named {population} here.{suggest(population, known)}")
    return [_read(name) for name in (known if population is None else [population])]


def _read(population: str) -> LedgerListing:
    path = ledger_path(population)
    try:
        store = LedgerStore(path)
    except FedrecError as error:
        return LedgerListing(population, str(path), "", str(error), [], [])
    try:
        found = runs(store)
        return LedgerListing(population, str(path), store.head(), "", totals(found), found)
    finally:
        store.close()


def _summary(run: Run) -> dict[str, Any]:
    account, statuses = run.account, [row["status"] for row in run.rows]
    return {
        "run": run.run,
        "mechanism": account.mechanism,
        "unit": account.unit,
        "neighbouring": account.neighbouring,
        "trust": account.trust,
        "rounds": len(statuses),
        "lost": statuses.count("lost") + statuses.count("reserved"),
        "epsilon": compute_epsilon(run.spent, account.delta) if account.private else None,
        "delta": account.delta if account.private else None,
        "beside": interpret(run.spent, Relation(account.neighbouring), account.delta) if account.private else None,
        "claim": account.claim,
    }


def _line(run: Run) -> str:
    told = _summary(run)
    lost = f", {told['lost']} lost or open" if told["lost"] else ""
    guarantee = NO_GUARANTEE
    if told["epsilon"] is not None:
        terms, attacker = run.account.guarantee, told["beside"]["attacker"]
        guarantee = format_guarantee(terms, told["epsilon"], told["delta"], attacker, claim=told["claim"])
    rounds = f"{told['rounds']} round{'' if told['rounds'] == 1 else 's'}"
    return f"{readable_name(told['run'])}: {told['mechanism']}, {rounds}{lost}, {guarantee}"


@dataclass(frozen=True, slots=True)
class Projection:
    """Epsilon after each of some numbers of rounds, and over all runs on these users before and after this one.

    `beside` holds for the same numbers of rounds what stands beside an epsilon: either relation, an attacker's gain;
    `details` what the epsilon rests on, in words.
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
    population_before: PopulationTotal
    population_after: PopulationTotal
    population_limit: float | None
    claim: str = ""
    details: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def affordable(self) -> bool:
        """Whether the whole run keeps within the limit of all runs on these users."""
        return self.population_after.within(math.inf if self.population_limit is None else self.population_limit)

    def json(self) -> dict[str, Any]:
        """Return the projection as JSON; a total is null where nothing bounds it."""
        before, after = self.population_before.json(), self.population_after.json()
        totals = {"population_before": before["epsilon"], "population_after": after["epsilon"], "together": after}
        return {**asdict(self), **totals, "affordable": self.affordable}

    def lines(self) -> list[str]:
        """Return the projection for a reader."""
        guarantee = PrivacyGuarantee.from_json(asdict(self))
        last = max(self.rounds)
        attacker = {number: beside["attacker"] for number, beside in self.beside.items()}
        whole = format_guarantee(guarantee, self.rounds[last], self.delta, attacker[last], claim=self.claim)
        limit = "no limit" if self.population_limit is None else f"limit {self.population_limit:g}"
        more = "" if self.affordable else ": it would be refused before its end"
        return [
            f"{self.mechanism}, noise multiplier {self.noise_multiplier:.3f}, after {last} rounds: {whole}",
            *(
                f"  after round {number:>{len(str(last))}}: {format_epsilon(epsilon)}, attacker at most "
                f"{100 * attacker[number]['finds_at_most']:.0f} %"
                for number, epsilon in self.rounds.items()
            ),
            f"  all runs on {self.population}: {format_epsilon(self.population_before.epsilon)} so far, "
            f"with this one {self.population_after.sentence()}; {limit}{more}",
            *(f"  {name}: {said}" for name, said in self.details.items()),
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
    others = _other_runs(population)
    parts = {number: projected(mechanism, plan, number) for number in milestones(plan.rounds)}
    own = Run("this run", account, [], parts[plan.rounds])
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
        population_before=add_up(others, account),
        population_after=add_up([*others, own], account),
        population_limit=limit,
        claim=account.claim,
        details=format_details(mechanism, plan),
    )


def format_details(mechanism: Mechanism, plan: TrainingPlan) -> dict[str, str]:
    """Write what the epsilon of a run rests on: rounds, sampling, delta and what is not covered, each in its line."""
    return {
        "each round's part of the budget": format_rounds(plan.rounds, plan.shares),
        "sampling": mechanism.terms.sampling or SAMPLING[mechanism.terms.trust],
        "delta": format_delta(mechanism.delta is not None),
        "not covered": format_not_covered(),
    }


def milestones(rounds: int) -> list[int]:
    """Return the first round, some between, and the last."""
    return sorted({1, *(max(1, round(rounds * share)) for share in (0.1, 0.25, 0.5, 0.75)), rounds})


def _other_runs(population: str) -> list[Run]:
    if not ledger_path(population).exists():
        return []
    store = LedgerStore(ledger_path(population))
    try:
        return runs(store)
    finally:
        store.close()
