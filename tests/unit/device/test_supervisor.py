"""A device's process that is started again whenever it ends, and what its device says meanwhile."""

from pathlib import Path
from typing import Any

import pytest

from fedrec.device import saved_state, supervisor
from fedrec.device.home import Enrolment, Home, enroll
from fedrec.device.store import Event
from fedrec.errors import FedrecError
from fedrec.ops import processes


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "device")
    enroll(made, Enrolment("127.0.0.1:1", None, "auto"), None)
    return made


class Enough(Exception):  # noqa: N818 - it is no error
    """The test has seen enough."""


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self, patch: pytest.MonkeyPatch, sleeps: int) -> None:
        self.now, self.slept, self._left = 0.0, list[float](), sleeps
        patch.setattr(supervisor, "time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        if len(self.slept) == self._left:
            raise Enough


class Node:
    """A process that ends after some looks at it."""

    def __init__(self, looks: int) -> None:
        self.looks, self.returncode = looks, 1

    def poll(self) -> int | None:
        self.looks -= 1
        return None if self.looks >= 0 else self.returncode


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor.random, "uniform", lambda low, high: 1.0)


@pytest.mark.usefixtures("pauses")
def test_it_is_started_again_waiting_longer_each_time_that_it_did_not_last(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, stopped = Clock(monkeypatch, 7), list[object]()
    lasts = iter([0.0, 0.0, 0.0, 0.0, 0.0, 100.0, 0.0])
    told, said = list[str | None](), list[str]()

    def watch(*_: object) -> None:
        clock.now += next(lasts)

    monkeypatch.setattr(supervisor, "watch", watch)
    monkeypatch.setattr(processes, "start", lambda command, variables, log: Node(0))
    monkeypatch.setattr(processes, "stop", stopped.append)
    monkeypatch.setattr(supervisor, "explain_exit", lambda log, status: f"ended with {status}")
    with pytest.raises(Enough):
        supervisor.supervise(home, said.append, told.append)
    assert clock.slept == [10.0, 20.0, 40.0, 60.0, 60.0, 5.0, 10.0], "one that lasted is started again at once"
    assert said[0] == "ended with 1; again in 10 s" and told == ["ended with 1"] * 7 and len(stopped) == 7


def test_a_node_is_stopped_also_where_watching_it_breaks(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = list[object]()

    def broken(*_: object) -> None:
        raise processes.Stopped

    monkeypatch.setattr(supervisor, "watch", broken)
    monkeypatch.setattr(processes, "start", lambda command, variables, log: Node(0))
    monkeypatch.setattr(processes, "stop", stopped.append)
    with pytest.raises(processes.Stopped):
        supervisor.supervise(home, print, print)
    assert len(stopped) == 1


def test_what_the_app_notes_is_said_once_and_trouble_is_over_after_a_while(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, told, store = list[str](), list[str | None](), home.store()
    saved_state.note(store, "from an earlier day")
    clock = Clock(monkeypatch, 1000)
    notes = {3: "trained round 1 of r in 0.1 s", 5: "not training: it charges"}

    class Noting(Node):
        def poll(self) -> int | None:
            if text := notes.pop(int(clock.now), None):
                saved_state.note(store, text)
            return super().poll()

    node: Any = Noting(30)
    supervisor.watch(home, node, said.append, told.append)
    assert said == ["trained round 1 of r in 0.1 s", "not training: it charges"]
    assert told == [None] and len(clock.slept) == 30


def test_what_is_too_old_is_forgotten_every_hour_also_on_a_device_that_never_trains(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.policy.write_text("[store]\nretention_days = 1\n")
    clock, said = Clock(monkeypatch, 100_000), list[str]()
    store = home.store()
    store.log_events([Event("7", 1.0, "click", 1.0), Event("9", 2.0, "click", 1.0)])

    class Slow(Node):
        def poll(self) -> int | None:
            if int(clock.now) == 4000:
                store.log_events([Event("11", 3.0, "click", 1.0)])
            return super().poll()

    node: Any = Slow(7300)
    supervisor.watch(home, node, said.append, lambda trouble: None)
    assert said == [
        "2 interactions older than policy.toml's retention_days forgotten",
        "1 interactions older than policy.toml's retention_days forgotten",
    ]


def test_a_policy_that_can_not_be_read_is_told_and_the_node_goes_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch, 100)
    home.policy.write_text("[store]\nretention_day = 1\n")
    said, node = list[str](), Node(3)
    supervisor.watch(home, node, said.append, print)  # type: ignore[arg-type]
    assert len(said) == 1 and "Did you mean 'retention_days'" in said[0]


def test_up_says_where_it_is_while_it_is_up_and_refuses_a_second(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    said, seen = list[str](), list[dict[str, Any]]()

    def supervise(home: Home, say: Any, tell: Any) -> None:
        seen.append(processes.running(home.path))
        tell("no route")
        seen.append(processes.running(home.path))
        with pytest.raises(FedrecError, match="this device is up already"):
            supervisor.up(home, None, print)
        raise processes.Stopped

    monkeypatch.setattr(supervisor, "supervise", supervise)
    supervisor.up(home, "idle", said.append)
    assert seen[0]["only_when"] == "idle" and "trouble" not in seen[0] and seen[1]["trouble"] == "no route"
    assert said[0].startswith(f"Device {home.path} for 127.0.0.1:1; Ctrl-C stops it") and said[-1] == "Stopped."
    assert processes.running(home.path) == {}


def test_a_condition_that_does_not_exist_starts_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "supervise", lambda *_: pytest.fail("started"))
    with pytest.raises(FedrecError, match="Did you mean 'charging'"):
        supervisor.up(home, "chargin", print)
