"""Replies of hostile devices, one class each: rejected by name, no larger than what was asked, and nobody waits."""

from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from google.protobuf.message import Message as ProtoMessage

from fedrec.flower.replies import PendingReply, ReplyLine, sweep
from fedrec.messages import FailedReply, Message, RejectedReplyError, reply_bytes
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


LARGER = "the reply is larger than what was asked for"
OTHER_RECORDS = "the reply holds other records than one of ours"
REASONS = {
    "f10 another node": "the reply is another node's, or to another message",
    "f21 another message": "the reply is another node's, or to another message",
    "f11 another type": "the reply has another type than its request",
    "c33 a second record": OTHER_RECORDS,
    "f01 another record": OTHER_RECORDS,
    "no chunk": LARGER,
    "f15 a child that the tree lacks": "an object of the reply is not what its place asks for",
    "f02 a ConfigRecord": "an object of the reply is not what its place asks for",
    "f19 shape a word": "the array of the reply is not the bytes of a message",
    "c28 stype evil": "the array of the reply is not the bytes of a message",
    "f06 chunk 99": "the array of the reply names other chunks than it has",
    "f06c chunk true": "the array of the reply names other chunks than it has",
    "f07b and said so": LARGER,
    "f07 one chunk 400 times": "the chunks of the reply are not as long as its array says",
    "another size": "the chunks of the reply are not as long as its array says",
}


def reason_of(store: Store) -> str:
    reply = answered(store)
    assert isinstance(reply, FailedReply)
    return str(reply.header["error"])


@pytest.mark.parametrize("kind", REASONS)
def test_each_check_gives_its_own_reason(kind: str) -> None:
    assert reason_of(HOSTILE[kind](HONEST)) == REASONS[kind]


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        ({"more": 1}, "the array of the reply is not described as one"),
        ({"dtype": "float32"}, "the array of the reply is not the bytes of a message"),
        ({"shape": [1, 2]}, "the array of the reply has no size"),
        ({"shape": [True]}, "the array of the reply has no size"),
        ({"shape": [0]}, LARGER),
        ({"shape": [MOST + 1]}, LARGER),
        ({"arraychunk_ids": {"0": 0}}, "the array of the reply names other chunks than it has"),
        ({"arraychunk_ids": [0] * (MOST + 1)}, LARGER),
        ({"arraychunk_ids": []}, "the array of the reply names other chunks than it has"),
    ],
)
def test_an_array_is_the_bytes_of_a_message_and_says_so(layout: dict[str, Any], reason: str) -> None:
    assert reason_of(HONEST.packed(**layout)) == reason


def test_an_object_is_what_its_hash_says_and_no_chunk_has_children_or_comes_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    swapped = HONEST.packed()
    monkeypatch.setattr(swapped, "pull_object", lambda name, most: b"Message  0\0")
    assert reason_of(swapped) == "an object of the reply has another hash than its name"
    objects = objects_of(DATA, ASKED)
    objects[4].children = [objects_of(DATA[:9], ASKED)[4]]
    assert reason_of(Store(objects[0], metadata(ASKED))) == "the chunks of the reply are no chunks"
    monkeypatch.setattr("fedrec.flower.replies.CHUNK_BYTES", 500)
    objects = objects_of(DATA, ASKED, 500)
    objects[3].children = [objects[4], *objects[3].children]
    assert reason_of(Store(objects[0], metadata(ASKED))) == "the chunks of the reply are no chunks"


def test_the_message_itself_says_whose_it_is_as_its_head_does() -> None:
    said = metadata(ASKED, src_node_id=8).SerializeToString()
    assert reason_of(HONEST.body(0, said)) == "the reply is another node's, or to another message"


def test_when_the_time_is_up_nothing_more_is_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    store, times = HONEST.packed(), iter([True, True, True, False, False])
    waiting = {ASKED.message: PendingReply(ASKED.node, ASKED.message, ASKED.kind, MOST)}
    assert list(sweep(cast(ReplyLine, store), waiting, lambda: next(times))) == []
    assert waiting and 0 < store.pulled < len(DATA)
    late, pulls = HONEST.packed(), list[str]()
    monkeypatch.setattr(late, "pull", lambda *_: pulls.append("a reply"))
    waiting = {ASKED.message: PendingReply(ASKED.node, ASKED.message, ASKED.kind, MOST)}
    assert list(sweep(cast(ReplyLine, late), waiting, lambda: False)) == [] == pulls


class Link:
    """Flower's client of a SuperLink that says `said`, whatever it is asked."""

    def __init__(self, said: ProtoMessage, status: int = 200, head: bool = True) -> None:
        content = said.SerializeToString()
        headers = {"content-length": str(len(content))} if head else {}

        def answer(_: httpx.Request) -> httpx.Response:
            return httpx.Response(status, headers=headers, content=content if head else iter([content]))

        self._client = httpx.Client(transport=httpx.MockTransport(answer))
        self._kind = type(said)

    def __getattr__(self, name: str) -> Any:
        def call(_: object) -> ProtoMessage:
            answer = self._client.post("http://127.0.0.1/")
            answer.raise_for_status()
            return self._kind.FromString(answer.content)

        return call


def line_to(said: ProtoMessage, **how: Any) -> ReplyLine:
    grid = SimpleNamespace(_runtime_client=Link(said, **how), node=None, _run=SimpleNamespace(run_id=1))
    return ReplyLine(cast(Any, grid))


def test_what_the_superlink_hands_out_is_measured_before_it_is_read() -> None:
    found = PullObjectResponse(object_found=True, object_available=True, object_content=bytes(5000))
    assert line_to(found).pull_object("a", 5000) == bytes(5000)
    for line in (line_to(found), line_to(found, head=False)):
        with pytest.raises(RejectedReplyError, match=LARGER):
            line.pull_object("a", 4000)
    assert line_to(PullObjectResponse(object_found=True)).pull_object("a", 9) is None
    with pytest.raises(RejectedReplyError, match="is not there"):
        line_to(PullObjectResponse()).pull_object("a", 9)
    with pytest.raises(RejectedReplyError, match="can't hand the reply out"):
        line_to(found, status=500).pull_object("a", 5000)


def test_a_message_has_one_reply() -> None:
    one, tree = metadata(ASKED), HONEST.packed().message.tree()
    assert line_to(PullAppMessagesResponse()).pull("m", 9000) is None
    whole = PullAppMessagesResponse(messages_list=[one], message_object_trees=[tree])
    found = line_to(whole).pull("m", 9000)
    assert found is not None and found[1] == tree
    for trees in ([tree, tree], []):
        more = PullAppMessagesResponse(messages_list=[one] * 2, message_object_trees=trees)
        with pytest.raises(RejectedReplyError, match="more than one reply"):
            line_to(more).pull("m", 9000)


def test_an_error_of_any_kind_in_one_reply_is_its_own_and_the_servers_own_trouble_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = HONEST.packed()

    def raises(error: Exception) -> None:
        monkeypatch.setattr(store, "pull_object", lambda *_: (_ for _ in ()).throw(error))

    raises(RecursionError())
    assert reason_of(store) == "not a fedrec message (RecursionError)"
    raises(httpx.ConnectError("gone"))
    with pytest.raises(httpx.ConnectError):
        answered(store)
