"""Devices that ask their policy first: those that decline a round are left out of what the node is asked for."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedrec.device.backend import Answering
from fedrec.device.consent.consent import Consent, Declined
from fedrec.device.consent.policy import Policy
from fedrec.messages import Message

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Consenting:
    """A node whose devices share one policy and keep a ledger each, `device-<row>.sqlite` in `ledgers`."""

    node: Answering
    policy: Policy
    ledgers: Path

    @classmethod
    def of(cls, node: Answering, policy: str, ledgers: str | None) -> "Consenting":
        """Return the node under the policy in this file; the ledgers lie beside it unless a folder is named."""
        path = Path(policy)
        return cls(node, Policy.load(path), Path(ledgers) if ledgers else path.parent / "ledgers")

    def answer(self, request: Message) -> Message:
        """Return the node's reply for the devices that agree; each is charged before it trains."""
        if request.header["kind"] != "train":
            return self.node.answer(request)
        agreed = [device for device in request.header["devices"] if self._agrees(device, request.header)]
        if request.header["devices"] and not agreed:
            # Why is for the device's person alone: a reason tells what the device took part in before.
            return Message({"error": "no device here takes part: its policy declines"})
        return self.node.answer(replace(request, header={**request.header, "devices": agreed}))

    def _agrees(self, device: int, header: dict[str, Any]) -> bool:
        try:
            Consent(self.policy, self.ledgers / f"device-{int(device)}.sqlite").charge(header)
        except Declined as reason:
            log.warning("%s", reason)
            return False
        return True
