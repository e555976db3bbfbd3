"""A run on real devices from its settings to its end: what is refused, told, and said of a server that is gone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.settings import load, read
from fedrec.flower import superlink
from fedrec.ops import processes
from fedrec.ops.keys import new_key
from fedrec.server import runs
from fedrec.server.home import Address, Registry, ServerHome
from fedrec.server.runs import completed, follow, prepare, start, state_of
from fedrec.server.status import in_words, page, summary
from fedrec.storage.run_folder import RunFolder
from tests.support.devices import RUN


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    made = ServerHome(tmp_path / "server")
    made.make()
    made.write_address(Address("127.0.0.1", processes.free_port(), True), processes.free_port())
    return made


@pytest.fixture
def told(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "real"
    folder.mkdir(parents=True)
    (folder / runs.TOLD).write_text("")
    return folder / runs.TOLD


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["dataset=synthetic"], "simulate the others with fedrec simulate"),
        (["dataset=devices", "dataset.histories=h"], "dataset.histories is for simulations"),
        (["dataset=devices", "privacy=user"], "privacy.population_epsilon=8"),
        (["dataset=devices", "privacy=none", "cohort.dropout=0.5"], "leave it at 0"),
        (["dataset=devices", "privacy=user_secure", "privacy.population_epsilon=9"], "user_secure is for simulations"),
    ],
)
def test_what_would_be_no_run_on_real_devices_is_refused_by_name(
    home: ServerHome, overrides: list[str], said: str
) -> None:
    with pytest.raises(FedrecError, match=said):
        completed(home, load([*overrides, "model=mf"]).document)


def test_the_server_adds_what_it_knows_and_no_relative_path_is_left(home: ServerHome) -> None:
    for _ in range(2):
        Registry(home).admit(new_key()[1])
    document = completed(home, load([*RUN, "dataset.path=items.csv", "output=out"]).document)
    assert document["dataset"]["path"] == str(Path("items.csv").resolve())
    assert document["output"] == str(Path("out").resolve())
    assert document["dataset"]["devices"] == 2 and document["dataset"]["population"] == home.population


def test_the_model_that_suits_admitted_devices_is_chosen_by_how_many_there_are(
    home: ServerHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "state"))
    (tmp_path / "items.csv").write_text("id,title,year\na,A,1990\nb,B,1991\nc,C,1992\n")
    for _ in range(2):
        Registry(home).admit(new_key()[1])
    asked = [
        f"dataset.path={tmp_path / 'items.csv'}",
        f"output={tmp_path}",
        "name=chosen",
        "model=auto",
        "privacy=user",
    ]
    folder = prepare(home, [*asked, "privacy.population_epsilon=8"], None)
    assert "model=popularity: chosen by model=auto (2 users, epsilon 8.00" in capsys.readouterr().err
    document = read(folder.config).document
    assert document["model"]["_target_"] == "fedrec.models.popularity.Popularity"
    assert document["dataset"]["devices"] == 2


def test_a_run_to_go_on_with_takes_no_other_settings(home: ServerHome) -> None:
    with pytest.raises(FedrecError, match="--resume runs/real goes on with the run's own settings: leave out rounds=3"):
        prepare(home, ["rounds=3"], "runs/real")


class Clock:
    """Time that passes when somebody sleeps, and does things at its hours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **hours: Callable[[], object]) -> None:
        self.now, self.hours = 0.0, {int(hour[1:]): act for hour, act in hours.items()}
        monkeypatch.setattr(runs, "time", self)
        monkeypatch.setattr(runs, "LOOK_SECONDS", 1.0)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if act := self.hours.pop(int(self.now), None):
            act()
        assert self.now < 200, "waits for ever"


def test_a_server_that_comes_back_in_between_ends_nothing(
    home: ServerHome, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([False, True, False, True, True])
    Clock(monkeypatch, h80=lambda: (told.parent / "metrics.json").write_text("{}"))
    monkeypatch.setattr(processes, "listens", lambda port: next(looks))
    monkeypatch.setattr(superlink, "run_status", lambda place, run: "running")
    assert follow(home, "7", told, print)


def test_that_flower_can_not_be_asked_is_no_end_of_a_run(home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(place: Path, run: str) -> str:
        raise FedrecError("no route")

    monkeypatch.setattr(superlink, "run_status", refuse)
    assert state_of(home, "7") == "unknown: no route"


def test_a_stopped_run_is_stopped_in_flower_too_and_names_what_goes_on(
    home: ServerHome, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, said = list[str](), list[str]()

    def interrupted(*_: object) -> bool:
        raise processes.Stopped

    monkeypatch.setattr(superlink, "start_run", lambda place, folder: "41")
    monkeypatch.setattr(superlink, "stop_run", lambda place, run: stopped.append(run))
    monkeypatch.setattr(runs, "follow", interrupted)
    with pytest.raises(SystemExit) as ended:
        start(home, RunFolder(told.parent), said.append)
    assert ended.value.code == 130 and stopped == ["41"]
    assert said == [
        "Run real started; Ctrl-C stops it",
        f"Stopped; go on with {RESUME} {told.parent}",
    ]


def test_a_folder_that_flower_could_not_be_told_is_refused_before_anything_starts(
    home: ServerHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superlink, "start_run", lambda *_: pytest.fail("started"))
    with pytest.raises(FedrecError, match="without quotes and backslashes"):
        start(home, RunFolder(tmp_path / 'a"b'), print)


RESUME = "fedrec server start --resume"
STATUS: dict[str, Any] = {
    "run": "real", "round": 2, "rounds": 5, "asked": 9, "answered": 6, "late": 1, "declined": 1, "refused": 1,
    "epsilon": None, "round_seconds": 0.5, "bytes_down": 10, "bytes_up": 20,
}  # fmt: skip


def test_the_status_is_told_to_a_person_and_to_prometheus(home: ServerHome) -> None:
    assert in_words(summary(home))[1:] == ["0 devices admitted"]
    home.status.write_text(json.dumps(STATUS))
    home.ended.write_text("the front ended by itself (status 1): no memory\n")
    home.counted.write_text(json.dumps({"open": 2, "passed": 40, "connections": 3}))
    lines = in_words(summary(home))
    assert "is not up (without TLS and keys, this machine only)" in lines[0]
    assert lines[1] == "the front ended by itself (status 1): no memory"
    assert lines[3].startswith("run real: round 2 of 5, ") and lines[3].endswith(
        "6 answers, 1 declined, 1 late, 1 refused"
    )
    metrics = dict(line.rsplit(" ", 1) for line in page(home).splitlines() if not line.startswith("#"))
    said = {name.partition("{")[0].removesuffix("_total"): value for name, value in metrics.items()}
    assert float(said["fedrec_answered"]) == 6 and float(said["fedrec_requests_passed"]) == 40
    assert float(said["fedrec_connections"]) == 2 and float(said["fedrec_refused_connections"]) == 3
    assert "fedrec_epsilon" not in said, "absent without privacy"
    home.status.write_text(json.dumps({**STATUS, "private": True, "epsilon": 1.5}))
    metrics = [line.partition(" ")[0].partition("{")[0] for line in page(home).splitlines() if not line.startswith("#")]
    assert {"fedrec_round", "fedrec_rounds", "fedrec_epsilon", "fedrec_connections"} <= set(metrics)
    rates = ("answered", "asked", "late", "declined", "refused_total", "bytes", "seconds", "passed")
    assert not [name for name in metrics if any(word in name for word in rates)]
    assert in_words(summary(home))[3].endswith("6 answers, 1 declined, 1 late, 1 refused"), "its operator sees all"


def test_a_missing_file_is_zero_devices_and_no_run(home: ServerHome) -> None:
    assert summary(home)["run"] is None and "fedrec_devices_admitted 0" in page(home)


def test_refusals_of_privacy_are_refusals(home: ServerHome) -> None:
    with pytest.raises(RefusedError):
        completed(home, load(["dataset=devices", "model=mf", "privacy=interaction"]).document)
