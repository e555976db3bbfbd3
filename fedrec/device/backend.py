"""What answers on this machine: the torch node where torch is installed, else the NumPy node; or the one chosen."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from fedrec.device.consent.consent import Consent, ConsentPolicy, DeclinedError, packages_of, read_table
from fedrec.device.consent.request import check_packages
from fedrec.errors import FedrecError, suggest
from fedrec.experiment.instantiate import allow_only
from fedrec.messages import Message

ENGINES = ("auto", "torch", "light")
log = logging.getLogger(__name__)


class NodeProtocol(Protocol):
    """A node of either engine."""

    def answer(self, request: Message) -> Message:
        """Return the reply to a request."""
        ...


def respond(answer: Callable[[], Message]) -> Message:
    """Return what a node answers; an error becomes a reply that names it, and never breaks the run."""
    try:
        return answer()
    except FedrecError as error:
        return Message({"error": str(error)})
    except Exception as error:  # whatever breaks one node must not break the run
        log.exception("this node could not answer")
        return Message({"error": f"{type(error).__name__} on the node; its log says more"})


def select_backend(engine: str) -> str:
    """Return "torch" or "light"; "auto" takes torch where it is installed."""
    if engine not in ENGINES:
        raise FedrecError(f"engine={engine} does not exist.{suggest(engine, ENGINES)}")
    found = has_torch()
    if engine == "torch" and not found:
        raise FedrecError("engine=torch: torch is not installed here; use engine=light, or auto")
    return engine if engine != "auto" else "torch" if found else "light"


def has_torch() -> bool:
    """Say whether torch is installed, without importing it."""
    try:
        return find_spec("torch") is not None
    except ImportError:
        return False


def make_simulated_node(engine: str, index: int, parts: int) -> NodeProtocol:
    """Return part `index` of `parts` of a simulated population, trained by that engine."""
    if select_backend(engine) == "light":
        from fedrec.numpy_engine.node import LightNode

        return LightNode(index, parts, exact=True)
    from fedrec.federated.node import Node

    return Node(index, parts, exact=True)


@dataclass(frozen=True, slots=True)
class ConsentGuard:
    """A node whose devices share one policy and keep a ledger each, `device-<row>.sqlite` in `ledgers`."""

    node: NodeProtocol
    policy: ConsentPolicy
    ledgers: Path
    packages: tuple[str, ...] = ()

    @classmethod
    def of(cls, node: NodeProtocol, policy: str, ledgers: str | None) -> "ConsentGuard":
        """Return the node under the policy in this file; the ledgers lie beside it unless a folder is named."""
        path = Path(policy)
        kept, packages = Path(ledgers) if ledgers else path.parent / "ledgers", read_table(path, "packages")
        return cls(node, ConsentPolicy.load(path), kept, packages_of(packages, policy))

    def answer(self, request: Message) -> Message:
        """Return the node's reply for the devices that agree; each is charged before it trains."""
        with allow_only(self.packages):
            check_packages(request.header)
            return self._answer(request)

    def _answer(self, request: Message) -> Message:
        if request.header["kind"] not in ("train", "secure"):
            return self.node.answer(request)
        agreed = [device for device in request.header["devices"] if self._agrees(device, request.header)]
        if request.header["devices"] and not agreed:
            # Why is for the device's person alone: a reason tells what the device took part in before.
            return Message({"error": "no device here takes part: its policy declines"})
        return self.node.answer(replace(request, header={**request.header, "devices": agreed}))

    def _agrees(self, device: int, header: dict[str, Any]) -> bool:
        try:
            Consent(self.policy, self.ledgers / f"device-{int(device)}.sqlite").charge(header)
        except DeclinedError as reason:
            log.warning("%s", reason)
            return False
        return True
