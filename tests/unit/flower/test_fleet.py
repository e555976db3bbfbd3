"""A device's line to its server: what it reads, what it sends, what it does with a server that misbehaves."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse, PushMessagesResponse
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse

from fedrec.flower import fleet
from fedrec.flower.fleet import FleetLine, TurnedAwayError, serve
from fedrec.flower.replies import PendingReply, ReplyLine, sweep
from fedrec.messages import Message, RejectedReplyError
from tests.support.hostile_replies import HOSTILE, Asked, Honest, Store

NODE, RUN, MOST = 7, 3, 1 << 18
REQUEST = Message({"kind": "train", "round": 2}, {"w": np.arange(40, dtype=np.float32)})
REPLY = Message({"count": 1}, {"w": np.arange(90, dtype=np.float32)})
ADDRESSED = {"dst_node_id": NODE, "src_node_id": 1, "run_id": RUN, "reply_to_message_id": ""}


class Enough(Exception):  # noqa: N818 - it is no error
    """The test has seen enough."""


class Superlink:
    """Hands out what is in its box, and keeps what it is sent; it has no app to give."""

    def __init__(self, *box: Store) -> None:
        self.box, self.said, self.kept = list(box), list[Any](), dict[str, bytes]()
        self.pushed: Any = None
        self.confirmed = list[str]()
        self._open: Store | None = None

    def ActivateNode(self, _: Any) -> ActivateNodeResponse:
        return ActivateNodeResponse(node_id=NODE)

    def RegisterNode(self, _: Any) -> None:
        self.said.append("registered")

    def DeactivateNode(self, _: Any) -> None:
        self.said.append("left")

    def SendNodeHeartbeat(self, _: Any) -> Any:
        return SimpleNamespace(success=True)

    def PullMessages(self, _: Any) -> PullMessagesResponse:
        if not self.box:
            raise Enough
        found = self.box.pop(0)
        if isinstance(found, Exception):
            raise found
        self._open = found
        proto, tree = found.pull("", 1 << 20)
        proto.metadata.message_id = tree.object_id
        if not proto.HasField("error"):
            proto.content.SetInParent()
        return PullMessagesResponse(messages_list=[proto], message_object_trees=[tree])

    def PullObject(self, request: Any) -> PullObjectResponse:
        assert request.run_id == RUN and self._open is not None
        try:
            content = self._open.pull_object(request.object_id, 1 << 30)
        except RejectedReplyError:
            return PullObjectResponse(object_found=False)
        there = content is not None
        return PullObjectResponse(object_found=True, object_available=there, object_content=content or b"")

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.confirmed.append(request.message_object_id)

    def PushMessages(self, request: Any) -> PushMessagesResponse:
        self.pushed = request
        return PushMessagesResponse(objects_to_push=names(request.message_object_trees[0]), session_id="s")

    def PushObject(self, request: Any) -> None:
        assert (request.run_id, request.session_id) == (RUN, "s")
        self.kept[request.object_id] = request.object_content

    # What the server reads of it, by the calls of its own line.
    def pull(self, message: str, most_bytes: int) -> tuple[MessageProto, ObjectTree]:
        return self.pushed.messages_list[0], self.pushed.message_object_trees[0]

    def pull_object(self, name: str, most_bytes: int) -> bytes | None:
        return self.kept.get(name)

    def forget(self, name: str) -> None: ...


def names(tree: ObjectTree) -> list[str]:
    return [tree.object_id, *(inner for child in tree.children for inner in names(child))]


def request(make: Callable[[Honest], Store] = Honest.packed) -> Store:
    """Return a request in the server's store: as a reply is, but to this node."""
    return make(Honest(REQUEST, Asked(NODE, "", "train", RUN), MOST))


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits = list[float]()
    now = iter(range(10_000))
    monkeypatch.setattr(fleet, "time", SimpleNamespace(sleep=waits.append, monotonic=lambda: float(next(now))))
    return waits


def line_to(superlink: Any) -> FleetLine:
    line = FleetLine("127.0.0.1:1", None, Path("none"))
    line._client = superlink
    return line


def played(superlink: Superlink, most_bytes: int = MOST) -> list[Message]:
    """Let a device answer all that is in the box; return the requests that it saw."""
    seen, line = list[Message](), line_to(superlink)

    def answer(asked: Message) -> Message:
        seen.append(asked)
        return REPLY

    with pytest.raises(Enough), line.connected():
        serve(line, answer, most_bytes)
    return seen


def to_node(store: Store) -> Store:
    for key, value in ADDRESSED.items():
        setattr(store.proto.metadata, key, value)
    head = store.proto.SerializeToString()
    store.message.body = lambda _: head
    return store


def test_a_request_is_read_whole_and_its_reply_is_what_the_server_reads() -> None:
    superlink = Superlink(to_node(request()))
    (seen,) = played(superlink)
    assert seen.header == REQUEST.header and np.array_equal(seen.arrays["w"], REQUEST.arrays["w"])
    assert len(superlink.confirmed) == 1 and superlink.said == ["registered", "left"]
    asked = superlink.pushed.messages_list[0].metadata
    waiting = {asked.reply_to_message_id: PendingReply(NODE, asked.reply_to_message_id, "train", MOST)}
    ((node, reply),) = sweep(cast(ReplyLine, superlink), waiting, lambda: True)
    assert node == NODE and reply.header == REPLY.header and np.array_equal(reply.arrays["w"], REPLY.arrays["w"])


HEADS = ("f10", "f11", "f12", "f13", "f21")  # say of a reply's head what is not looked at in a request's


@pytest.mark.parametrize("kind", [name for name in HOSTILE if not name.startswith(HEADS)])
def test_what_is_no_request_of_ours_is_dropped_and_the_next_one_answered(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = request(HOSTILE[kind])
    if store.message.kind == "Message" and not kind.startswith("f20"):
        for key, value in ADDRESSED.items():
            setattr(store.proto.metadata, key, value)
    superlink = Superlink(store, to_node(request()))
    assert len(played(superlink)) == 1 and "a request was dropped" in caplog.text


def test_what_is_longer_than_this_device_allows_is_not_pulled() -> None:
    store = to_node(request())
    assert played(Superlink(store), most_bytes=64) == [] and store.pulled < 2_000


def test_another_nodes_request_is_dropped() -> None:
    store = to_node(request())
    store.proto.metadata.dst_node_id = NODE + 1
    head = store.proto.SerializeToString()
    store.message.body = lambda _: head
    assert played(Superlink(store)) == []


def status(code: int) -> httpx.HTTPStatusError:
    asked = httpx.Request("POST", "https://127.0.0.1:1/")
    return httpx.HTTPStatusError("", request=asked, response=httpx.Response(code, request=asked))


@pytest.mark.parametrize("trouble", [status(503), status(500), httpx.ConnectError("gone"), ValueError("no protobuf")])
def test_a_server_in_trouble_is_asked_again_later(trouble: Exception, slept: list[float]) -> None:
    box = cast("Store", trouble)
    assert len(played(Superlink(box, to_node(request())))) == 1 and slept[0] == fleet.RETRY_SECONDS


def test_who_is_not_admitted_any_more_ends_and_says_so() -> None:
    line = line_to(Superlink(cast("Store", status(401))))
    with pytest.raises(TurnedAwayError, match="any more"), line.connected():
        serve(line, lambda asked: REPLY, MOST)


def test_a_session_that_the_server_forgot_ends_so_that_another_is_begun() -> None:
    """A heart beat that is not known would leave the device listed as gone, and never asked."""
    superlink = Superlink(to_node(request()))
    superlink.SendNodeHeartbeat = lambda _: SimpleNamespace(success=False)  # type: ignore[method-assign]
    line = line_to(superlink)
    assert not line._beat()
    with pytest.raises(TurnedAwayError, match="session"):
        serve(line, lambda asked: REPLY, MOST)


@pytest.mark.parametrize(("code", "kind"), [(412, TurnedAwayError), (401, TurnedAwayError), (500, httpx.HTTPError)])
def test_who_was_never_admitted_is_told(code: int, kind: type[Exception]) -> None:
    superlink = Superlink()
    superlink.ActivateNode = lambda _: (_ for _ in ()).throw(status(code))  # type: ignore[method-assign]
    with pytest.raises(kind), line_to(superlink).connected():
        raise AssertionError("connected")


def test_it_looks_the_less_often_the_longer_nothing_came(slept: list[float]) -> None:
    nothing = [cast("Store", SimpleNamespace(pull=lambda *_: (None, None)))] * 40
    superlink = Superlink(*nothing)
    superlink.PullMessages = lambda _: PullMessagesResponse() if superlink.box.pop() else None  # type: ignore[method-assign]
    with pytest.raises(IndexError):
        serve(line_to(superlink), lambda asked: REPLY, MOST)
    assert slept[0] == pytest.approx(0.1) and slept[9] == pytest.approx(1.0) and slept[-1] == 3.0


def test_an_answer_longer_than_a_part_of_an_array_is_not_read() -> None:
    asked = httpx.Request("POST", "https://127.0.0.1:1/")
    for length in ("10000000000", "", "-1"):
        with pytest.raises(httpx.TransportError, match="longer"):
            fleet._measure(httpx.Response(200, headers={"content-length": length}, request=asked))
    fleet._measure(httpx.Response(200, headers={"content-length": "1000"}, request=asked))
    line = FleetLine("127.0.0.1:1", None, Path("none"))
    assert fleet._measure in cast(Any, line)._client._client.event_hooks["response"]
