"""Replies that a SuperLink holds: each pulled, measured and decoded by itself, before anything of it is believed.

Flower's own grid pulls all replies at once, waits for objects that never come, and inflates whatever a device sent. A
reply of ours has one form: a message with one record with one array of bytes in chunks. Its objects are pulled one by
one from the top, and each must be what this form has there, so that a reply costs no more than was asked for.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

import httpx
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE, ErrorCode
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.run import RunNotRunningException

from fedrec.flower.codec import ARRAY, RECORD
from fedrec.messages import TOO_LARGE, FailedReply, Message, RejectedReplyError, sanitize_text, unpack_reply

if TYPE_CHECKING:  # a device reads messages so, too, and has no grid
    from flwr.superlink.grid.http_grid import HttpGrid

CHAIN = ("Message", "RecordDict", "ArrayRecord", "Array")  # each with one child, but for the chunks of the last
CHUNK_BYTES = FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
BODY_BYTES, HEAD_BYTES, ID_BYTES = 4096, 256, 65  # an id and what parts it from the next
UNREACHABLE = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)
NOT_UPLOADED = "its answer was announced and not uploaded before the deadline"


class ObjectSource(Protocol):
    """Where the objects of a message are."""

    def pull_object(self, name: str, most_bytes: int) -> bytes | None:
        """Return an object's content of at most `most_bytes`, or None while it was not uploaded."""
        ...


class ReplyLine:
    """The calls of Flower's grid that hand out a reply, none of which returns more than `most_bytes`."""

    def __init__(self, grid: "HttpGrid") -> None:
        self._client, self._node = cast(Any, grid)._runtime_client, grid.node
        self._run_id = cast(Any, grid)._run.run_id

    def _call(self, most_bytes: int, call: Callable[[], Any]) -> Any:
        def measure(response: httpx.Response) -> None:
            length = response.headers.get("content-length", "")
            if not (length.isdecimal() and int(length) <= most_bytes):
                raise RejectedReplyError(TOO_LARGE)

        http, hooks = self._client._client, self._client._client.event_hooks
        http.event_hooks = {**hooks, "response": [*hooks["response"], measure]}
        try:
            return call()
        except RejectedReplyError:
            raise
        except (httpx.HTTPStatusError, ValueError) as error:
            raise RejectedReplyError("the SuperLink can't hand the reply out") from error
        finally:
            http.event_hooks = hooks

    def pull(self, message: str, most_bytes: int) -> tuple[MessageProto, ObjectTree] | None:
        """Return the reply to a message and the tree of its objects, or None where there is none yet."""
        request = PullAppMessagesRequest(message_ids=[message])
        found = self._call(most_bytes, lambda: self._client.PullMessages(request))
        if not found.messages_list:
            return None
        if len(found.messages_list) != 1 or len(found.message_object_trees) != 1:
            raise RejectedReplyError("more than one reply to one message")
        return found.messages_list[0], found.message_object_trees[0]

    def pull_object(self, name: str, most_bytes: int) -> bytes | None:
        """Return an object's content, or None while it was not uploaded."""
        request = PullObjectRequest(node=self._node, run_id=self._run_id, object_id=name)
        found = self._call(most_bytes + HEAD_BYTES, lambda: self._client.PullObject(request))
        if not found.object_found:
            raise RejectedReplyError("an object of the reply is not there")
        return bytes(found.object_content) if found.object_available else None

    def forget(self, name: str) -> None:
        """Let the SuperLink drop a reply's objects."""
        request = ConfirmMessageReceivedRequest(node=self._node, run_id=self._run_id, message_object_id=name)
        try:
            self._call(BODY_BYTES, lambda: self._client.ConfirmMessageReceived(request))
        except RejectedReplyError:
            return


@dataclass
class PendingReply:
    """A reply that was asked for: what of it has come so far."""

    node: int
    message: str
    kind: str  # Flower's type of the message, which the reply repeats
    most_bytes: int
    name: str = ""
    chain: list[str] = field(default_factory=list[str])
    chunks: list[str] = field(default_factory=list[str])
    order: list[int] = field(default_factory=list[int])
    size: int = 0
    contents: list[bytes] = field(default_factory=list[bytes])
    place: int = 0

    @property
    def most_chunks(self) -> int:
        """How many chunks the largest reply has."""
        return -(-self.most_bytes // CHUNK_BYTES)

    def advance(self, line: ReplyLine, in_time: Callable[[], bool]) -> Message | None:
        """Pull what is there by now; return the reply once it is whole, a `FailedReply` for any fault of it."""
        try:
            return self._advance(line, in_time)
        except RejectedReplyError as error:
            return FailedReply.of(str(error))
        except (RunNotRunningException, httpx.TransportError):
            raise  # the server's own trouble
        except Exception as error:  # whatever one device sends must not end the run
            return FailedReply.of(f"not a fedrec message ({type(error).__name__})")

    def _advance(self, line: ReplyLine, in_time: Callable[[], bool]) -> Message | None:
        if not self.name:
            found = line.pull(self.message, BODY_BYTES + 2 * ID_BYTES * (self.most_chunks + len(CHAIN)) + BODY_BYTES)
            if found is None:
                return None
            self.name = found[1].object_id or "none"
            if found[0].HasField("error"):
                error = found[0].error
                gone = error.code in UNREACHABLE
                return FailedReply.of(f"Flower says: {sanitize_text(error.reason)}", unreachable=gone)
            self._check_metadata(found[0])
            self._measure_tree(found[1])
        while self.place < len(CHAIN) + len(self.chunks):
            if not in_time() or not self._pull_next(line):
                return None
        return unpack_reply(b"".join(self.contents[index] for index in self.order))

    def _check_metadata(self, proto: MessageProto) -> None:
        said = proto.metadata
        if (said.reply_to_message_id, said.src_node_id) != (self.message, self.node):
            raise RejectedReplyError("the reply is another node's, or to another message")
        if said.message_type != self.kind:
            raise RejectedReplyError("the reply has another type than its request")

    def _measure_tree(self, tree: ObjectTree) -> None:
        """Keep the names of the objects; raise unless they form the one chain that a reply of ours has."""
        self.name = tree.object_id
        for _ in CHAIN[:-1]:
            self.chain.append(tree.object_id)
            if len(tree.children) != 1:
                raise RejectedReplyError("the reply holds other records than one of ours")
            tree = tree.children[0]
        self.chain.append(tree.object_id)
        self.chunks = [child.object_id for child in tree.children]
        if not 0 < len(self.chunks) <= self.most_chunks:
            raise RejectedReplyError(TOO_LARGE)
        if any(len(child.children) for child in tree.children) or len(set(self.chunks)) < len(self.chunks):
            raise RejectedReplyError("the chunks of the reply are no chunks")

    def _pull_next(self, line: ObjectSource) -> bool:
        """Pull and check the next object; return False while it is not there."""
        inner = self.place < len(CHAIN)
        name = self.chain[self.place] if inner else self.chunks[self.place - len(CHAIN)]
        most = BODY_BYTES + (ID_BYTES + 8) * self.most_chunks if inner else min(CHUNK_BYTES, self.most_bytes)
        content = line.pull_object(name, most + HEAD_BYTES)
        if content is None:
            return False
        if hashlib.sha256(content).hexdigest() != name:
            raise RejectedReplyError("an object of the reply has another hash than its name")
        children = [*self.chain[self.place + 1 : self.place + 2]] if self.place < len(CHAIN) - 1 else self.chunks
        kind = CHAIN[self.place] if inner else "ArrayChunk"
        body = body_of(content, kind, children if inner else [])
        if inner:
            self._check_body(kind, body)
        else:
            self.contents.append(body)
            self._check_chunk()
        self.place += 1
        return True

    def _check_body(self, kind: str, body: bytes) -> None:
        if kind == "Message":
            self._check_metadata(MessageProto.FromString(body))
        elif kind == "Array":
            self.order, self.size = array_layout(body, len(self.chunks), self.most_bytes)
        else:
            record = RECORD if kind == "RecordDict" else ARRAY
            if json.loads(body) != {record: self.chain[self.place + 1]}:
                raise RejectedReplyError("the reply holds other records than one of ours")

    def _check_chunk(self) -> None:
        """Raise once the chunks that came would inflate to more than the array says it holds."""
        inflated = sum(len(self.contents[index]) for index in self.order if index < len(self.contents))
        last = len(self.contents) == len(self.chunks)
        if inflated > self.size or (last and inflated != self.size):
            raise RejectedReplyError("the chunks of the reply are not as long as its array says")


def body_of(content: bytes, kind: str, children: Sequence[str]) -> bytes:
    """Return the body of an object; raise unless its head names this kind, these children and the body's length."""
    head, divider, body = content.partition(b"\0")
    expected = f"{kind} {','.join(children)} {len(content) - len(head) - 1}".encode()
    if not divider or head != expected:
        raise RejectedReplyError("an object of the reply is not what its place asks for")
    return body


def array_layout(body: bytes, chunks: int, most_bytes: int) -> tuple[list[int], int]:
    """Return (the order of an array's chunks, its bytes); raise unless the array is bytes of ours and small enough."""
    said = json.loads(body)
    if type(said) is not dict or said.keys() != {"dtype", "shape", "stype", "arraychunk_ids"}:
        raise RejectedReplyError("the array of the reply is not described as one")
    order, shape = cast(Any, said["arraychunk_ids"]), cast(Any, said["shape"])
    if (said["dtype"], said["stype"]) != ("uint8", "safetensors"):
        raise RejectedReplyError("the array of the reply is not the bytes of a message")
    if type(shape) is not list or len(cast(list[Any], shape)) != 1 or type(shape[0]) is not int:
        raise RejectedReplyError("the array of the reply has no size")
    if not 0 < shape[0] <= most_bytes:
        raise RejectedReplyError(TOO_LARGE)
    named = {(type(index), index) for index in cast(list[Any], order)} if type(order) is list else set[Any]()
    if named != {(int, index) for index in range(chunks)}:
        raise RejectedReplyError("the array of the reply names other chunks than it has")
    return cast(list[int], order), shape[0]


def sweep(
    line: ReplyLine, waiting: dict[str, PendingReply], in_time: Callable[[], bool]
) -> Iterator[tuple[int, Message]]:
    """Yield the replies that are whole by now, or wrong, and take them out of `waiting`."""
    for message, pending in list(waiting.items()):
        if not in_time():
            return
        reply = pending.advance(line, in_time)
        if reply is not None:
            del waiting[message]
            if pending.name:
                line.forget(pending.name)
            yield pending.node, reply
