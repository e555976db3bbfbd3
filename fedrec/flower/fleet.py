"""A device's line to its server: one warm process looks for messages, answers them, and runs nothing that it is sent.

Flower's SuperNode looks every three seconds, starts processes for each message, and runs in them the app that a server
delivered. Here the same calls of Flower's Fleet API are made, no app is fetched, and what answers is installed here. A
request is pulled as the server pulls a reply: each object is measured and checked before the next is asked for.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization.ssh import load_ssh_private_key
from flwr.app import Message as FlowerMessage
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedrec.errors import FedrecError
from fedrec.flower import codec
from fedrec.flower.replies import CHUNK_BYTES, HEAD_BYTES, PendingReply
from fedrec.messages import TOO_LARGE, Message, RejectedReplyError, unpack

LEAST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, SHARE = 0.1, 3.0, 0.1
RETRY_SECONDS, UPLOAD_SECONDS = 3.0, 60.0
NOT_ADMITTED, ENDED = 412, 401  # what the front answers at first, and whoever was one of its nodes
log = logging.getLogger(__name__)


class TurnedAwayError(FedrecError):
    """The server does not take this device, or does not any more."""


@dataclass
class PendingRequest(PendingReply):
    """A request that is being pulled: a message of the form that a reply has, to this node."""

    def read(self, line: "FleetLine", tree: ObjectTree) -> Message:
        """Return the whole request; any fault of it is `RejectedReplyError`."""
        self._measure_tree(tree)
        end = time.monotonic() + UPLOAD_SECONDS
        while self.place < len(self.chain) + len(self.chunks):
            if not self._pull_next(line):
                if time.monotonic() > end:
                    raise RejectedReplyError("the request was announced and not uploaded")
                time.sleep(LEAST_WAIT_SECONDS)
        return unpack(b"".join(self.contents[index] for index in self.order))

    def _check_metadata(self, proto: MessageProto) -> None:
        if (proto.metadata.dst_node_id, proto.metadata.message_type) != (self.node, self.kind):
            raise RejectedReplyError("the request is another node's, or of another type than was said")


class FleetLine:
    """The calls of Flower's Fleet API that a device makes; no answer to one is longer than a part of an array."""

    run = 0

    def __init__(self, server: str, certificate: str | None, key: Path) -> None:
        self._secure = certificate is not None
        self._keys = _read_keys(key) if self._secure else generate_key_pairs()
        signing = NodeAuthHttpInterceptor(*self._keys)
        versions = RuntimeVersionHttpInterceptor(component_name="SuperNode")
        self._client = FleetHttpClient.from_server_address(
            server, not self._secure, certificate, interceptors=[versions, signing]
        )
        http = cast(Any, self._client)._client
        http.event_hooks = {**http.event_hooks, "response": [*http.event_hooks["response"], _measure]}
        self._node, self._known = Node(), True

    @contextlib.contextmanager
    def connected(self) -> Generator[None]:
        """Be one of the server's nodes until the block ends; a server that does not admit this key is named."""
        public = public_key_to_bytes(self._keys[1])
        if not self._secure:
            self._client.RegisterNode(RegisterNodeFleetRequest(public_key=public))
        asked = ActivateNodeRequest(public_key=public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        try:
            self._node = Node(node_id=self._client.ActivateNode(asked).node_id)
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (NOT_ADMITTED, ENDED):
                raise
            why = "the server did not admit this key, or still holds its last session"
            raise TurnedAwayError(why) from error
        heart = HeartbeatSender(self._beat)
        heart.start()
        try:
            yield
        finally:
            heart.stop()
            with contextlib.suppress(httpx.HTTPError, ValueError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))

    def _beat(self) -> bool:
        asked = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        with contextlib.suppress(httpx.HTTPError, ValueError):
            self._known = self._client.SendNodeHeartbeat(asked).success
            return self._known
        return False  # tried again; whoever is turned away hears it when it next looks for messages

    def pull(self) -> tuple[MessageProto, ObjectTree] | None:
        """Return the head of a message for this device and the tree of its objects; None: there is none."""
        if not self._known:
            raise TurnedAwayError("the server does not know this session any more")
        found = self._client.PullMessages(PullMessagesRequest(node=self._node))
        return (found.messages_list[0], found.message_object_trees[0]) if found.messages_list else None

    def pull_object(self, name: str, most_bytes: int) -> bytes | None:
        """Return an object's content, or None while it is not there."""
        found = self._client.PullObject(PullObjectRequest(node=self._node, run_id=self.run, object_id=name))
        if len(found.object_content) > most_bytes:
            raise RejectedReplyError(TOO_LARGE)
        if not found.object_found:
            raise RejectedReplyError("an object of the request is not there")
        return found.object_content if found.object_available else None

    def read(self, head: MessageProto, tree: ObjectTree, most_bytes: int) -> Message:
        """Return a request that was announced, of at most so many bytes, and let the server drop it."""
        self.run = head.metadata.run_id
        pending = PendingRequest(self._node.node_id, tree.object_id, head.metadata.message_type, most_bytes)
        request = pending.read(self, tree)
        asked = ConfirmMessageReceivedRequest(node=self._node, run_id=self.run, message_object_id=tree.object_id)
        self._client.ConfirmMessageReceived(asked)
        return request

    def push(self, head: MessageProto, reply: Message, seconds: float) -> None:
        """Send the reply to a request that took so long."""
        message = FlowerMessage(codec.encode(reply), reply_to=message_from_proto(head))
        objects, tree = get_all_nested_objects(message), get_object_tree(message)
        proto = message_to_proto(remove_content_from_message(message))
        proto.metadata.message_id = tree.object_id
        pushed = self._client.PushMessages(
            PushMessagesRequest(
                node=self._node, messages_list=[proto], message_object_trees=[tree], clientapp_runtime_list=[seconds]
            )
        )
        for name in set(pushed.objects_to_push) & objects.keys():
            self._client.PushObject(
                PushObjectRequest(
                    node=self._node, run_id=self.run, session_id=pushed.session_id, object_id=name,
                    object_content=objects[name].deflate(),
                )
            )  # fmt: skip


def serve(line: FleetLine, answer: Callable[[Message], Message], most_bytes: int) -> NoReturn:
    """Answer what comes for ever; what is no request of at most `most_bytes`, or can't be sent, is dropped and logged.

    The longer nothing came, the less often it looks: a request waits a tenth of that time, at most three seconds.
    """
    last = time.monotonic()
    while True:
        wait = min(max(SHARE * (time.monotonic() - last), LEAST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)
        try:
            found = line.pull()
            if found is not None:
                wait = 0.0
                _answer(line, *found, answer, most_bytes)
                last = time.monotonic()
        except TurnedAwayError:
            raise
        except httpx.HTTPStatusError as error:
            if error.response.status_code == ENDED:
                raise TurnedAwayError("the server does not admit this key any more") from error
            log.warning("the server answered %d", error.response.status_code)
            wait = RETRY_SECONDS
        except (httpx.TransportError, ValueError) as error:
            log.warning("the server can't be reached: %s", error)
            wait = RETRY_SECONDS
        time.sleep(wait)


def _answer(
    line: FleetLine, head: MessageProto, tree: ObjectTree, answer: Callable[[Message], Message], most_bytes: int
) -> None:
    try:
        request, start = line.read(head, tree, most_bytes), time.monotonic()
        line.push(head, answer(request), time.monotonic() - start)
    except httpx.HTTPError:
        raise
    except Exception as error:  # whatever a server sends must not end the device
        reason = str(error) if isinstance(error, RejectedReplyError) else f"no fedrec message ({type(error).__name__})"
        log.warning("a request was dropped: %s", reason)


def _measure(response: httpx.Response) -> None:
    """Refuse an answer that is longer than a part of an array, before it is read."""
    length = response.headers.get("content-length", "")
    if not (length.isdecimal() and int(length) <= CHUNK_BYTES + 2 * HEAD_BYTES):
        raise httpx.RemoteProtocolError("an answer is longer than a part of an array")


def _read_keys(path: Path) -> tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]:
    key = load_ssh_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FedrecError(f"{path}: no key on an elliptic curve; fedrec client enroll makes one")
    return key, key.public_key()
