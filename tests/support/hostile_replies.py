"""What a hostile device answers: an honest reply as Flower's objects, broken in one place, and the ids above it remade.

`Store` plays the SuperLink that hands such a reply out.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree

from fedrec.messages import TOO_LARGE, RejectedReplyError

NODE, ASKED, KIND = 7, "message-asked", "train"


@dataclass
class Object:
    """One Flower object: its class, its children, its body, and what of it is told otherwise than it is."""

    kind: str
    body: Callable[[list[str]], bytes]
    children: list["Object"] = field(default_factory=list)
    head_children: list[str] | None = None
    uploaded: bool = True

    def content(self) -> bytes:
        names = [child.name for child in self.children]
        body = self.body(names)
        told = list(dict.fromkeys(names)) if self.head_children is None else self.head_children
        return f"{self.kind} {','.join(told)} {len(body)}".encode() + b"\0" + body

    @property
    def name(self) -> str:
        return hashlib.sha256(self.content()).hexdigest()

    def tree(self) -> ObjectTree:
        return ObjectTree(object_id=self.name, children=[child.tree() for child in self.children])

    def all(self) -> list["Object"]:
        return [self, *(inner for child in self.children for inner in child.all())]


def metadata(**changes: Any) -> MessageProto:
    proto = MessageProto()
    said = {"src_node_id": NODE, "reply_to_message_id": ASKED, "message_type": KIND, **changes}
    for key, value in said.items():
        setattr(proto.metadata, key, value)
    return proto


def honest(data: bytes, chunk_bytes: int = 1 << 20, **layout: Any) -> list[Object]:
    """Return the chain of a reply with these bytes: message, records, array, then its chunks."""
    parts = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    chunks = [Object("ArrayChunk", lambda _, part=part: part) for part in parts]  # type: ignore[misc]
    said = {"dtype": "uint8", "shape": [len(data)], "stype": "safetensors", "arraychunk_ids": [*range(len(parts))]}
    array = Object("Array", lambda _: json.dumps({**said, **layout}).encode(), chunks)
    record = Object("ArrayRecord", lambda names: json.dumps({"message": names[0]}).encode(), [array])
    records = Object("RecordDict", lambda names: json.dumps({"fedrec": names[0]}).encode(), [record])
    message = Object("Message", lambda _: metadata().SerializeToString(), [records])
    return [message, records, record, array, *chunks]


@dataclass
class Store:
    """Hands out one reply, object by object, and counts what it was asked for."""

    message: Object
    proto: MessageProto = field(default_factory=metadata)
    pulled: int = 0
    forgotten: list[str] = field(default_factory=list)

    def pull(self, message: str, most_bytes: int) -> tuple[MessageProto, ObjectTree]:
        tree = self.message.tree()
        if tree.ByteSize() > most_bytes:
            raise RejectedReplyError(TOO_LARGE)
        return self.proto, tree

    def pull_object(self, name: str, most_bytes: int) -> bytes | None:
        found = next((one for one in self.message.all() if one.name == name), None)
        if found is None:
            raise RejectedReplyError("an object of the reply is not there")
        if not found.uploaded:
            return None
        content = found.content()
        if len(content) > most_bytes:
            raise RejectedReplyError(TOO_LARGE)
        self.pulled += len(content)
        return content

    def forget(self, name: str) -> None:
        self.forgotten.append(name)
