"""Replies of hostile devices, one class each: rejected by name, no larger than what was asked, and nobody waits."""

import json
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.flower.replies import PendingReply, ReplyLine, sweep
from fedrec.messages import HEADER, FailedReply, Message, pack, reply_bytes
from tests.support.hostile_replies import ASKED, KIND, NODE, Object, Store, honest, metadata

SHAPES = {"w": (40, 10)}
MOST = reply_bytes(SHAPES)
REPLY = Message(
    {"protocol": 1, "run": "r", "round": 3, "hash": "h", "count": 1},
    {"w": np.arange(400, dtype=np.float32).reshape(40, 10)},
)
DATA = pack(REPLY)


def answered(store: Store) -> Message | None:
    """Return what the server makes of the reply in the store, None where it still waits."""
    waiting = {ASKED: PendingReply(NODE, ASKED, KIND, MOST)}
    found = list(sweep(cast(ReplyLine, store), waiting, lambda: True))
    assert len(found) + len(waiting) == 1
    return found[0][1] if found else None


def broken(place: int, **changes: Any) -> Store:
    objects = honest(DATA)
    for name, value in changes.items():
        setattr(objects[place], name, value)
    return Store(objects[0])


def body(place: int, content: bytes) -> Store:
    return broken(place, body=lambda _: content)


def layout(**changes: Any) -> Store:
    return Store(honest(DATA, **changes)[0])


def packed(data: bytes) -> Store:
    return Store(honest(data)[0])


def framed(header: bytes, rest: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + rest


def with_children(place: int, count: int) -> Store:
    objects = honest(DATA)
    objects[place].children = objects[place].children * count
    return Store(objects[0])


def with_header(text: bytes) -> Store:
    from safetensors.numpy import save

    return packed(save({**REPLY.arrays, HEADER: np.frombuffer(text, np.uint8)}))


def float_header() -> Store:
    from safetensors.numpy import save

    return packed(save({**REPLY.arrays, HEADER: np.ones(4, np.float32)}))


TWO = Object("ArrayRecord", lambda _: b"{}")
HOSTILE: dict[str, Callable[[], Store]] = {
    "c23 cut in half": lambda: packed(DATA[: len(DATA) // 2]),
    "c24 garbage": lambda: packed(b"\xff" * 200),
    "c25 claims 10^12": lambda: packed(
        framed(json.dumps({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 64]}}).encode(), bytes(64))
    ),
    "c28 stype evil": lambda: layout(stype="evil"),
    "d40 header of blanks": lambda: packed(framed(b" " * 70_000)),
    "d42 nested lists": lambda: with_header(b"[" * 60_000),
    "d43 key twice": lambda: with_header(b'{"count": 1, "count": 99}'),
    "d46 BF16": lambda: packed(
        framed(json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode(), bytes(4))
    ),
    "d55e header a list": lambda: with_header(b"[1]"),
    "d55f not UTF-8": lambda: with_header(b"\xff\xfe"),
    "d55g header in floats": float_header,
    "d55i 6,000 digits": lambda: with_header(b'{"count": ' + b"9" * 6000 + b"}"),
    "f01 another record": lambda: broken(1, body=lambda names: json.dumps({"other": names[0]}).encode()),
    "f02 a ConfigRecord": lambda: broken(2, kind="ConfigRecord"),
    "c33 a second record": lambda: broken(1, children=[*honest(DATA)[1].children, TWO]),
    "f04 Flower's error": lambda: Store(honest(DATA)[0], failed()),
    "f05 array's body": lambda: body(3, b"{broken"),
    "f06 chunk 99": lambda: layout(arraychunk_ids=[99]),
    "f06b chunk -1": lambda: layout(arraychunk_ids=[-1]),
    "f06c chunk true": lambda: layout(arraychunk_ids=[False]),
    "f07 one chunk 400 times": lambda: layout(arraychunk_ids=[0] * 400),
    "f07b and said so": lambda: layout(arraychunk_ids=[0] * 400, shape=[400 * len(DATA)]),
    "f09 record called Message": lambda: broken(2, kind="Message"),
    "f10 another node": lambda: Store(honest(DATA)[0], metadata(src_node_id=8)),
    "f11 another type": lambda: Store(honest(DATA)[0], metadata(message_type="query.evil")),
    "f13 records' body": lambda: body(1, b"[1,2"),
    "f14 message's body": lambda: body(0, b"\xff" * 9),
    "f15 a child that the tree lacks": lambda: broken(2, head_children=["a" * 64]),
    "f18 children 1,001 times": lambda: with_children(3, 1001),
    "f19 shape a word": lambda: layout(shape="abc", dtype=[1]),
    "f21 another message": lambda: Store(honest(DATA)[0], metadata(reply_to_message_id="other")),
    "larger than asked": lambda: packed(bytes(MOST + 1)),
    "no chunk": lambda: broken(3, children=[]),
    "another size": lambda: layout(shape=[len(DATA) - 1]),
}


def failed() -> Any:
    proto = metadata()
    proto.error.code, proto.error.reason = 2, "x\x1b[31m\n" * 10**4
    return proto


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_reply_is_one_short_reason_and_the_store_may_forget_it(kind: str) -> None:
    store = HOSTILE[kind]()
    reply = answered(store)
    assert isinstance(reply, FailedReply) and not reply.unreachable and not reply.arrays
    assert len(reply.header["error"]) <= 213 and reply.header["error"].isprintable()
    assert store.pulled <= MOST + 10_000 and len(store.forgotten) == (not kind.startswith("f18"))


@pytest.mark.parametrize("place", range(5))
def test_what_was_never_uploaded_is_waited_for_by_nobody(place: int) -> None:
    assert answered(broken(place, uploaded=False)) is None


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 500])
def test_an_honest_reply_arrives_in_one_chunk_or_many(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrec.flower.replies.CHUNK_BYTES", chunk_bytes)
    reply = answered(Store(honest(DATA, chunk_bytes)[0]))
    assert reply is not None and reply.header == REPLY.header
    assert np.array_equal(reply.arrays["w"], REPLY.arrays["w"])


def test_the_objects_are_made_as_flower_makes_them() -> None:
    data = Array(dtype="uint8", shape=(len(DATA),), stype="safetensors", data=DATA)
    content = RecordDict({"fedrec": ArrayRecord({"message": data})})
    assert content.deflate() == honest(DATA)[1].content()
    assert data.deflate() == honest(DATA)[3].content()


@settings(max_examples=300)
@given(st.integers(0, 4), st.integers(0, 10**6), st.integers(0, 255), st.booleans(), st.integers(0, 10**6))
def test_no_mutated_object_raises_or_grows(place: int, where: int, value: int, cut: bool, end: int) -> None:
    objects = honest(DATA)
    names = [child.name for child in objects[place].children]
    whole = bytearray(objects[place].body(names) or b"\0")
    whole[where % len(whole)] = value
    content = bytes(whole[: end % len(whole)]) if cut else bytes(whole)
    objects[place].body = lambda _: content
    store = Store(objects[0])
    assert isinstance(answered(store), Message) and store.pulled <= MOST + 10_000
