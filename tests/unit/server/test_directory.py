"""Who is there: silent nodes hold up nobody, one that lies is turned away by name, whoever broke a round stays away."""

import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, cast

import numpy as np
import pytest

from fedrec.flower.transport import SentRequests
from fedrec.messages import ECHO, FailedReply, Message, RejectedReplyError
from fedrec.ops.keys import device_id, new_key, sign
from fedrec.server import directory as room
from fedrec.server.deployment import allowed_sums
from fedrec.server.directory import EnrolledDirectory
from fedrec.server.home import Admitted
from tests.support.hostile_replies import LIES, Honest
from tests.support.tiny import catalogue
from tests.unit.flower.test_replies import answered

HEADER = {"protocol": 1, "run": "r", "round": 0, "hash": "h"}
KEYS = {node: new_key() for node in (1, 2)}
DEVICES = {
    device_id(public): Admitted(row, device_id(public), public, True) for row, (_, public) in enumerate(KEYS.values())
}


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(room.time, "monotonic", lambda: self.now)


class Nodes:
    """Nodes that answer as `answers` has it, or never."""

    def __init__(self, count: int) -> None:
        self.count, self.sent, self.answers = count, list[tuple[int, str]](), dict[int, Message]()

    def ids(self) -> list[int]:
        return list(range(1, self.count + 1))

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        raise AssertionError("nobody is waited for")

    def send(self, requests: Mapping[int, Message], reply_bytes: int, end: float) -> SentRequests:
        assert reply_bytes <= 1 << 18
        self.sent += [(node, request.header["kind"]) for node, request in requests.items()]
        return cast(SentRequests, Waiting(self, dict(requests)))


class Waiting:
    """What nodes were sent."""

    def __init__(self, nodes: Nodes, left: dict[int, Message]) -> None:
        self.nodes, self.left = nodes, left

    @property
    def unanswered(self) -> set[int]:
        return set(self.left)

    def collect(self) -> Iterator[tuple[int, Message]]:
        for node in self.left.keys() & self.nodes.answers.keys():
            yield node, answer(node, self.left.pop(node), self.nodes.answers.pop(node))

    def give_up(self) -> Iterator[tuple[int, Message]]:
        self.left.clear()
        return iter(())


def answer(node: int, request: Message, changes: Message) -> Message:
    """Return an honest hello with some changes, or exactly a failure."""
    if isinstance(changes, FailedReply) or request.header["kind"] != "hello":
        return changes
    private, public = KEYS[node]
    name = device_id(public)
    header = {
        **{key: request.header[key] for key in ECHO}, "fedrec": version("fedrec"), "device": name, "catalogue": None,
        "proof": sign(private, f"{request.header['run']} {request.header['nonce']} {name}"), "evaluates": False,
    }  # fmt: skip
    return Message({**header, **changes.header}, changes.arrays)


def directory(nodes: Nodes, **more: Any) -> EnrolledDirectory:
    told: list[str] = more.setdefault("told", [])
    del more["told"]
    return EnrolledDirectory(nodes, {}, HEADER, False, {}, devices=DEVICES, tell=told.append, **more)


def test_a_silent_node_is_waited_for_by_nobody_and_greeted_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, nodes = Clock(monkeypatch), Nodes(2)
    there = directory(nodes)
    nodes.answers[1] = Message({})
    greeted, start = list[float](), clock.now
    while clock.now < start + 2000:
        before = len(nodes.sent)
        there.refresh()
        greeted += [clock.now - start for node, _ in nodes.sent[before:] if node == 2]
        assert list(there.hosted) == [1]
        clock.now += 2
    assert nodes.sent.count((1, "hello")) == 1
    assert greeted[0] == 0 and 180 <= greeted[1] <= 184 and 480 <= greeted[2] <= 488 and 1020 <= greeted[3] <= 1030
    assert len(greeted) == 4


def test_ten_nodes_that_never_answer_cost_a_look_no_time() -> None:
    nodes = Nodes(12)
    nodes.answers |= {1: Message({}), 2: Message({})}
    there = directory(nodes)
    start = time.monotonic()
    assert there.wait(2) == 2 and there.wait(2) == 2
    assert time.monotonic() - start < 1.0
    assert len(nodes.sent) == 12


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (Message({"proof": "zz"}), "its signature is wrong"),
        (Message({"proof": 5}), "other keys or values"),
        (Message({"device": ["a"]}), "other keys or values"),
        (Message({"device": "somebody"}), "is not admitted"),
        (Message({"evaluates": ["yes"]}), "other keys or values"),
        (Message({"catalogue": {"a": 1}}), "other keys or values"),
        (Message({"more": 1}), "other keys or values"),
        (Message({}, {"w": np.zeros(2, np.float32)}), "other keys or values"),
        (Message({"round": 1}), "another request"),
        (Message({"hash": "other"}), "another request"),
        (Message({"fedrec": "\x1b[31m" + "9" * 900}), "it runs fedrec"),
        (Message({"error": "Flower says: bye" + "\n" * 900}), "Flower says: bye"),
        (FailedReply.of("the bytes are no message"), "the bytes are no message"),
    ],
)
def test_a_hello_that_lies_is_turned_away_in_one_short_line_and_not_greeted_again(changes: Message, said: str) -> None:
    nodes, told = Nodes(2), list[str]()
    there = directory(nodes, told=told)
    nodes.answers |= {1: changes, 2: Message({})}
    for _ in range(3):
        there.refresh()
    assert list(there.hosted) == [2] and list(there.turned_away) == [1]
    assert len(told) == 1 and said in told[0] and len(told[0]) <= 200 and told[0].isprintable()
    assert nodes.sent.count((1, "hello")) == 1


def test_a_node_that_went_away_before_it_answered_is_greeted_again_at_once() -> None:
    nodes = Nodes(1)
    there = directory(nodes)
    nodes.answers[1] = FailedReply.of("the node is not there any more", unreachable=True)
    there.refresh()
    nodes.answers[1] = Message({})
    there.refresh()
    assert list(there.hosted) == [1] and len(nodes.sent) == 2


def test_a_device_takes_part_once_it_has_the_catalogue_and_its_silence_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, nodes, told = Clock(monkeypatch), Nodes(2), list[str]()
    there = directory(nodes, catalogue=catalogue(3), told=told)
    nodes.answers |= {1: Message({}), 2: Message({})}
    there.refresh()
    assert not there.hosted and nodes.sent[2:] == [(1, "catalogue"), (2, "catalogue")]
    nodes.answers[1] = Message({})
    there.refresh()
    assert list(there.hosted) == [1]
    clock.now += room.HELLO_SECONDS + 2 * room.HELLO_EACH_SECONDS
    there.refresh()
    assert list(there.hosted) == [1] and len(nodes.sent) == 4 and 2 in there.silent
    clock.now += room.SILENT_SECONDS
    there.refresh()
    nodes.answers[2] = Message({})
    there.refresh()
    nodes.answers[2] = Message({"error": "no room\n" * 90})
    there.refresh()
    assert list(there.hosted) == [1] and told == [f"node 2 did not take the catalogue: {'no room ' * 90}"[:200]]


def test_whoever_was_set_aside_is_not_taken_back() -> None:
    nodes, told = Nodes(2), list[str]()
    there = directory(nodes, told=told)
    nodes.answers |= {1: Message({}), 2: Message({})}
    there.refresh()
    there.set_aside({1: "w is not finite"})
    name = device_id(KEYS[1][1])
    assert list(there.hosted) == [2] and there.faulty == {0: "w is not finite"}
    assert told == [f"device {name} is set aside for this run: w is not finite"]
    nodes.answers[1] = Message({})
    there.refresh()
    assert list(there.hosted) == [2] and told[1:] == [f"node 1 is turned away: device {name} is set aside for this run"]


def test_one_look_reads_once_who_is_revoked_however_many_greet() -> None:
    nodes, asked = Nodes(2), list[int]()
    there = directory(nodes, revoked=lambda: asked.append(1) or set())
    nodes.answers |= {1: Message({}), 2: Message({})}
    there.refresh()
    assert len(there.hosted) == 2 and len(asked) == 1


def test_whoever_is_revoked_while_a_run_goes_on_is_asked_no_more_until_admitted_again() -> None:
    nodes, told, out = Nodes(2), list[str](), set[int]()
    there = directory(nodes, told=told, revoked=lambda: out)
    nodes.answers |= {1: Message({}), 2: Message({})}
    there.refresh()
    out.add(0)
    there.refresh()
    name = device_id(KEYS[1][1])
    assert list(there.hosted) == [2] and told == [f"device {name} was revoked, and is asked no more"]
    out.clear()
    nodes.answers[1] = Message({})
    there.refresh()
    assert sorted(there.hosted) == [1, 2] and len(told) == 1


SAID = Message({**HEADER, "count": 1, "sums": {"full_hr@10": 1, "sampled_ndcg@10_pessimistic": 0.5}})


def test_what_a_device_says_of_itself_is_numbers_under_the_names_of_metrics() -> None:
    assert allowed_sums(SAID, HEADER) == {"full_hr@10": 1.0, "sampled_ndcg@10_pessimistic": 0.5}
    assert allowed_sums(Message({**SAID.header, "count": 0}), HEADER) == {}
    assert allowed_sums(Message({**SAID.header, "sums": {}}), HEADER) == {}


@pytest.mark.parametrize("kind", LIES["evaluate"])
def test_anything_else_is_no_result_and_says_nothing_of_what_was_sent(kind: str) -> None:
    reply = answered(LIES["evaluate"][kind](Honest(SAID)), 1 << 18)
    assert reply is not None
    with pytest.raises(RejectedReplyError) as caught:
        allowed_sums(reply, HEADER)
    assert len(str(caught.value)) < 100 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "changes",
    [{"sums": []}, {"sums": {"full_hr@10": True}}, {"sums": {"full_hr@10": 1.01}}, {"sums": {"full_hr@10": -0.1}},
     {"sums": {"full_hr@10": float("nan")}}, {"count": 2}, {"count": True}, {"more": 1}, {"round": False},
     {"sums": {"full_hr@10\n": 1.0}}],
)  # fmt: skip
def test_nor_is_a_value_that_only_looks_like_one(changes: dict[str, Any]) -> None:
    with pytest.raises(RejectedReplyError):
        allowed_sums(Message({**SAID.header, **changes}), HEADER)
    with pytest.raises(RejectedReplyError):
        allowed_sums(Message(SAID.header, {"w": np.zeros(1, np.float32)}), HEADER)
