"""The round loop's transport over a Flower grid: push requests, pull replies, keep the deadline.

The in-process grid: Flower's apps without processes, sockets or Ray.

All private touch points with Flower lie here.
"""

import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

import httpx
from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from fedrec import messages
from fedrec.flower.codec import decode_reply, encode_request
from fedrec.flower.replies import NOT_UPLOADED, PendingReply, ReplyLine, sweep

POLL_SECONDS = 0.2
SETTLE_SECONDS = 2.0  # for which nodes that come and go can put off a look
REPLY_BYTES = 1 << 30  # of a node that is trusted: where nobody says less


class FlowerTransport:
    """Sends the round loop's requests to the nodes that a Flower grid knows."""

    def __init__(self, grid: Grid, wait_seconds: float = 60.0) -> None:
        self._grid, self._wait = grid, wait_seconds

    def ids(self) -> list[int]:
        """Return the nodes that are there; waits a while for the first to come, and shortly until no more do."""
        end, seen = time.monotonic() + self._wait, list[int]()
        while time.monotonic() < end:
            found = self._look()
            if found and found == seen:
                break
            if found and not seen:
                end = min(end, time.monotonic() + SETTLE_SECONDS)
            seen = found
            time.sleep(POLL_SECONDS if not getattr(self._grid, "immediate", False) else 0)
        return seen

    def _look(self) -> list[int]:
        """Return the nodes that the grid knows; asks again for a while where the SuperLink says that it failed."""
        end = time.monotonic() + self._wait
        while True:
            try:
                return sorted(self._grid.get_node_ids())
            except httpx.HTTPStatusError as error:
                if error.response.status_code < httpx.codes.INTERNAL_SERVER_ERROR or time.monotonic() > end:
                    raise
                time.sleep(POLL_SECONDS)

    def request(
        self, requests: Mapping[int, messages.Message], deadline_seconds: float, reply_bytes: int = REPLY_BYTES
    ) -> Iterator[tuple[int, messages.Message]]:
        """Push the requests and yield the replies that come before the deadline, none larger than `reply_bytes`."""
        end = time.monotonic() + deadline_seconds
        sent = self.send(requests, reply_bytes, end)
        while sent.waiting and time.monotonic() < end:
            yield from sent.collect()
            if sent.waiting and not getattr(self._grid, "immediate", False):
                time.sleep(min(POLL_SECONDS, max(end - time.monotonic(), 0)))
        yield from sent.give_up()

    def send(
        self, requests: Mapping[int, messages.Message], reply_bytes: int = REPLY_BYTES, end: float = math.inf
    ) -> "SentRequests":
        """Push the requests; what comes of them until `end`, by `time.monotonic`, is collected when asked for."""
        return SentRequests(self._grid, requests, reply_bytes, end)


class SentRequests:
    """Requests that were pushed, and the replies that are still to come."""

    def __init__(self, grid: Grid, requests: Mapping[int, messages.Message], reply_bytes: int, end: float) -> None:
        self._grid, self._end = grid, end
        pushed = {node: encode_request(node, request) for node, request in requests.items()}
        names = list(grid.push_messages(list(pushed.values()))) if pushed else []
        self._refused = [node for node, name in zip(pushed, names, strict=False) if not name]
        self.waiting = {
            name: PendingReply(node, name, message.metadata.message_type, reply_bytes)
            for (node, message), name in zip(pushed.items(), names, strict=False)
            if name
        }
        self._line = ReplyLine(grid) if isinstance(grid, HttpGrid) and self.waiting else None

    @property
    def unanswered(self) -> set[int]:
        """Which nodes have not answered by now."""
        return {pending.node for pending in self.waiting.values()}

    def collect(self) -> Iterator[tuple[int, messages.Message]]:
        """Yield what has come by now, without waiting for more."""
        while self._refused:
            yield self._refused.pop(), messages.FailedReply.of("the node is not there any more", unreachable=True)
        if self._line is not None:
            yield from sweep(self._line, self.waiting, self._in_time)
            return
        for message in self._grid.pull_messages(set(self.waiting)):
            pending = self.waiting.pop(message.metadata.reply_to_message_id, None)
            if self._in_time() and pending is not None:
                yield message.metadata.src_node_id, decode_reply(message, pending.most_bytes)

    def give_up(self) -> Iterator[tuple[int, messages.Message]]:
        """Yield a failure for each reply that was announced and has not come whole; nothing more is waited for."""
        while self.waiting:
            _, pending = self.waiting.popitem()
            if pending.name and self._line is not None:
                self._line.forget(pending.name)
                yield pending.node, messages.FailedReply.of(NOT_UPLOADED, unreachable=True)

    def _in_time(self) -> bool:
        return time.monotonic() <= self._end


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
