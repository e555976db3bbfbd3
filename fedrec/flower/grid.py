"""The in-process grid: Flower's apps without processes, sockets or Ray.

All private touch points with Flower lie here.
"""

import uuid
from collections.abc import Iterable, Sequence

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity


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
