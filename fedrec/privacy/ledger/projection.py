"""What a run will have spent before it starts, and what then all runs on its users will have.

All runs on one population of users, as its ledger tells them, and all ledgers of this machine.
"""

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedrec.errors import FedrecError, suggest
from fedrec.paths import ledger_path, populations
from fedrec.privacy.accounting.composition import Composition, compose, compose_events, compute_epsilon
from fedrec.privacy.accounting.interpretation import interpret
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation
from fedrec.privacy.ledger.account import Account, composition_from_json, compute_spend, counts_of
from fedrec.privacy.ledger.store import Entry, LedgerStore
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.wording import NO_GUARANTEE, format_epsilon, format_guarantee, widest_trust

BASELINE = re.compile(r"(?<=[0-9a-f]{8})baselines/")  # a ledger's name of a run's baseline has no slash before it


@dataclass(frozen=True, slots=True)
class Run:
    """One run on a population: its terms, its rounds and what it has spent."""

    run: str
    account: Account
    rows: list[dict[str, Any]]
    spent: Composition

    def adds_to(self, account: Account) -> bool:
        """Say whether what it spent adds to that of another account: a guarantee of the same unit and relation."""
        same = (self.account.unit, self.account.neighbouring) == (account.unit, account.neighbouring)
        return same and self.account.private


@dataclass(frozen=True, slots=True)
class Total:
    """What all runs of one unit and relation have spent together; `delta` is the smallest of theirs.

    `trust` is whom they trust together; `beside` is what stands beside an epsilon: that of either relation, and an
    attacker's gain. `claim` says whose word it is, where the mechanism of one of them is not fedrec's own.
    """

    unit: str
    neighbouring: str
    trust: str
    runs: int
    epsilon: float
    delta: float
    beside: dict[str, Any]
    claim: str = ""


def runs(store: LedgerStore) -> list[Run]:
    """Return all runs of a ledger, in the order of their names."""
    found: list[Run] = []
    for run in store.runs():
        entries = store.entries(run)
        account = Account(**entries[0].body)
        found.append(Run(run, account, rows(entries), compute_spend(account, entries, counts_of(store, run))))
    return found


def totals(found: list[Run]) -> list[Total]:
    """Return one total per unit and relation: different ones are not added, and runs without a guarantee have none.

    Where devices spend, the largest counts of all runs are added up, as if one device had them all.
    """
    private = [run for run in found if run.account.private]
    groups = {(run.account.unit, run.account.neighbouring): run.account for run in private}
    made: list[Total] = []
    for (unit, neighbouring), account in sorted(groups.items()):
        same = [run for run in private if run.adds_to(account)]
        delta = min(run.account.delta for run in same)
        spent = compose((run.spent, 1) for run in same)
        told = interpret(spent, Relation(neighbouring), delta)
        trust = widest_trust(run.account.trust for run in same)
        claim = max(run.account.claim for run in same)
        made.append(Total(unit, neighbouring, trust, len(same), compute_epsilon(spent, delta), delta, told, claim))
    return made


def rows(entries: list[Entry]) -> list[dict[str, Any]]:
    """Return a run's rounds: round, status (reserved, committed, lost), event, and the hash of the reservation."""
    made: dict[str, dict[str, Any]] = {}
    newest: dict[int, str] = {}
    for entry in entries[1:]:
        number = int(entry.body["round"])
        if entry.kind == "reserve":
            newest[number] = entry.hash
            keys = ("noise_multiplier", "sampling_rate", "count")
            event = [dict(zip(keys, part, strict=True)) for part in entry.body["event"]]
            made[entry.hash] = {"round": number, "status": "reserved", "event": event, "hash": entry.hash}
        else:
            made[newest[number]]["status"] = {"commit": "committed", "lost": "lost"}[entry.kind]
    return list(made.values())


@dataclass(frozen=True, slots=True)
class LedgerListing:
    """One population's ledger: its runs and totals, or what is wrong with it."""

    population: str
    path: str
    head: str
    problem: str
    totals: list[Total]
    runs: list[Run]

    def json(self) -> dict[str, Any]:
        """Return the ledger as JSON: a run's epsilon is null where nothing bounds it."""
        return {
            "population": self.population,
            "path": self.path,
            "head": self.head,
            "wrong": self.problem or None,
            "totals": [asdict(total) for total in self.totals],
            "runs": [{**_summary(run), "rows": run.rows} for run in self.runs],
        }

    def lines(self) -> list[str]:
        """Return the ledger for a reader."""
        if self.problem:
            return [f"{self.population}: {self.problem}", ""]
        made = [f"{self.population}  (verified; head {self.head[:12]}...)"]
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
    return f"{BASELINE.sub('/baselines/', told['run'])}: {told['mechanism']}, {rounds}{lost}, {guarantee}"


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
    claim: str = ""

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
        claim=account.claim,
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
