"""Where devices are: the protocol of the round loop's other side, and the plain loop without Flower."""

import time
from collections.abc import Iterator, Mapping
from typing import Protocol

from fedrec.messages import Message
from fedrec.node.node import Node


class Transport(Protocol):
    """Some nodes, each with some devices."""

    def ids(self) -> list[int]:
        """Return the names of the nodes that are there now, ascending."""
        ...

    def request(self, requests: Mapping[int, Message], deadline_seconds: float) -> Iterator[tuple[int, Message]]:
        """Send each node its request and yield (node, reply) as they come; what comes after the deadline is left out.

        A node that fails yields a reply whose header holds "error", or, in this process, raises what went wrong.
        """
        ...


class LocalTransport:
    """`parts` nodes in this process, asked one after the other: the round loop without Flower."""

    def __init__(self, parts: int = 1) -> None:
        self._nodes = {index + 1: Node(index, parts, exact=True) for index in range(parts)}

    def ids(self) -> list[int]:
        """Return 1 to `parts`."""
        return list(self._nodes)

    def request(self, requests: Mapping[int, Message], deadline_seconds: float) -> Iterator[tuple[int, Message]]:
        """Answer the requests in order, those that finish in time."""
        end = time.monotonic() + deadline_seconds
        for node, request in requests.items():
            reply = self._nodes[node].answer(request)
            if time.monotonic() <= end:
                yield node, reply
