"""The round loop's nodes over a Flower grid: push, pull, deadlines, and replies that may be anything."""

import time
from collections.abc import Iterator, Mapping

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedrec import messages

POLL_SECONDS = 0.2
MESSAGE_TYPES = {"hello": "query", "catalogue": "query", "train": "train", "evaluate": "evaluate"}


class FlowerTransport:
    """The nodes that a Flower grid knows."""

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
        waiting = set(self._grid.push_messages([self._outgoing(node, r) for node, r in requests.items()]))
        while waiting and time.monotonic() < end:
            for message in self._grid.pull_messages(waiting):
                waiting.discard(message.metadata.reply_to_message_id)
                if time.monotonic() <= end:
                    yield message.metadata.src_node_id, incoming(message)
            if waiting and not getattr(self._grid, "immediate", False):
                time.sleep(POLL_SECONDS)

    @staticmethod
    def _outgoing(node: int, request: messages.Message) -> Message:
        data = messages.pack(request)
        array = Array(dtype="uint8", shape=(len(data),), stype="safetensors", data=data)
        content = RecordDict({"fedrec": ArrayRecord({"message": array})})
        return Message(content, dst_node_id=node, message_type=MESSAGE_TYPES[request.header["kind"]])


def incoming(message: Message) -> messages.Message:
    """Return what a reply holds; one that holds no message of ours becomes a header with an error."""
    if message.has_error():
        return messages.Message({"error": f"Flower says: {message.error.reason}"})
    try:
        return messages.unpack(message.content["fedrec"]["message"].data)
    except (messages.RejectedReplyError, KeyError, TypeError, AttributeError) as error:
        return messages.Message({"error": f"not a fedrec message ({type(error).__name__})"})
