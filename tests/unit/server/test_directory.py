"""Who is let into a run on real devices: by key, version and signature; the rest is turned away and told once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest

from fedrec.data.catalogue import digest
from fedrec.messages import FailedReply, Message
from fedrec.ops.keys import device_id, new_key, sign
from fedrec.server import directory as room
from fedrec.server.directory import EnrolledDirectory
from fedrec.server.home import Admitted
from tests.support.tiny import catalogue

PUBLIC = catalogue(6)
KEYS = [new_key() for _ in range(3)]
NAMES = [device_id(public) for _, public in KEYS]


@dataclass
class Street:
    """A transport whose nodes are houses: each holds a device, which says hello as `changes` make it."""

    houses: dict[int, int]  # node -> which of KEYS lives there
    changes: dict[int, dict[str, Any]] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    unreachable: set[int] = field(default_factory=set)
    full: set[int] = field(default_factory=set)  # these take no catalogue
    asked: list[tuple[str, int]] = field(default_factory=list)

    def ids(self) -> list[int]:
        return sorted(self.houses)

    def request(
        self, requests: Mapping[int, Message], deadline_seconds: float, reply_bytes: int = 1 << 30
    ) -> Iterator[tuple[int, Message]]:
        for node, request in requests.items():
            self.asked.append((request.header["kind"], node))
            if node in self.unreachable:
                yield node, FailedReply.of("gone", unreachable=True)
            elif node not in self.silent:
                yield node, self.answer(node, request)

    def answer(self, node: int, request: Message) -> Message:
        if request.header["kind"] == "catalogue":
            return Message({"error": "no space left"} if node in self.full else {})
        private, name = KEYS[self.houses[node]][0], NAMES[self.houses[node]]
        proof = sign(private, f"{request.header['run']} {request.header['nonce']} {name}")
        hello = {"fedrec": version("fedrec"), "device": name, "proof": proof, "catalogue": digest(PUBLIC)}
        return Message({**hello, "evaluates": False, **self.changes.get(node, {})})


def opened(street: Street, *revoked: int, known: int = 3) -> tuple[EnrolledDirectory, list[str]]:
    """Return the directory of a run on this street, and what it told."""
    told = list[str]()
    devices = {
        NAMES[row]: Admitted(row, NAMES[row], KEYS[row][1], True, revoked=row in revoked) for row in range(known)
    }
    directory = EnrolledDirectory(street, {}, {"run": "r"}, False, {}, devices, PUBLIC, told.append)
    return directory, told


def rows(directory: EnrolledDirectory) -> dict[int, int]:
    return {node: int(hosted[0]) for node, hosted in directory.hosted.items()}


def test_admitted_devices_are_hosted_by_their_rows_wherever_they_live() -> None:
    directory, told = opened(street := Street({30: 1, 10: 2, 20: 0}))
    directory.refresh()
    assert list(rows(directory).items()) == [(20, 0), (30, 1), (10, 2)] and not told
    directory.refresh()
    assert [kind for kind, _ in street.asked] == ["hello"] * 3, "who is known is greeted once"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fedrec": "0.0.1"}, f"it runs fedrec 0.0.1, the server {version('fedrec')}"),
        ({"device": "f" * 32}, f"device {'f' * 32} is not admitted"),
        ({"proof": "00"}, "its signature is wrong"),
        ({"proof": sign(KEYS[1][0], "another run")}, "its signature is wrong"),
        ({"device": NAMES[1]}, f"it is not device {NAMES[1]}: its signature is wrong"),
        ({"error": "wrong\nkey"}, "wrong key"),
        ({"device": {"a": 1}, "proof": [2]}, "is not admitted"),
    ],
)
def test_a_hello_that_is_not_as_it_should_be_is_turned_away_and_told_once(changes: dict[str, Any], said: str) -> None:
    directory, told = opened(street := Street({1: 0, 2: 1}, {1: changes}))
    directory.refresh()
    directory.refresh()
    assert rows(directory) == {2: 1}
    assert len(told) == 1 and told[0].startswith("node 1 is turned away: ") and said in told[0]
    assert [node for _, node in street.asked] == [1, 2], "it is not greeted again"


def test_who_was_revoked_or_never_admitted_stays_outside() -> None:
    directory, told = opened(Street({1: 0, 2: 1, 3: 2}), 1, known=2)
    directory.refresh()
    assert rows(directory) == {1: 0}
    assert sorted(told) == [f"node {n} is turned away: device {NAMES[n - 1]} is not admitted" for n in (2, 3)]


def test_a_device_that_comes_back_elsewhere_has_left_its_old_node() -> None:
    directory, _ = opened(street := Street({1: 0, 2: 1}))
    directory.refresh()
    street.houses = {1: 0, 2: 1, 9: 0}
    directory.refresh()
    assert rows(directory) == {9: 0, 2: 1}
    street.houses = {2: 1}
    directory.refresh()
    assert rows(directory) == {2: 1}


def test_what_a_device_lacks_is_sent_and_one_that_can_not_take_it_does_not_take_part() -> None:
    lacking = {node: {"catalogue": None} for node in (1, 2)}
    directory, told = opened(street := Street({1: 0, 2: 1, 3: 2}, lacking, full={2}))
    directory.refresh()
    assert rows(directory) == {1: 0, 3: 2}
    assert [node for kind, node in street.asked if kind == "catalogue"] == [1, 2]
    assert told == ["node 2 did not take the catalogue: no space left"]


def test_a_fault_sets_a_device_aside_for_the_run_wherever_it_comes_back() -> None:
    directory, told = opened(street := Street({1: 0, 2: 1}))
    directory.refresh()
    directory.set_aside({2: "w is not finite"})
    assert rows(directory) == {1: 0} and directory.faulty == {1: "w is not finite"}
    assert told == [f"device {NAMES[1]} is set aside for this run: w is not finite"]
    street.houses[7] = 1
    del street.houses[2]
    directory.refresh()
    assert rows(directory) == {1: 0} and told[-1].endswith(f"device {NAMES[1]} is set aside for this run")


def test_who_is_gone_for_now_is_greeted_again_and_who_is_silent_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    directory, told = opened(street := Street({1: 0, 2: 1}, silent={2}, unreachable={1}))
    greeted = list[list[int]]()
    for after in (0.0, 1.0, 130.0, 130.0, 130.0):
        now[0] += after
        street.asked.clear()
        directory.refresh()
        greeted.append([node for _, node in street.asked])
    assert greeted == [[1, 2], [1], [1, 2], [1], [1, 2]], "after 120 s, then after 240 s"
    street.unreachable.clear()
    directory.refresh()
    assert rows(directory) == {1: 0} and not told


def test_only_those_who_allow_it_are_evaluated() -> None:
    directory, _ = opened(street := Street({1: 0, 2: 1}, {1: {"evaluates": True}, 2: {"evaluates": "yes"}}))
    directory.refresh()
    assert directory.evaluating == {0}
    street.houses, street.changes = {5: 0, 2: 1}, {}
    directory.refresh()
    assert directory.evaluating == set()


def test_waiting_ends_with_enough_devices_or_in_time_and_says_meanwhile_for_whom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, slept = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += 50.0
        if now[0] == 150.0:
            street.houses[2] = 1

    monkeypatch.setattr(room, "time", type("clock", (), {"monotonic": lambda: now[0], "sleep": sleep}))
    directory, told = opened(street := Street({1: 0}))
    monkeypatch.setattr(room, "STATE_SECONDS", 60.0)
    assert directory.wait(2) == 2 and len(slept) == 3
    assert told == ["waiting for devices: 1 of 2 are there"]
    assert directory.wait(3, seconds=100.0) == 2


def test_requests_go_to_the_nodes_of_the_devices() -> None:
    directory, _ = opened(Street({30: 1, 10: 2, 20: 0}))
    directory.refresh()
    found = directory.requests("train", np.array([2, 0]), {}, round=4)
    assert {node: one.header["devices"] for node, one in found.items()} == {20: [0], 10: [2]}
