"""The answer of a device to a request: taken part in and charged, or declined with a reason to read.

What the person of a device allows, in the tables [privacy] and [packages] of the device's policy.toml.
"""

import math
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from fedrec.device.consent.ledger import DeviceLedger, RefusalLog, parts_as
from fedrec.device.consent.request import PlayedRounds, PrivacyRequest, parse_request
from fedrec.errors import FedrecError, RefusedError, suggest
from fedrec.experiment.instantiate import check_package
from fedrec.privacy.accounting.rdp import budget_share
from fedrec.privacy.guarantee import PrivacyGuarantee, Trust
from fedrec.privacy.wording import TRUST, format_epsilon, format_guarantee

LONGEST_NAME = 64
# What it means to trust each, for the device's person.
MEANS: dict[str, str] = {
    Trust.DEVICE: "what it sends carries noise of its own making, and nobody need be trusted with it",
    Trust.GATEWAY: "its gateway sees what it computes without noise, and adds the noise for all its users",
    Trust.SERVER: "the server sees what it sends before noise is added, also when it asks this device alone; one that "
    "cheats can read what you did off it, and no device can notice",
    Trust.NONE: "rounds that protect nothing pass: whoever asks can read what you did off what it sends",
}
TEMPLATE = """[privacy]
# What a server may ask of this device. A round that asks for more is declined, and nothing is sent.
largest_epsilon_per_year = 10.0  # of all rounds of 365 days together, at this delta
delta = 1e-5
least_noise_multiplier = 0.3     # noise over clip, each time that this device's data are used
largest_clip = 10.0              # how much this device may move the model at once
largest_share_per_request = 0.05 # of the year's budget that one request may book: twenty such requests keep the year
trust = ["device"]               # who may see what this device computes before noise hides it: "gateway", "server";
                                 # "none": rounds that protect nothing pass

[packages]
# allow = ["my_package"]         # installed here by you beside fedrec: a server may ask for its models and algorithms
"""


# The tables of a policy, and the keys of those that are read key by key; the others name their own.
TABLES: dict[str, tuple[str, ...] | None] = {
    "participation": None,
    "store": ("retention_days",),
    "sharing": ("evaluation",),
    "privacy": None,
    "packages": None,
    "limits": None,
}


@dataclass(frozen=True, slots=True)
class ConsentPolicy:
    """The limits of one device. `trust` lists who may be trusted; with "none" in it even unprotected rounds pass.

    `largest_share_per_request` is of the year's budget, as `budget_share` measures it.
    """

    largest_epsilon_per_year: float = 10.0
    delta: float = 1e-5
    least_noise_multiplier: float = 0.3
    largest_clip: float = 10.0
    largest_share_per_request: float = 0.05
    trust: tuple[str, ...] = (Trust.DEVICE,)

    @classmethod
    def of(cls, table: Mapping[str, Any], where: str = "policy.toml") -> "ConsentPolicy":
        """Return the policy of a [privacy] table; what it leaves out is as above, and every mistake is named."""
        known = {field.name for field in fields(cls)}
        for key in table:
            if key not in known:
                raise FedrecError(f"{where}: privacy.{key} does not exist.{suggest(key, known)}")
        numbers = {key: _number(value, f"{where}: privacy.{key}") for key, value in table.items() if key != "trust"}
        if numbers.get("delta", 0) >= 1:
            raise FedrecError(f"{where}: privacy.delta={numbers['delta']}: must lie below 1")
        policy = replace(cls(), **numbers)
        return replace(policy, trust=trusted(table["trust"], f"{where}: privacy.trust")) if "trust" in table else policy

    @classmethod
    def load(cls, path: Path) -> "ConsentPolicy":
        """Return the policy of a file; one that can't be read is an error, never a policy that allows more."""
        return cls.of(read_table(path, "privacy"), str(path))


def read_table(path: Path, name: str) -> dict[str, Any]:
    """Return one table of a policy's file, empty where it has none.

    A file that can't be read is an error, and so are tables and keys that nothing would look at.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FedrecError(f"{path}: {error}") from error
    for other in tables:
        if other not in TABLES:
            raise FedrecError(f"{path}: [{other}] does not exist.{suggest(other, TABLES)}")
    table: object = tables.get(name, {})
    if not isinstance(table, dict):
        raise FedrecError(f"{path}: {name} must be a table, [{name}]")
    found, known = cast(dict[str, Any], table), TABLES.get(name)
    for key in found:
        if known is not None and key not in known:
            raise FedrecError(f"{path}: {name}.{key} does not exist.{suggest(key, known)}")
    return found


def packages_of(table: Mapping[str, Any], where: str = "policy.toml") -> tuple[str, ...]:
    """Return the packages that a [packages] table allows by name; none where it says nothing."""
    for key in table:
        if key != "allow":
            raise FedrecError(f"{where}: packages.{key} does not exist.{suggest(key, ('allow',))}")
    names = table.get("allow", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast(list[Any], names)):
        raise FedrecError(f'{where}: packages.allow={names}: a list of names is expected, such as ["my_package"]')
    return tuple(check_package(name, f"{where}: packages.allow:") for name in cast(list[str], names))


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise FedrecError(f"{where}={value}: a number above 0 is expected")
    return float(value)


def policy_of(trust: Sequence[str]) -> str:
    """Return the template with another list of who is trusted."""
    listed = ", ".join(f'"{name}"' for name in trust)
    return TEMPLATE.replace(f'trust = ["{Trust.DEVICE}"]', f"trust = [{listed}]")


def trusted(value: Any, where: str) -> tuple[str, ...]:
    """Return who is trusted; whatever is no list of those in `MEANS` is an error of `where`."""
    if not isinstance(value, list):
        raise FedrecError(f'{where}={value}: a list is expected, such as ["device"]')
    for name in cast(list[Any], value):
        if name not in MEANS:
            raise FedrecError(f"{where}: {name} does not exist.{suggest(str(name), MEANS)}")
    return tuple(cast(list[str], value))


class DeclinedError(RefusedError):
    """A round that a device takes no part in. Its text is for the device's person: what it spent is nobody else's."""


@dataclass(frozen=True, slots=True)
class Consent:
    """The policy of a device, the file of its ledger, and how many refusals are kept beside it."""

    policy: ConsentPolicy
    ledger: Path
    refusals: int = 100

    def charge(self, header: Mapping[str, Any], now: float | None = None, played: PlayedRounds | None = None) -> None:
        """Charge a train request to the device, durably, before it trains; raise `DeclinedError` if it asks too much.

        `played` are the rounds that the device derived from the request, where it can (`fedrec.device.derive`).
        A ledger that can't be read or written, or that was tampered with, declines everything.
        """
        moment, run, number = now if now is not None else time.time(), str(header["run"]), int(header["round"])
        try:
            ledger = DeviceLedger(self.ledger)
        except FedrecError as error:
            raise DeclinedError(f"declined: {error}") from error
        try:
            request = parse_request(header, played)
            ledger.check_new(run, number)
            check(self.policy, request, ledger, moment)
            ledger.charge(run, number, request, moment)
        except FedrecError as error:
            self.note_refusal(header, str(error), moment)
            raise DeclinedError(f"round {number} declined: {error}") from error
        finally:
            ledger.close()

    def note_refusal(self, header: Mapping[str, Any], reason: str, now: float | None = None) -> None:
        """Keep why a request was refused, for the device's person; a header that is none is noted as such."""
        run, number = str(header.get("run"))[:LONGEST_NAME], header.get("round")
        moment = now if now is not None else time.time()
        RefusalLog.beside(self.ledger, self.refusals).note(run, number if type(number) is int else 0, reason, moment)

    def status(self, now: float | None = None) -> dict[str, Any]:
        """Return what the last year cost and what was declined, for the device's person."""
        moment = now if now is not None else time.time()
        ledger = DeviceLedger(self.ledger)
        try:
            spent, total = ledger.spent(self.policy.delta, moment), ledger.total(self.policy.delta, moment)
            return {
                "trust": list(self.policy.trust),
                "largest_epsilon_per_year": self.policy.largest_epsilon_per_year,
                "delta": self.policy.delta,
                "spent": [part.json() for part in spent],
                "total": total.json(),
                "unprotected": ledger.unprotected(moment),
                "declined": RefusalLog.beside(self.ledger, self.refusals).read(),
            }
        finally:
            ledger.close()


def check(policy: ConsentPolicy, request: PrivacyRequest, ledger: DeviceLedger, now: float) -> None:
    """Raise `RefusedError`, in words for the device's person, where a request asks for more than the policy allows."""
    if request.trust not in policy.trust:
        allowed = ", ".join(TRUST[name] for name in policy.trust) or "nobody"
        line = ", ".join(f'"{name}"' for name in (*policy.trust, request.trust))
        unprotected = ": nothing is protected" if request.trust == Trust.NONE else ""
        raise RefusedError(
            f"it would trust {TRUST[request.trust]}{unprotected}; you allow {allowed} ([privacy] trust = [{line}] in "
            "policy.toml allows it)"
        )
    if request.trust == Trust.NONE:
        return
    if request.noise_multiplier < policy.least_noise_multiplier:
        raise RefusedError(
            f"its noise multiplier is {request.noise_multiplier:.3g}; you ask for at least "
            f"{policy.least_noise_multiplier:g}"
        )
    if request.clip > policy.largest_clip:
        raise RefusedError(f"its clip is {request.clip:.3g}; you allow at most {policy.largest_clip:g}")
    check_budget(policy, request, ledger, now)


def check_budget(policy: ConsentPolicy, request: PrivacyRequest, ledger: DeviceLedger, now: float) -> None:
    """Raise `RefusedError` if the run by its own words, the year with this round, or this round alone asks too much."""
    largest = policy.largest_epsilon_per_year
    if request.epsilon > largest:
        raise RefusedError(f"its run may spend {format_epsilon(request.epsilon)}; you allow {largest:g} a year")
    total = ledger.total(policy.delta, now, request)
    if math.isinf(total.epsilon) and Trust.NONE not in policy.trust:
        raise RefusedError(
            "rounds of the last 365 days protected nothing: no limit can hold any more "
            '([privacy] trust with "none" in it, in policy.toml, lets it be)'
        )
    spent = total.protected_epsilon(policy.delta)
    if spent > largest:
        said = format_guarantee(PrivacyGuarantee.from_json(total.json()), spent, policy.delta)
        raise RefusedError(f"with it, the last 365 days would come to {said}; you allow {largest:g} a year")
    own = {"parts": request.parts, "neighbouring": request.neighbouring}
    share = budget_share(parts_as(own, total.neighbouring), policy.delta, largest)
    if share > policy.largest_share_per_request:
        raise RefusedError(
            f"it alone would take {math.ceil(100 * share)} % of the year's budget; you allow "
            f"{100 * policy.largest_share_per_request:g} % ([privacy] largest_share_per_request = "
            f"{math.ceil(100 * share) / 100:.2f} in policy.toml allows it)"
        )
