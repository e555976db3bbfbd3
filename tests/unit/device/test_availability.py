"""When a device takes part: each condition as the system tells it, and in words why not."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.cli.client import run
from fedrec.device.availability import AvailabilityPolicy, System, check_conditions, span, unavailable_reason, within
from fedrec.device.home import Home
from fedrec.device.status import in_words, status
from fedrec.errors import FedrecError
from fedrec.ops import processes
from fedrec.ops.prometheus import serve_metrics
from tests.support.devices import WILLING

NOON = datetime(2026, 1, 1, 12, 30)


def machine(path: Path, network: str | None = "2", busy: float = 0.0, **supplies: dict[str, str]) -> System:
    """A machine with these power supplies, this answer of NetworkManager, and this share of its processors in use."""
    for name, files in supplies.items():
        folder = path / "sys" / "class" / "power_supply" / name
        folder.mkdir(parents=True)
        for file, content in files.items():
            (folder / file).write_text(content + "\n")
    stat = path / "proc" / "stat"
    stat.parent.mkdir(parents=True)
    stat.write_text("cpu  100 0 100 800 0 0 0 0 0 0\n")

    def later(seconds: float) -> None:
        stat.write_text(f"cpu  {100 + 1000 * busy:.0f} 0 100 {800 + 1000 * (1 - busy):.0f} 0 0 0 0 0 0\n")

    return System(path / "sys", path / "proc", later, lambda: network)


BATTERY = {"type": "Battery", "status": "Discharging"}


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ({}, True),
        ({"BAT0": BATTERY}, False),
        ({"BAT0": BATTERY, "AC": {"type": "Mains", "online": "0"}}, False),
        ({"BAT0": BATTERY, "AC": {"type": "Mains", "online": "1"}}, True),
        ({"BAT0": {"type": "Battery", "status": "Charging"}}, True),
        ({"BAT0": {"type": "Battery", "status": "Full"}}, True),
        ({"BAT0": {"type": "Battery", "status": "Unknown"}}, None),
        ({"mouse": {"type": "Battery", "status": "Discharging", "scope": "Device"}}, True),
    ],
)
def test_charging(tmp_path: Path, supplies: dict[str, Any], expected: bool | None) -> None:
    assert machine(tmp_path, **supplies).charging() is expected


@pytest.mark.parametrize(("busy", "expected"), [(0.0, True), (0.49, True), (0.6, False), (1.0, False)])
def test_idle(tmp_path: Path, busy: float, expected: bool) -> None:
    assert machine(tmp_path, busy=busy).idle() is expected


def test_idle_can_not_be_told_without_proc(tmp_path: Path) -> None:
    assert System(proc=tmp_path, sleep=lambda _: None).idle() is None


@pytest.mark.parametrize(
    ("said", "expected"), [("1", False), ("3", False), ("2", True), ("4", True), ("0", None), (None, None)]
)
def test_unmetered(tmp_path: Path, said: str | None, expected: bool | None) -> None:
    assert machine(tmp_path, network=said).unmetered() is expected


def test_this_machine_answers_every_question() -> None:
    system = System()
    assert {system.charging(), system.idle(), system.unmetered()} <= {True, False, None}


@given(st.integers(0, 23), st.integers(0, 24), st.integers(0, 23))
def test_hours_are_those_counted_forward(first: int, last: int, hour: int) -> None:
    """The slow way: walk from the first hour to the last."""
    walked, at = set[int](), first
    while True:
        walked.add(at)
        at = (at + 1) % 24
        if at == last % 24:
            break
    assert within(f"{first}-{last}", NOON.replace(hour=hour)) is (hour in walked)


@pytest.mark.parametrize("hours", ["", "5", "25-3", "1-25", "a-b", "1-2-3", "-1-2"])
def test_hours_that_are_none_are_refused(hours: str) -> None:
    with pytest.raises(FedrecError, match="hours"):
        span(hours)


def test_the_reasons_are_all_told_and_what_can_not_be_told_is_allowed(tmp_path: Path) -> None:
    system = machine(tmp_path, network=None, busy=1.0, BAT0=BATTERY)
    assert unavailable_reason(AvailabilityPolicy(hours="22-6"), system, NOON) == (
        "it is 12:30, outside 22-6 h, on battery, the machine is in use"
    )
    again = machine(tmp_path / "again", network=None, busy=1.0, BAT0=BATTERY)
    assert [allowed for allowed, _ in check_conditions(AvailabilityPolicy(), again, NOON)] == [False, True, False]
    assert unavailable_reason(AvailabilityPolicy().overridden("always"), system, NOON) is None
    assert unavailable_reason(AvailabilityPolicy(hours="22-6").overridden("charging"), system, NOON) == "on battery"
    assert unavailable_reason(AvailabilityPolicy().overridden("hours=12-13,unmetered"), system, NOON) is None


def test_conditions_that_do_not_exist_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(FedrecError, match="charging"):
        AvailabilityPolicy().overridden("chargin")
    home = Home(tmp_path)
    home.policy.write_text("[participation]\nidel = true\n")
    with pytest.raises(FedrecError, match="idle"):
        AvailabilityPolicy.of(home)
    home.policy.write_text("[participation]\nidle = 3\n")
    with pytest.raises(FedrecError, match="true or false"):
        AvailabilityPolicy.of(home)
    home.policy.write_text("participation = 3\n")
    with pytest.raises(FedrecError, match="table"):
        AvailabilityPolicy.of(home)


def test_what_the_running_client_was_told_goes_over_the_file(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.policy.write_text("[participation]\nidle = false\n")
    with processes.only_one(home.path, "this device"):
        processes.say_up(home.path, only_when="idle")
        assert AvailabilityPolicy.of(home) == AvailabilityPolicy(idle=True, charging=False, unmetered=False)
    assert AvailabilityPolicy.of(home) == AvailabilityPolicy(idle=False)


def test_a_device_that_has_lost_its_server_says_so(tmp_path: Path) -> None:
    home, port = Home(tmp_path / "d"), processes.free_port()
    run(["enroll", "--home", str(home.path), "--server", f"127.0.0.1:{port}"])
    home.policy.write_text(WILLING)
    with processes.only_one(home.path, "this device"):
        processes.say_up(home.path, only_when="always", trouble=None)
        said = in_words(status(home))[0]
        assert said.startswith(f"not training: the server 127.0.0.1:{port} does not answer")
        with serve_metrics(port, lambda: ""):
            assert in_words(status(home))[0] == "ready: trains when the server asks"
            processes.say_up(home.path, only_when="hours=0-24", trouble="the server did not admit this key")
            assert in_words(status(home))[0] == "not training: the server did not admit this key"
    assert "not up" in in_words(status(home))[0]


def test_a_device_from_key_to_forgetting_by_its_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, events = str(tmp_path / "d"), tmp_path / "events.csv"
    events.write_text("item,time,value,kind\na,1,5,rating\nb,2,3,rating\nb,2,3,rating\n")
    run(["enroll", "--home", home])
    assert "fedrec server admit" in capsys.readouterr().out
    run(["import", str(events), "--home", home])
    assert "2 new interactions of 3" in capsys.readouterr().out
    run(["forget", "--item", "a", "--home", home])
    assert "1 interactions forgotten" in capsys.readouterr().out
    Home(Path(home)).policy.write_text(WILLING)
    run(["status", "--home", home])
    assert "not training: not up" in capsys.readouterr().out
    values = status(Home(Path(home)), machine(tmp_path / "m", BAT0=BATTERY))
    assert values["may_train"] and values["interactions"] == 1 and "item" not in "".join(in_words(values))
    run(["forget", "--everything", "--home", home])
    assert "0 kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status"], "client enroll"),
        (["up"], "client enroll"),
        (["import", "none.csv"], "client enroll"),
        (["enroll", "--server", "gateway.local:8000"], "--ca"),
        (["enroll", "--server", "127.0.0.1"], "port"),
        (["enroll", "--server", "127.0.0.1:8000", "--ca", "none.crt"], "certificate"),
        (["enroll", "--engine", "torhc"], "torch"),
        (["down"], "not up"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(FedrecError, match=said):
        run([*arguments, "--home", str(tmp_path / "d")])


def test_a_device_is_enrolled_once_and_keeps_its_key(tmp_path: Path) -> None:
    home = str(tmp_path / "d")
    run(["enroll", "--home", home])
    key = Home(Path(home)).key.read_bytes()
    with pytest.raises(FedrecError, match="--again"):
        run(["enroll", "--home", home])
    run(["enroll", "--home", home, "--again", "--server", "127.0.0.1:9"])
    assert Home(Path(home)).key.read_bytes() == key and Home(Path(home)).enrolment().server == "127.0.0.1:9"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time\n1\n", "no column 'item'"),
        ("item,tiem\na,1\n", "time"),
        ("item,time\na\n", ":2: 1 fields"),
        ("item,time\na,soon\n", ":2: time 'soon'"),
        ("item\n \n", ":2: blank item"),
        ("item,value\na,inf\n", "finite"),
        ("", "no column"),
    ],
)
def test_a_wrong_file_names_its_line_and_nothing_of_it_is_kept(tmp_path: Path, text: str, said: str) -> None:
    home, file = str(tmp_path / "d"), tmp_path / "events.csv"
    run(["enroll", "--home", home])
    file.write_text(text)
    with pytest.raises(FedrecError, match=said):
        run(["import", str(file), "--home", home])
    assert Home(Path(home)).store().history() == []


def test_columns_of_other_names_are_mapped_and_the_rest_left_out(tmp_path: Path) -> None:
    home, file = str(tmp_path / "d"), tmp_path / "ratings.csv"
    run(["enroll", "--home", home])
    file.write_text("userId,movieId,rating,timestamp\n7,31,2.5,1260759144\n")
    with pytest.raises(FedrecError, match="--columns item=NAME"):
        run(["import", str(file), "--home", home])
    for columns, said in (("item=movieid", "movieId"), ("itm=movieId", "item"), ("item", "item")):
        with pytest.raises(FedrecError, match=said):
            run(["import", str(file), "--home", home, "--columns", columns])
    run(["import", str(file), "--home", home, "--columns", "item=movieId,time=timestamp,value=rating"])
    (event,) = Home(Path(home)).store().history()
    assert (event.item, event.time, event.value, event.kind) == ("31", 1260759144.0, 2.5, "event")


@pytest.mark.parametrize(
    ("text", "table", "said"),
    [
        ("[store]\nretention_day = 1\n", "store", "store.retention_day does not exist. Did you mean 'retention_days'"),
        ("[sharing]\nevaluations = true\n", "sharing", "sharing.evaluations does not exist. Did you mean 'evaluation'"),
        ("[storage]\nretention_days = 1\n", "sharing", r"\[storage\] does not exist. Did you mean 'store'"),
        ("retention_days = 1\n", "store", r"\[retention_days\] does not exist"),
    ],
)
def test_what_nothing_in_a_policy_would_look_at_is_named(tmp_path: Path, text: str, table: str, said: str) -> None:
    """Kept silently, a person would believe that old interactions are forgotten."""
    home = Home(tmp_path)
    home.policy.write_text(text)
    with pytest.raises(FedrecError, match=said):
        home.table(table)
