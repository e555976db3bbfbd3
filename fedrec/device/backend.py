"""Which engine trains on this machine: torch where it is installed, else the light one; or the one that was chosen."""

from importlib.util import find_spec
from typing import Protocol

from fedrec.errors import FedrecError, suggest
from fedrec.messages import Message

ENGINES = ("auto", "torch", "light")


class NodeProtocol(Protocol):
    """A node of either engine."""

    def answer(self, request: Message) -> Message:
        """Return the reply to a request."""
        ...


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
    from fedrec.node.node import Node

    return Node(index, parts, exact=True)
