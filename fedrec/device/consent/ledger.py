"""What a device has taken part in: charged and on disk before it trains, chained like a server's ledger.

And beside it what it has refused, the newest alone: nothing rests on that but what its person reads.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from fedrec.device.consent.request import PrivacyRequest
from fedrec.errors import RefusedError
from fedrec.privacy.accounting.rdp import Part, epsilon_bound, largest_tpr
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit, common_terms
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

    def protected_epsilon(self, delta: float) -> float:
        """Return the epsilon of the rounds that protected something, alone."""
        return epsilon_bound(self.parts, delta)

    def json(self) -> dict[str, Any]:
        """Return the cost for its reader, with the most that an attacker finds at FALSE_ALARMS."""
        names = ("unit", "neighbouring", "trust", "epsilon", "rounds", "promised")
        own = {name: getattr(self, name) for name in names}
        own["epsilon"] = None if math.isinf(self.epsilon) else self.epsilon
        return {**own, "false_alarms": FALSE_ALARMS, "finds_at_most": largest_tpr(self.parts, FALSE_ALARMS)}


def format_spent(part: Mapping[str, Any], limit: float, delta: float) -> str:
    """Write for a device's person what `SpentBudget.json` says: the share of the year's limit first."""
    said = format_guarantee(PrivacyGuarantee.from_json(part), part["epsilon"], delta, part, limit)
    word = "; as far as those who promised to add noise did" if part["promised"] else ""
    rounds = part["rounds"]
    used = "no part" if part["epsilon"] is None else f"{100 * part['epsilon'] / limit:.0f} %"
    return f"{used} of this year's limit used, in {rounds} round{'' if rounds == 1 else 's'}: {said}{word}"


def format_year(told: Mapping[str, Any]) -> list[str]:
    """Write for a device's person what `Consent.status` says of the year: the total first, and each kind where there
    are several.
    """
    limit, delta, spent = told["largest_epsilon_per_year"], told["delta"], told["spent"]
    lines = [format_spent(part, limit, delta) for part in spent]
    if len(spent) > 1:
        lines = [f"all together, {format_spent(told['total'], limit, delta)}", *(f"of it, {line}" for line in lines)]
    if number := told["unprotected"]:
        rounds = f"{number} round{'' if number == 1 else 's'}"
        lines.insert(0, f"{rounds} of this year protected nothing: no epsilon bounds what was told")
    return lines


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

    def total(self, delta: float, now: float, more: PrivacyRequest | None = None) -> SpentBudget:
        """Return what the year before `now` cost all in all, `more` included: a person's budget is one.

        Charges of one unit and relation alone stand as they are. Where there are several, all are in terms of the
        strictest: one interaction, or a person's data, replaced by any other. What is added or removed moves twice as
        far when it is replaced, so that noise counts half; and a person's data replaced hold every interaction of it.
        A round that protected nothing makes the total infinite.
        """
        charges = self.charges(now)
        if more is not None:
            charges.append({name: getattr(more, name) for name in ("unit", "neighbouring", "trust", "parts")})
        kinds = {(charge["unit"], charge["neighbouring"]) for charge in charges}
        private = kinds - {(Unit.NONE, Relation.NONE)}
        unit, relation = common_terms(private)
        same = [{**charge, "parts": parts_as(charge, relation)} for charge in charges if charge["unit"] != Unit.NONE]
        found = _total(unit, relation, same, delta)
        return found if len(private) == len(kinds) else replace(found, epsilon=math.inf)

    def unprotected(self, now: float) -> int:
        """Return how many rounds of the year before `now` protected nothing."""
        return sum(charge["unit"] == Unit.NONE for charge in self.charges(now))

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
        return cast(list[dict[str, Any]], found) if isinstance(found, list) else []

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


def parts_as(charge: Mapping[str, Any], relation: str) -> list[Part]:
    """Return the parts of a charge in terms of a relation: under replace-one, noise on what is added counts half."""
    halved = relation == Relation.REPLACE_ONE and charge["neighbouring"] == Relation.ADD_REMOVE
    return [(z / 2 if halved else z, rate, count) for z, rate, count in charge["parts"]]


def _total(unit: str, neighbouring: str, charges: list[dict[str, Any]], delta: float) -> SpentBudget:
    counts: dict[tuple[float, float], int] = {}
    for charge in charges:
        for z, rate, count in charge["parts"]:
            counts[z, rate] = counts.get((z, rate), 0) + count
    parts: list[Part] = [(z, rate, count) for (z, rate), count in sorted(counts.items())]
    trust = widest_trust([Trust.DEVICE, *(charge["trust"] for charge in charges)])
    promised = any(charge["trust"] in (Trust.SERVER, Trust.GATEWAY) for charge in charges)
    return SpentBudget(unit, neighbouring, trust, epsilon_bound(parts, delta), len(charges), promised, tuple(parts))
