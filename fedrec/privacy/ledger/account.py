"""The terms under which a run spends, and what it has spent according to its ledger entries."""

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import RefusedError
from fedrec.privacy.accounting.composition import EMPTY, Composition, compose, compose_events
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit
from fedrec.privacy.ledger.store import Entry, LedgerStore
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.wording import authors_claim

COUNT = np.dtype("<u4")  # of the participation counts at rest


@dataclass(frozen=True, slots=True)
class Account:
    """The terms under which a run spends: written when it is first opened, and the same whenever it is opened again.

    `epsilon` is the run's budget, null where there is none; `event` is what one round or one participation costs first;
    `claim` says whose word all of it is where the mechanism is not fedrec's own.
    """

    mechanism: str
    unit: str
    neighbouring: str
    trust: str
    private: bool
    epsilon: float | None
    delta: float
    participations: int
    devices: int
    event: list[list[float]]
    plan: dict[str, Any]
    claim: str = ""

    @classmethod
    def of(cls, mechanism: Mechanism, plan: TrainingPlan, devices: int) -> "Account":
        """Return the account of a calibrated mechanism on this plan."""
        terms, epsilon = mechanism.terms, mechanism.epsilon
        return cls(
            mechanism=type(mechanism).__name__,
            unit=terms.unit,
            neighbouring=terms.relation,
            trust=terms.trust,
            private=mechanism.private,
            epsilon=epsilon if math.isfinite(epsilon) else None,
            delta=mechanism.delta_for(plan),
            participations=mechanism.participation_limit(plan),
            devices=devices,
            event=composition_to_json(compose_events([(mechanism.event(plan, 1), 1)])),
            plan={**asdict(plan), "shares": None if plan.shares is None else list(plan.shares)},
            claim=authors_claim(mechanism),
        )

    def json(self) -> dict[str, Any]:
        """Return the account as a ledger keeps it: no claim stands in that of fedrec's own mechanisms."""
        return {key: value for key, value in asdict(self).items() if key != "claim" or value}

    @property
    def guarantee(self) -> PrivacyGuarantee:
        """Return what stands behind this account's epsilon: unit, relation and trust."""
        return PrivacyGuarantee(Unit(self.unit), Relation(self.neighbouring), Trust(self.trust))

    @property
    def per_device(self) -> bool:
        """Whether each device is charged for itself; without a guarantee none is: test mode never ends early."""
        return self.guarantee.charges_each_device(self.plan["cohort_rate"]) and self.private

    @property
    def budget(self) -> float:
        """Return epsilon, infinite where there is no limit or nothing to be spent."""
        return math.inf if self.epsilon is None or not self.private else self.epsilon


def composition_to_json(total: Composition) -> list[list[float]]:
    """Return a composition as JSON: [noise multiplier, sampling rate, how often] each."""
    return sorted([z, rate, count] for z, rate, count in total)


def composition_from_json(lists: list[list[float]]) -> Composition:
    """Return the composition that `composition_to_json` wrote."""
    return frozenset((float(z), float(rate), int(count)) for z, rate, count in lists)


def pending_round(entries: list[Entry]) -> int | None:
    """Return the round that is reserved and neither committed nor lost."""
    last = entries[-1] if entries else None
    return int(last.body["round"]) if last is not None and last.kind == "reserve" else None


def compute_spend(
    account: Account, entries: list[Entry], counts: NDArray[np.uint32], next_event: Composition = EMPTY
) -> Composition:
    """Return what a run has spent, a pending round and `next_event` included.

    Where devices spend, it is what the device that spent most has spent; none goes past `participations`.
    """
    if account.per_device:
        more = (pending_round(entries) is not None) + (next_event != EMPTY)
        times = min(int(counts.max(initial=0)) + more, account.participations)
        return compose([(next_event or composition_from_json(account.event), times)])
    rounds = [composition_from_json(entry.body["event"]) for entry in entries if entry.kind == "reserve"]
    return compose((part, 1) for part in (*rounds, next_event))


def counts_of(store: LedgerStore, run: str) -> NDArray[np.uint32]:
    """Return how often each device [devices] took part in a run, lost rounds included."""
    return np.frombuffer(store.counts(run), COUNT).astype(np.uint32)


def digest(counts: NDArray[np.uint32]) -> str:
    """Return the hash of participation counts that goes into the chain."""
    return hashlib.sha256(counts.astype(COUNT).tobytes()).hexdigest()


def mark_pending_lost(store: LedgerStore, run: str, account: Account, entries: list[Entry]) -> None:
    """Mark a round that is still reserved as lost, inside a transaction.

    Who took part in it is unknown: every device that could have been drawn is charged.
    """
    if (pending := pending_round(entries)) is None:
        return
    counts = counts_of(store, run)
    if account.per_device:
        counts[counts < account.participations] += 1
        store.set_counts(run, counts.astype(COUNT).tobytes())
    store.append(run, "lost", {"round": pending, "counts": digest(counts)})


def check_terms_unchanged(run: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise where a run is opened again under other terms than it started with."""
    changed = [f"{key} was {before.get(key)} and is {now[key]}" for key in now if before.get(key) != now[key]]
    if changed:
        raise RefusedError(
            f"{run} can't go on under other terms than it started with: {'; '.join(changed)}. Start a new run."
        )
