"""All runs on one population of users, as its ledger tells them."""

from dataclasses import dataclass
from typing import Any

from fedrec.privacy.accounting.composition import Spent, composed, epsilon_of
from fedrec.privacy.accounting.interpretation import beside
from fedrec.privacy.ledger.account import Account, charged, counts_of
from fedrec.privacy.ledger.store import Entry, LedgerStore


@dataclass(frozen=True, slots=True)
class Run:
    """One run on a population: its terms, its rounds and what it has spent."""

    run: str
    account: Account
    rows: list[dict[str, Any]]
    spent: Spent

    def adds_to(self, account: Account) -> bool:
        """Say whether what it spent adds to that of another account: a guarantee of the same unit and relation."""
        same = (self.account.unit, self.account.neighbouring) == (account.unit, account.neighbouring)
        return same and self.account.private


@dataclass(frozen=True, slots=True)
class Total:
    """What all runs of one unit and relation have spent together; `delta` is the smallest of theirs.

    `beside` is what stands beside an epsilon: that of either relation, and an attacker's gain.
    """

    unit: str
    neighbouring: str
    runs: int
    epsilon: float
    delta: float
    beside: dict[str, Any]


def runs(store: LedgerStore) -> list[Run]:
    """Return all runs of a ledger, in the order of their names."""
    found: list[Run] = []
    for run in store.runs():
        entries = store.entries(run)
        account = Account(**entries[0].body)
        found.append(Run(run, account, rows(entries), charged(account, entries, counts_of(store, run))))
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
        spent = composed((run.spent, 1) for run in same)
        told = beside(spent, neighbouring, delta)
        made.append(Total(unit, neighbouring, len(same), epsilon_of(spent, delta), delta, told))
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
