"""All runs on one population of users, as its ledger tells them, and what they have spent together.

A person's budget is one. Runs of one unit and relation add up as they are. Runs of several add up in terms that all of
them keep: at interaction level where one of them hides no more than an interaction, else at user level; one unit's
data are replaced by any other (docs/privacy/ledger.md has the argument).
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedrec.privacy.accounting.composition import Composition, compose, compute_epsilon, running_epsilon
from fedrec.privacy.accounting.interpretation import interpret
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Unit, common_terms
from fedrec.privacy.ledger.account import Account, compute_spend, counts_of
from fedrec.privacy.ledger.store import Entry, LedgerStore
from fedrec.privacy.wording import format_total, widest_trust

BASELINE = re.compile(r"(?<=[0-9a-f]{8})baselines/")  # a ledger's name of a run's baseline has no slash before it


@dataclass(frozen=True, slots=True)
class Run:
    """One run on a population: its terms, its rounds and what it has spent."""

    run: str
    account: Account
    rows: list[dict[str, Any]]
    spent: Composition

    @property
    def protected(self) -> bool:
        """Whether it spent anything, and a guarantee bounds what."""
        return self.account.private and bool(self.spent)

    @property
    def unprotected(self) -> bool:
        """Whether it released something that nothing bounds: the twin of a run, kept to compare with, does not."""
        return not self.account.private and bool(self.spent) and not BASELINE.search(self.run)

    @property
    def kind(self) -> tuple[str, str]:
        """The unit and the relation that it is accounted in."""
        return self.account.unit, self.account.neighbouring


@dataclass(frozen=True, slots=True)
class PopulationTotal:
    """What all runs on one population have spent together, in terms that all of them keep.

    `spent` holds noise multipliers over what adding or removing a unit moves; `delta` is the smallest of theirs;
    `unprotected` names the runs that nothing bounds, each of which makes the total infinite; `claim` says whose word it
    is where the mechanism of one of them is not fedrec's own.
    """

    terms: PrivacyGuarantee
    spent: Composition
    delta: float
    runs: int
    unprotected: tuple[str, ...] = ()
    claim: str = ""

    @property
    def epsilon(self) -> float:
        """An upper bound; infinite where a run was not protected."""
        return math.inf if self.unprotected else self._compute(math.inf)

    def within(self, limit: float) -> bool:
        """Say whether it keeps a limit."""
        return math.isinf(limit) or (not self.unprotected and self._compute(limit) <= limit)

    def _compute(self, limit: float) -> float:
        # Whatever is replaced lies at most twice as far from what was there as from nothing.
        return running_epsilon(self.spent, self.delta, limit, self._relation)

    @property
    def _relation(self) -> Relation:
        return Relation.REPLACE_ONE if self.terms.relation == Relation.REPLACE_ONE else Relation.ADD_REMOVE

    def sentence(self) -> str:
        """Write the total with all that it means nothing without."""
        return format_total(self.terms, self.epsilon, self.delta, self.unprotected, self.claim)

    def json(self) -> dict[str, Any]:
        """Return the total as JSON: an infinite epsilon is null."""
        return {
            "unit": self.terms.unit,
            "neighbouring": self.terms.relation,
            "trust": self.terms.trust,
            "runs": self.runs,
            "epsilon": None if math.isinf(self.epsilon) else self.epsilon,
            "delta": self.delta,
            "unprotected": list(self.unprotected),
            "claim": self.claim,
        }


def add_up(found: Iterable[Run], own: Account) -> PopulationTotal:
    """Return what runs have spent together; before any of them has, nothing, in the terms of `own`."""
    every = list(found)
    spent = [run for run in every if run.protected]
    accounts = [run.account for run in spent] or [own]
    unit, relation = common_terms(run.kind for run in spent) if spent else (own.unit, own.neighbouring)
    return PopulationTotal(
        terms=PrivacyGuarantee(Unit(unit), Relation(relation), widest_trust(account.trust for account in accounts)),
        spent=compose((over_added(run), 1) for run in spent),
        delta=min(account.delta for account in accounts),
        runs=len(spent),
        unprotected=tuple(readable_name(run.run) for run in every if run.unprotected),
        claim=max(account.claim for account in accounts),
    )


def over_added(run: Run) -> Composition:
    """Return what a run spent, by noise multipliers over what adding or removing a unit moves.

    What was accounted for data that are replaced took part always: no sampling is claimed for it.
    """
    if run.account.neighbouring != Relation.REPLACE_ONE:
        return run.spent
    return compose((frozenset({(2 * z, 1.0, count)}), 1) for z, _, count in run.spent)


def readable_name(run: str) -> str:
    """Return the name of a run in a ledger, with a slash before that of a baseline."""
    return BASELINE.sub("/baselines/", run)


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
    """Return one total per unit and relation; runs without a guarantee have none.

    Where devices spend, the largest counts of all runs are added up, as if one device had them all.
    """
    private = [run for run in found if run.account.private]
    made: list[Total] = []
    for kind in sorted({run.kind for run in private}):
        same = [run for run in private if run.kind == kind]
        delta = min(run.account.delta for run in same)
        spent = compose((run.spent, 1) for run in same)
        told = interpret(spent, Relation(kind[1]), delta)
        trust = widest_trust(run.account.trust for run in same)
        claim = max(run.account.claim for run in same)
        made.append(Total(*kind, trust, len(same), compute_epsilon(spent, delta), delta, told, claim))
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
