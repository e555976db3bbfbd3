"""The round loop's transport over a Flower grid: push requests, pull replies, keep the deadline."""

import time
from collections.abc import Iterator, Mapping

from flwr.serverapp import Grid

from fedrec import messages
from fedrec.flower.codec import decode_reply, encode_request

POLL_SECONDS = 0.2


class FlowerTransport:
    """Sends the round loop's requests to the nodes that a Flower grid knows."""

    def __init__(self, grid: Grid, wait_seconds: float = 60.0) -> None:
        self._grid, self._wait = grid, wait_seconds

    def ids(self) -> list[int]:
        """Return the nodes that are there; waits a while for the first ones to come, and until no more do."""
        end, seen = time.monotonic() + self._wait, list[int]()
        while time.monotonic() < end:
            found = sorted(self._grid.get_node_ids())
            if found and found == seen:
                break
            seen = found
            time.sleep(POLL_SECONDS if not getattr(self._grid, "immediate", False) else 0)
        return seen

    def request(
        self, requests: Mapping[int, messages.Message], deadline_seconds: float
    ) -> Iterator[tuple[int, messages.Message]]:
        """Push the requests and yield the replies that come before the deadline."""
        end = time.monotonic() + deadline_seconds
        waiting = set(self._grid.push_messages([encode_request(node, r) for node, r in requests.items()]))
        while waiting and time.monotonic() < end:
            for message in self._grid.pull_messages(waiting):
                waiting.discard(message.metadata.reply_to_message_id)
                if time.monotonic() <= end:
                    yield message.metadata.src_node_id, decode_reply(message)
            if waiting and not getattr(self._grid, "immediate", False):
                time.sleep(POLL_SECONDS)
