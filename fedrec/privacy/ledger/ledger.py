"""What has been spent: charged before anything is sampled, never refunded, refused before a budget is passed.

A round is reserved, noised, made durable elsewhere, then committed. A round that was reserved and never committed is
lost when its run is opened again: it stays charged. Where the server adds the noise every round is charged to all;
where the devices do, each device is charged the rounds that it took part in.
"""

import hashlib
import hmac
import math
from typing import Any

import numpy as np
from dp_accounting import DpEvent
from numpy.typing import NDArray

from fedrec.errors import BudgetExceededError, FedrecError, RefusedError
from fedrec.paths import ledger_path, population_of
from fedrec.privacy.accounting.composition import Composition, compose_events, compute_epsilon, running_epsilon
from fedrec.privacy.accounting.interpretation import interpretation
from fedrec.privacy.ledger.account import (
    COUNT,
    Account,
    check_terms_unchanged,
    composition_to_json,
    compute_spend,
    counts_of,
    digest,
    mark_pending_lost,
    pending_round,
)
from fedrec.privacy.ledger.people import People
from fedrec.privacy.ledger.population import PopulationTotal, Run, add_up, rows, runs
from fedrec.privacy.ledger.projection import projected
from fedrec.privacy.ledger.store import Entry, LedgerStore
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.wording import format_epsilon, format_terms


class Ledger:
    """One run's account in the ledger of a population. Open it with `Ledger.open`."""

    def __init__(
        self, store: LedgerStore, run: str, mechanism: Mechanism, plan: TrainingPlan, account: Account
    ) -> None:
        self._store, self._run, self._mechanism, self._plan, self.account = store, run, mechanism, plan, account
        self._population_limit = math.inf
        self._entries: list[Entry] = []
        self._load()

    @classmethod
    def open(
        cls,
        population: str,
        run: str,
        mechanism: Mechanism,
        plan: TrainingPlan,
        devices: int,
        population_epsilon: float | None = None,
    ) -> "Ledger":
        """Open or resume a run's account for a calibrated mechanism and `devices` devices.

        A round that an earlier process reserved and did not commit becomes lost. Other terms than those of the first
        opening are refused. `population_epsilon` bounds the total of all runs.
        """
        store, account = LedgerStore(ledger_path(population)), Account.of(mechanism, plan, devices)
        with store.transaction():
            entries = store.entries(run)
            if not entries:
                store.append(run, "open", account.json())
                store.set_counts(run, np.zeros(devices, COUNT).tobytes())
            else:
                check_terms_unchanged(run, entries[0].body, account.json())
                mark_pending_lost(store, run, account, entries)
        ledger = cls(store, run, mechanism, plan, account)
        ledger._population_limit = math.inf if population_epsilon is None else population_epsilon
        return ledger

    def remember(self, people: People | None) -> None:
        """Keep whose data this population's are, by which they are known in another file; or that none are here."""
        with self._store.transaction():
            self._store.add_people(b"" if people is None else people.to_bytes())

    def close(self) -> None:
        """Close the file; a round still reserved will be lost."""
        self._store.close()

    def affordable(self, event: DpEvent) -> bool:
        """Say whether one more round (or participation) of this event keeps within the run's budget."""
        if self.account.per_device and bool(self.exhausted().all()):
            return False
        total = compute_spend(self.account, self._entries, self._counts, compose_events([(event, 1)]))
        return running_epsilon(total, self.account.delta, self.account.budget) <= self.account.budget

    def reserve(self, round_number: int) -> None:
        """Charge a round, durably, before anything of it is sampled.

        Raises `RefusedError`, charging nothing, if the run's or the population's budget would be passed or every device
        has taken part as often as it may, and for a round that was released already.
        """
        event = self._mechanism.event(self._plan, round_number)
        with self._store.transaction():
            self._load()
            self._check_order(round_number)
            if not self.affordable(event):
                raise BudgetExceededError(self._refusal(round_number))
            self._check_population(compose_events([(event, 1)]))
            self._store.append(
                self._run,
                "reserve",
                {"round": round_number, "event": composition_to_json(compose_events([(event, 1)]))},
            )
        self._load()

    def commit(self, round_number: int, cohort: NDArray[np.int64]) -> None:
        """Say that the round's result is durable; `cohort` holds the rows of the devices that were invited.

        The ledger keeps a keyed hash of the cohort, and where devices spend, how often each took part.
        """
        with self._store.transaction():
            self._load()
            if pending_round(self._entries) != round_number:
                raise RefusedError(
                    f"round {round_number} of {self._run} is not reserved: its result must not be released"
                )
            rows, counts = np.unique(np.asarray(cohort, np.int64)), self._counts.copy()
            if self.account.per_device:
                if bool(self.exhausted()[rows].any()):
                    raise FedrecError(f"round {round_number} drew devices that took part as often as they may")
                counts[rows] += 1
                self._store.set_counts(self._run, counts.tobytes())
            key = hmac.new(self._store.secret(), rows.astype("<i8").tobytes(), hashlib.sha256).hexdigest()
            self._store.append(self._run, "commit", {"round": round_number, "cohort": key, "counts": digest(counts)})
        self._load()

    def newest(self) -> int:
        """Return the newest round that was ever charged, 0 before the first."""
        return max((int(entry.body["round"]) for entry in self._entries if entry.kind == "reserve"), default=0)

    def exhausted(self) -> NDArray[np.bool_]:
        """Return which devices [devices] must not be drawn any more, because they took part as often as they may."""
        if not self.account.per_device:
            return np.zeros(self.account.devices, np.bool_)
        return self._counts >= self.account.participations

    def epsilon(self) -> float:
        """Return what this run has spent, an upper bound; infinite where nothing stands behind it.

        Where devices spend, it is that of the device that spent most.
        """
        return (
            running_epsilon(self.total, self.account.delta, self.account.budget) if self.account.private else math.inf
        )

    def projection(self, rounds: int) -> float:
        """Return what `rounds` rounds from the start will have spent."""
        if not self.account.private:
            return math.inf
        return compute_epsilon(projected(self._mechanism, self._plan, rounds), self.account.delta)

    def population_total(self, own: Composition | None = None) -> PopulationTotal:
        """Return what all runs on this population spent together; this one `own`, where that is given.

        Where devices spend, the largest counts of all runs are added up, as if one device had them all.
        """
        others = [other for other in runs(self._store) if other.run != self._run]
        spent = self.total if own is None else own
        return add_up([*others, Run(self._run, self.account, [], spent)], self.account)

    def population_projection(self) -> tuple[PopulationTotal, PopulationTotal]:
        """Return what all runs on this population have spent so far, and what they will have when this one ends.

        Rounds of this run that were lost come on top of its plan.
        """
        return self.population_total(), self.population_total(projected(self._mechanism, self._plan, self._plan.rounds))

    def check_in_place(self) -> None:
        """Raise `RefusedError` where the ledger was deleted or replaced since it was opened."""
        self._store.check_in_place()

    def check_holds(self, entry: str) -> None:
        """Raise `RefusedError` unless the ledger holds this hash: what a checkpoint stands on was charged here."""
        if not self._store.holds(entry):
            raise RefusedError(
                f"the ledger {self._store.path} does not hold what this run has spent (entry {entry[:12]}...): it was "
                "moved, deleted or belongs to other users; set FEDREC_STATE to where the run began, or start a new run"
            )

    def interpretation(self) -> dict[str, Any]:
        """Return what stands beside the epsilon of a run with a guarantee: both relations, and an attacker's gain."""
        return interpretation(self.total, self.account, self._counts)

    @property
    def total(self) -> Composition:
        """The composition that this run has spent."""
        return compute_spend(self.account, self._entries, self._counts)

    @property
    def population(self) -> str:
        """Whose privacy is spent."""
        return population_of(self._store.path)

    @property
    def head(self) -> str:
        """The hash of the newest entry of any run."""
        return self._store.head()

    def rows(self) -> list[dict[str, Any]]:
        """Return this run's rounds for its privacy card: round, status, event, and the hash of the reservation."""
        return rows(self._entries)

    def _load(self) -> None:
        """Read what was written since: another process may have opened this run and marked its round lost."""
        newest = self._entries[-1].seq if self._entries else 0
        self._entries.extend(self._store.entries(self._run, after=newest))
        self._counts = counts_of(self._store, self._run)

    def _check_order(self, round_number: int) -> None:
        if (pending := pending_round(self._entries)) is not None:
            raise FedrecError(
                f"round {pending} of {self._run} is still reserved: commit it before round {round_number}"
            )
        if any(entry.kind == "commit" and entry.body["round"] == round_number for entry in self._entries):
            raise RefusedError(
                f"round {round_number} of {self._run} was released already: a second draw would not be charged. "
                "Put back the run's newest checkpoint, or start a new run"
            )

    def _refusal(self, round_number: int) -> str:
        account, lost = self.account, sum(entry.kind == "lost" for entry in self._entries)
        if account.per_device and bool(self.exhausted().all()):
            reason = f"every device has taken part {account.participations} times, as often as the noise allows"
        else:
            so_far = running_epsilon(self.total, account.delta, account.budget)
            reason = f"after {format_epsilon(so_far)} so far it would pass privacy.epsilon={account.epsilon}"
        note = f"; {lost} rounds were lost and stay charged" if lost else ""
        return (
            f"round {round_number} of {self._run} is refused: {reason} "
            f"({format_terms(account.guarantee, account.delta)}{note})"
        )

    def _check_population(self, event: Composition) -> None:
        if math.isinf(self._population_limit):
            return
        total = self.population_total(compute_spend(self.account, self._entries, self._counts, event))
        if not total.within(self._population_limit):
            raise RefusedError(
                f"{self._run} is refused: all runs on these users would come to {total.sentence()}, more than "
                f"privacy.population_epsilon={self._population_limit}"
            )
