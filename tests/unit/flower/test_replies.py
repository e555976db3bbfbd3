"""Replies of hostile devices, one class each: rejected by name, no larger than what was asked, and nobody waits."""

from typing import cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from fedrec.flower.replies import PendingReply, ReplyLine, sweep
from fedrec.messages import FailedReply, Message, reply_bytes
from tests.support.hostile_replies import HOSTILE, Asked, Honest, Store, metadata, objects_of

SHAPES = {"w": (40, 10)}
MOST = reply_bytes(SHAPES)
REPLY = Message(
    {"protocol": 1, "run": "r", "round": 3, "hash": "h", "count": 1},
    {"w": np.arange(400, dtype=np.float32).reshape(40, 10)},
)
ASKED = Asked()
HONEST = Honest(REPLY, ASKED, MOST)
DATA = HONEST.data


def answered(store: Store, most_bytes: int = MOST) -> Message | None:
    """Return what the server makes of the reply in the store, None where it still waits."""
    waiting = {ASKED.message: PendingReply(ASKED.node, ASKED.message, ASKED.kind, most_bytes)}
    found = list(sweep(cast(ReplyLine, store), waiting, lambda: True))
    assert len(found) + len(waiting) == 1
    return found[0][1] if found else None


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_reply_is_one_short_reason_and_the_store_may_forget_it(kind: str) -> None:
    store = HOSTILE[kind](HONEST)
    reply = answered(store)
    assert isinstance(reply, FailedReply) and not reply.unreachable and not reply.arrays
    assert len(reply.header["error"]) <= 213 and reply.header["error"].isprintable()
    assert store.pulled <= MOST + 10_000 and len(store.forgotten) == (not kind.startswith("f18"))


@pytest.mark.parametrize("place", range(5))
def test_what_was_never_uploaded_is_waited_for_by_nobody(place: int) -> None:
    assert answered(HONEST.broken(place, uploaded=False)) is None


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 500])
def test_an_honest_reply_arrives_in_one_chunk_or_many(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrec.flower.replies.CHUNK_BYTES", chunk_bytes)
    reply = answered(Store(objects_of(DATA, ASKED, chunk_bytes)[0], metadata(ASKED)))
    assert reply is not None and reply.header == REPLY.header
    assert np.array_equal(reply.arrays["w"], REPLY.arrays["w"])


def test_the_objects_are_made_as_flower_makes_them() -> None:
    data = Array(dtype="uint8", shape=(len(DATA),), stype="safetensors", data=DATA)
    content = RecordDict({"fedrec": ArrayRecord({"message": data})})
    assert content.deflate() == objects_of(DATA, ASKED)[1].content()
    assert data.deflate() == objects_of(DATA, ASKED)[3].content()
