"""The round loop's transport over a Flower grid: push requests, pull replies, keep the deadline.

The in-process grid: Flower's apps without processes, sockets or Ray.

All private touch points with Flower lie here.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

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


class InProcessGrid(Grid):
    """`parts` nodes of one client app in this process; a message is answered when it is pulled.

    Node n trains with `engines[n mod len(engines)]`. `immediate` tells a polling server that nothing comes of waiting.
    """

    immediate = True
    run = None  # type: ignore[assignment]

    def __init__(self, app: ClientApp, parts: int, engines: Sequence[str] = ("auto",)) -> None:
        # Message() refuses to be made outside a task of Flower's; these are process-wide there.
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self._app, self._waiting = app, dict[str, Message]()
        self._contexts = dict[int, Context]()
        for index in range(parts):
            engine = engines[index % len(engines)]
            config: UserConfig = {"partition-id": index, "num-partitions": parts, "engine": engine}
            self._contexts[index + 1] = Context(1, index + 1, config, RecordDict(), {})

    def set_run(self, run: object) -> None:
        """Nothing to set: there is one run."""

    def create_message(self, *args: object, **kwargs: object) -> Message:
        """Not offered by this grid; use `Message(...)`."""
        raise NotImplementedError("InProcessGrid makes no messages: call Message(...)")

    def get_node_ids(self) -> Iterable[int]:
        """Return 1 to `parts`."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages in; each gets the id that its reply will name. What was not pulled before is forgotten."""
        self._waiting.clear()
        pushed = list[str]()
        for message in messages:
            name = uuid.uuid4().hex
            message.metadata.__dict__["_message_id"] = name
            self._waiting[name] = message
            pushed.append(name)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer the next of the messages asked for, so that a deadline is looked at between two nodes."""
        for name in sorted(message_ids, key=list(self._waiting).index):
            message = self._waiting.pop(name)
            return [self._app(message, self._contexts[message.metadata.dst_node_id])]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Answer messages at once, in order."""
        return [self._app(message, self._contexts[message.metadata.dst_node_id]) for message in messages]
