"""What a device has taken part in: charged and on disk before it trains, chained like a server's ledger.

And beside it what it has refused, the newest alone: nothing rests on that but what its person reads.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fedrec.device.consent.request import PrivacyRequest
from fedrec.errors import RefusedError
from fedrec.privacy.accounting.rdp import Part, epsilon_bound, largest_tpr
from fedrec.privacy.guarantee import PrivacyGuarantee, Trust, Unit
from fedrec.privacy.ledger.store import Entry, LedgerStore
from fedrec.privacy.wording import FALSE_ALARMS, format_guarantee, widest_trust

YEAR_SECONDS = 365 * 86400.0
LONGEST_REASON = 400


@dataclass(frozen=True, slots=True)
class SpentBudget:
    """What the last year cost under one unit and relation.

    `trust` is whom its rounds trusted together; `promised` says that somebody else's noise is part of it.
    """

    unit: str
    neighbouring: str
    trust: str
    epsilon: float
    rounds: int
    promised: bool
    parts: tuple[Part, ...]

    def json(self) -> dict[str, Any]:
        """Return the cost for its reader, with the most that an attacker finds at FALSE_ALARMS."""
        names = ("unit", "neighbouring", "trust", "epsilon", "rounds", "promised")
        own = {name: getattr(self, name) for name in names}
        return {**own, "false_alarms": FALSE_ALARMS, "finds_at_most": largest_tpr(self.parts, FALSE_ALARMS)}


def format_spent(part: Mapping[str, Any], limit: float, delta: float) -> str:
    """Write for a device's person what `SpentBudget.json` says: the share of the year's limit first."""
    said = format_guarantee(PrivacyGuarantee.from_json(part), part["epsilon"], delta, part, limit)
    word = "; as far as those who promised to add noise did" if part["promised"] else ""
    share, rounds = 100 * part["epsilon"] / limit, part["rounds"]
    return f"{share:.0f} % of this year's limit used, in {rounds} round{'' if rounds == 1 else 's'}: {said}{word}"


class DeviceLedger:
    """The ledger of one device, a file of its own with its anchor beside it.

    Time is the device's clock, that never goes back here: a charge is stamped with the newest time that was ever seen,
    so that a clock set back frees nothing. A clock set forward does free what is then older than a year.
    """

    def __init__(self, path: Path) -> None:
        self._store = LedgerStore(path, path.with_suffix(".anchor"))

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def check_new(self, run: str, round_number: int) -> None:
        """Raise `RefusedError` for a round of a run that was charged already, and for one before it."""
        charged = [int(entry.body["round"]) for entry in self._store.entries(run) if entry.kind == "charge"]
        if charged and round_number <= max(charged):
            raise RefusedError(
                f"this device has taken part in round {max(charged)} of this run: no round is answered twice"
            )

    def charge(self, run: str, round_number: int, asked: PrivacyRequest, now: float) -> None:
        """Charge a round, durably; whatever becomes of it, it stays charged."""
        cost = {"unit": asked.unit, "neighbouring": asked.neighbouring, "trust": asked.trust, "parts": asked.parts}
        with self._store.transaction():
            self.check_new(run, round_number)
            seen = max((entry.body["time"] for entry in self._store.entries(None)), default=now)
            self._store.append(run, "charge", {"round": round_number, "time": max(now, seen), **cost})

    def spent(self, delta: float, now: float, more: PrivacyRequest | None = None) -> list[SpentBudget]:
        """Return what the year before `now` cost, one for each unit and relation, `more` included; unprotected rounds
        are not among them, for no epsilon bounds them.
        """
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for charge in self.charges(now):
            groups.setdefault((charge["unit"], charge["neighbouring"]), []).append(charge)
        if more is not None:
            added = {"parts": more.parts, "trust": more.trust}
            groups.setdefault((more.unit, more.neighbouring), []).append(added)
        return [_total(*key, charges, delta) for key, charges in sorted(groups.items()) if key[0] != Unit.NONE]

    def charges(self, now: float) -> list[dict[str, Any]]:
        """Return the charges of the year before `now`, and those that a clock set forward stamped after it."""
        return [entry.body for entry in self._of_kind("charge") if entry.body["time"] > now - YEAR_SECONDS]

    def _of_kind(self, kind: str) -> list[Entry]:
        return [entry for entry in self._store.entries(None) if entry.kind == kind]


@dataclass(frozen=True, slots=True)
class RefusalLog:
    """The newest refusals, at most `most`, in a file beside the ledger: round, time and reason, each reason once a run.

    A damaged file counts as empty: a refusal never hangs on those before it.
    """

    path: Path
    most: int = 100

    @classmethod
    def beside(cls, ledger: Path, most: int) -> "RefusalLog":
        """Return the log that belongs to a ledger's file."""
        return cls(ledger.with_suffix(".refusals.json"), most)

    def read(self) -> list[dict[str, Any]]:
        """Return what was refused, the oldest first."""
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError, RecursionError):
            return []
        return cast(list[dict[str, Any]], found)[-self.most :] if isinstance(found, list) else []

    def note(self, run: str, round_number: int, reason: str, now: float) -> None:
        """Keep why something was refused, in at most `LONGEST_REASON` printable characters."""
        text = "".join(letter if letter.isprintable() else " " for letter in reason[:LONGEST_REASON])
        before = self.read()
        if any((one.get("run"), one.get("reason")) == (run, text) for one in before):
            return
        kept = [*before, {"run": run, "round": round_number, "time": now, "reason": text}][-self.most :]
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(kept, file)
        fresh.replace(self.path)


def _total(unit: str, neighbouring: str, charges: list[dict[str, Any]], delta: float) -> SpentBudget:
    counts: dict[tuple[float, float], int] = {}
    for charge in charges:
        for z, rate, count in charge["parts"]:
            counts[z, rate] = counts.get((z, rate), 0) + count
    parts: list[Part] = [(z, rate, count) for (z, rate), count in sorted(counts.items())]
    trust = widest_trust(charge["trust"] for charge in charges)
    promised = any(charge["trust"] in (Trust.SERVER, Trust.GATEWAY) for charge in charges)
    return SpentBudget(unit, neighbouring, trust, epsilon_bound(parts, delta), len(charges), promised, tuple(parts))
