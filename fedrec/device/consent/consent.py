"""The answer of a device to a request: taken part in and charged, or declined with a reason to read."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.device.consent.ledger import DeviceLedger
from fedrec.device.consent.policy import TRUST, ConsentPolicy
from fedrec.device.consent.request import PrivacyRequest, parse_request
from fedrec.errors import FedrecError, RefusedError
from fedrec.privacy.guarantee import PrivacyGuarantee, Trust
from fedrec.privacy.wording import format_epsilon, format_guarantee


class DeclinedError(RefusedError):
    """A round that a device takes no part in. Its text is for the device's person: what it spent is nobody else's."""


@dataclass(frozen=True, slots=True)
class Consent:
    """The policy of a device, and the file of its ledger."""

    policy: ConsentPolicy
    ledger: Path

    def charge(self, header: Mapping[str, Any], now: float | None = None) -> None:
        """Charge a train request to the device, durably, before it trains; raise `DeclinedError` if it asks too much.

        A ledger that can't be read or written, or that was tampered with, declines everything.
        """
        moment, run, number = now if now is not None else time.time(), str(header["run"]), int(header["round"])
        try:
            ledger = DeviceLedger(self.ledger)
        except FedrecError as error:
            raise DeclinedError(f"declined: {error}") from error
        try:
            request = parse_request(header)
            ledger.check_new(run, number)
            check(self.policy, request, ledger, moment)
            ledger.charge(run, number, request, moment)
        except FedrecError as error:
            ledger.note_refusal(run, number, str(error), moment)
            raise DeclinedError(f"round {number} declined: {error}") from error
        finally:
            ledger.close()

    def status(self, now: float | None = None) -> dict[str, Any]:
        """Return what the last year cost and what was declined, for the device's person."""
        moment = now if now is not None else time.time()
        ledger = DeviceLedger(self.ledger)
        try:
            spent = ledger.spent(self.policy.delta, moment)
            return {
                "largest_epsilon_per_year": self.policy.largest_epsilon_per_year,
                "delta": self.policy.delta,
                "spent": [part.json() for part in spent],
                "declined": ledger.refusals(),
            }
        finally:
            ledger.close()


def check(policy: ConsentPolicy, request: PrivacyRequest, ledger: DeviceLedger, now: float) -> None:
    """Raise `RefusedError`, in words for the device's person, where a request asks for more than the policy allows."""
    if request.trust not in policy.trust:
        allowed = ", ".join(TRUST[name] for name in policy.trust) or "nobody"
        raise RefusedError(f"it would trust {TRUST[request.trust]}; you allow {allowed}")
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
    """Raise `RefusedError` if the run by its own words, or the year with this round, passes the largest epsilon."""
    largest = policy.largest_epsilon_per_year
    if request.epsilon > largest:
        raise RefusedError(f"its run may spend {format_epsilon(request.epsilon)}; you allow {largest:g} a year")
    same = (request.unit, request.neighbouring)
    for total in ledger.spent(policy.delta, now, request):
        if (total.unit, total.neighbouring) == same and total.epsilon > largest:
            spent = format_guarantee(PrivacyGuarantee.from_json(total.json()), total.epsilon, policy.delta)
            raise RefusedError(f"with it, the last 365 days would come to {spent}; you allow {largest:g} a year")
