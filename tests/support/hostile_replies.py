"""What a hostile device answers: an honest reply as Flower's objects, broken in one place, and the ids above it remade.

`HOSTILE` breaks Flower's objects or our bytes, `LIES` says in a message of the right form what can't be. `Store` plays
the SuperLink that hands such a reply out.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree
from safetensors.numpy import save

from fedrec.messages import HEADER, TOO_LARGE, Message, RejectedReplyError, pack

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Asked:
    """What the reply is to: the node that was asked, Flower's name of the message and of its run, its type."""

    node: int = 7
    message: str = "message-asked"
    kind: str = "train"
    run: int = 1


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


def metadata(asked: Asked, **changes: Any) -> MessageProto:
    """Return the head of a reply as a SuperNode sends it."""
    said = {"src_node_id": asked.node, "dst_node_id": 1, "reply_to_message_id": asked.message, "run_id": asked.run}
    said |= {"message_type": asked.kind, "created_at": float(int(time.time())), "ttl": 600.0, **changes}
    proto = MessageProto()
    for key, value in said.items():
        setattr(proto.metadata, key, value)
    return proto


def objects_of(data: bytes, asked: Asked, chunk_bytes: int = CHUNK_BYTES, **layout: Any) -> list[Object]:
    """Return the chain of a reply with these bytes: message, records, record, array, then its chunks."""
    parts = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    chunks = [Object("ArrayChunk", lambda _, part=part: part) for part in parts]  # type: ignore[misc]
    said = {"dtype": "uint8", "shape": [len(data)], "stype": "safetensors", "arraychunk_ids": [*range(len(parts))]}
    array = Object("Array", lambda _: json.dumps({**said, **layout}).encode(), chunks)
    record = Object("ArrayRecord", lambda names: json.dumps({"message": names[0]}).encode(), [array])
    records = Object("RecordDict", lambda names: json.dumps({"fedrec": names[0]}).encode(), [record])
    head = metadata(asked).SerializeToString()
    message = Object("Message", lambda _: head, [records])
    return [message, records, record, array, *chunks]


@dataclass
class Store:
    """Hands out one reply, object by object, and counts what it was asked for."""

    message: Object
    proto: MessageProto
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


@dataclass(frozen=True)
class Honest:
    """An honest reply, from which the dishonest ones are made."""

    reply: Message
    asked: Asked = Asked()
    most_bytes: int = 1 << 18

    @property
    def data(self) -> bytes:
        return pack(self.reply)

    def packed(self, data: bytes | None = None, **layout: Any) -> Store:
        """Return the reply, or other bytes in its place."""
        objects = objects_of(self.data if data is None else data, self.asked, **layout)
        return Store(objects[0], metadata(self.asked))

    def broken(self, place: int, **changes: Any) -> Store:
        """Return the reply with one object of its chain changed."""
        objects = objects_of(self.data, self.asked)
        for name, value in changes.items():
            setattr(objects[place], name, value)
        return Store(objects[0], metadata(self.asked))

    def body(self, place: int, content: bytes) -> Store:
        return self.broken(place, body=lambda _: content)

    def addressed(self, **changes: Any) -> Store:
        return replace(self.packed(), proto=metadata(self.asked, **changes))

    def repeated(self, place: int, count: int) -> Store:
        return self.broken(place, children=objects_of(self.data, self.asked)[place].children * count)

    def headed(self, header: bytes | np.ndarray) -> Store:
        """Return the reply with another header than one that JSON writes."""
        text = np.frombuffer(header, np.uint8) if isinstance(header, bytes) else header
        return self.packed(save({**self.reply.arrays, HEADER: text}))

    def framed(self, header: bytes | dict[str, Any], rest: bytes = b"") -> Store:
        """Return safetensors bytes of which the frame says what it likes."""
        text = json.dumps(header).encode() if isinstance(header, dict) else header
        return self.packed(len(text).to_bytes(8, "little") + text + rest)

    def failed(self) -> Store:
        proto = metadata(self.asked)
        proto.error.code, proto.error.reason = 2, "x\x1b[31m\n" * 10**4
        return replace(self.packed(), proto=proto)

    def told(self, arrays: dict[str, Any] | None = None, **header: Any) -> Store:
        """Return a reply of the right form that says something else."""
        changed = Message({**self.reply.header, **header}, {**self.reply.arrays, **(arrays or {})})
        return self.packed(pack(changed))


def one(dtype: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}


TWO = Object("ArrayRecord", lambda _: b"{}")
HOSTILE: dict[str, Callable[[Honest], Store]] = {
    "c23 cut in half": lambda r: r.packed(r.data[: len(r.data) // 2]),
    "c24 garbage": lambda r: r.packed(b"\xff" * 200),
    "c25 claims 10^12": lambda r: r.framed(one("F32", [10**12], 64), bytes(64)),
    "c28 stype evil": lambda r: r.packed(stype="evil"),
    "d40 header of blanks": lambda r: r.framed(b" " * 70_000),
    "d42 nested lists": lambda r: r.headed(b"[" * 60_000),
    "d43 key twice": lambda r: r.headed(b'{"count": 1, "count": 99}'),
    "d46 BF16": lambda r: r.framed(one("BF16", [2], 4), bytes(4)),
    "d55e header a list": lambda r: r.headed(b"[1]"),
    "d55f not UTF-8": lambda r: r.headed(b"\xff\xfe"),
    "d55g header in floats": lambda r: r.headed(np.ones(4, np.float32)),
    "d55i 6,000 digits": lambda r: r.headed(b'{"count": ' + b"9" * 6000 + b"}"),
    "f01 another record": lambda r: r.broken(1, body=lambda names: json.dumps({"other": names[0]}).encode()),
    "f02 a ConfigRecord": lambda r: r.broken(2, kind="ConfigRecord"),
    "c33 a second record": lambda r: r.broken(1, children=[*objects_of(r.data, r.asked)[1].children, TWO]),
    "f04 Flower's error": lambda r: r.failed(),
    "f05 array's body": lambda r: r.body(3, b"{broken"),
    "f06 chunk 99": lambda r: r.packed(arraychunk_ids=[99]),
    "f06b chunk -1": lambda r: r.packed(arraychunk_ids=[-1]),
    "f06c chunk true": lambda r: r.packed(arraychunk_ids=[False]),
    "f07 one chunk 400 times": lambda r: r.packed(arraychunk_ids=[0] * 400),
    "f07b and said so": lambda r: r.packed(arraychunk_ids=[0] * 400, shape=[400 * len(r.data)]),
    "f09 record called Message": lambda r: r.broken(2, kind="Message"),
    "f10 another node": lambda r: r.addressed(src_node_id=8),
    "f11 another type": lambda r: r.addressed(message_type="query.evil"),
    "f13 records' body": lambda r: r.body(1, b"[1,2"),
    "f14 message's body": lambda r: r.body(0, b"\xff" * 9),
    "f15 a child that the tree lacks": lambda r: r.broken(2, head_children=["a" * 64]),
    "f18 children 1,001 times": lambda r: r.repeated(3, 1001),
    "f19 shape a word": lambda r: r.packed(shape="abc", dtype=[1]),
    "f21 another message": lambda r: r.addressed(reply_to_message_id="other"),
    "larger than asked": lambda r: r.packed(bytes(r.most_bytes + 1)),
    "no chunk": lambda r: r.broken(3, children=[]),
    "another size": lambda r: r.packed(shape=[len(r.data) - 1]),
}
NOT_STORED = ("f10", "f21", "f18")  # a SuperLink of Flower 1.41 does not hand these on


def first(r: Honest, change: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    name = max(r.reply.arrays, key=lambda name: r.reply.arrays[name].size)
    return {name: np.asarray(change(r.reply.arrays[name]))}


LIES: dict[str, dict[str, Callable[[Honest], Store]]] = {
    "train": {
        "c01 nan": lambda r: r.told(first(r, lambda a: np.full_like(a, np.nan))),
        "c03 inf": lambda r: r.told(first(r, lambda a: np.full_like(a, np.inf))),
        "c08 count 10^18": lambda r: r.told(count=10**18),
        "c13 count 0": lambda r: r.told(count=0),
        "c15 one row more": lambda r: r.told(first(r, lambda a: np.concatenate([a, a[:1]]))),
        "c16 f64": lambda r: r.told(first(r, lambda a: a.astype(np.float64))),
        "c21 extra array": lambda r: r.told({"../../etc/passwd": np.ones(2, np.float32)}),
        "c31 extra key": lambda r: r.told(user_ids=[1, 2]),
        "c32 a loss": lambda r: r.told(loss=1e299, examples=1 << 52),
        "d36 another round": lambda r: r.told(round=99),
        "d37 another run": lambda r: r.told(run="other"),
        "d55 count true": lambda r: r.told(count=True),
    },
    "hello": {
        "proof zz": lambda r: r.told(proof="zz"),
        "proof 5": lambda r: r.told(proof=5),
        "device a list": lambda r: r.told(device=["a"]),
        "another's name": lambda r: r.told(device="f" * 32),
        "a long version": lambda r: r.told(fedrec="\x1b[31m" + "9" * 900),
        "catalogue a table": lambda r: r.told(catalogue={"a": 1}),
        "evaluates a list": lambda r: r.told(evaluates=[1]),
        "Flower says": lambda r: r.told(error="Flower says: bye" + "\n" * 900),
    },
    "evaluate": {
        "a word": lambda r: r.told(sums={"full_hr@10": "x"}),
        "a list": lambda r: r.told(sums={"full_hr@10": [1]}),
        "10^400": lambda r: r.told(sums={"full_hr@10": 10**400}),
        "null": lambda r: r.told(sums={"full_hr@10": None}),
        "another name": lambda r: r.told(sums={"../hr@10": 1.0}),
        "2,000 names": lambda r: r.told(sums={f"full_hr@{n}": 1.0 for n in range(1, 2001)}),
        "count 1.0": lambda r: r.told(count=1.0),
        "another run": lambda r: r.told(run="other"),
    },
}
