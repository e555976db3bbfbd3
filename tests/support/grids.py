"""Flower grids without Flower's processes that behave as those of Ray and of a SuperLink do: replies come late."""

from collections.abc import Iterable
from types import SimpleNamespace

from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from fedrec.flower.transport import InProcessGrid


class PollingGrid(InProcessGrid):
    """Answers nothing at the first look and everything at the second, the last node first, as Ray's workers may."""

    immediate = False

    def __init__(self, app: ClientApp, parts: int) -> None:
        super().__init__(app, parts)
        self._looked = False

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._looked = False
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        if not self._looked:
            self._looked = True
            return []
        names = sorted(message_ids, key=list(self._waiting).index, reverse=True)
        return [reply for name in names for reply in super(PollingGrid, self).pull_messages([name])]


class MeasuredGrid(HttpGrid):
    """A SuperLink's grid whose runtime is in this process: replies lie there as objects, and are pulled one by one."""

    def __init__(self, app: ClientApp, parts: int) -> None:
        self._nodes, self.node = InProcessGrid(app, parts), Node(node_id=1)
        self._run = Run.create_empty(1)
        self.replies, self.objects = dict[str, Message](), dict[str, bytes]()
        self._calls = SimpleNamespace(
            _client=SimpleNamespace(event_hooks={"response": []}),
            PullMessages=self._pull_messages,
            PullObject=self._pull_object,
            ConfirmMessageReceived=self._confirm,
        )

    @property
    def _runtime_client(self) -> SimpleNamespace:  # type: ignore[override]
        return self._calls

    def get_node_ids(self) -> Iterable[int]:
        return self._nodes.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take the messages in; let them be answered at once, and the answers be uploaded."""
        names = list(self._nodes.push_messages(messages))
        for name in names:
            (reply,) = self._nodes.pull_messages([name])
            reply.metadata.__dict__["_message_id"] = reply.object_id
            self.replies[name] = reply
            self.objects |= {key: one.deflate() for key, one in get_all_nested_objects(reply).items()}
        return names

    def _pull_messages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        found = [self.replies[name] for name in request.message_ids if name in self.replies]
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(reply) for reply in found],
            message_object_trees=[get_object_tree(reply) for reply in found],
        )

    def _pull_object(self, request: PullObjectRequest) -> PullObjectResponse:
        content = self.objects.get(request.object_id)
        return PullObjectResponse(
            object_found=content is not None, object_available=content is not None, object_content=content or b""
        )

    def _confirm(self, request: ConfirmMessageReceivedRequest) -> None:
        kept = {name: reply for name, reply in self.replies.items() if reply.object_id != request.message_object_id}
        self.replies = kept
