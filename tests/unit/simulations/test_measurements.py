"""The commands that measure and kill: what their figures are made of, on folders and clocks made by hand."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedrec.device.consent.ledger import DeviceLedger
from fedrec.device.consent.request import PrivacyRequest
from fedrec.device.store import DeviceStore
from fedrec.errors import FedrecError
from fedrec.flower import ray, superlink
from fedrec.privacy.guarantee import Relation, Trust, Unit
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from simulations import devices
from simulations.benchmarks import device, scale
from simulations.benchmarks import ledger as bench_ledger
from simulations.crash_tests import devices as device_kills
from simulations.crash_tests import runs
from simulations.crash_tests.points import TRACED
from simulations.crash_tests.witness import Verdict
from simulations.devices import Walk

PLAN = TrainingPlan(population=2, interactions=20, cohort_rate=1.0, rounds=9, trains=True)
COST = PrivacyRequest(Unit.USER, Relation.ADD_REMOVE, Trust.SERVER, 5.0, 1.0, ((5.0, 1.0, 1),), 1.0)


def line(number: int, answered: int, **more: object) -> str:
    return json.dumps({"round": number, "answered": answered, "released": answered > 0, **more}) + "\n"


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Walk, list[Path]]:
    """A run of three rounds on two devices, the first of which missed round 2: honest ledgers, stores and lines."""
    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "state"))
    ledger = Ledger.open("devices-abc", "the-run", UserLevel(epsilon=4.0).calibrated(PLAN, 9.0), PLAN, 2)
    homes = [tmp_path / name for name in ("one", "two")]
    for number in (1, 2, 3):
        ledger.reserve(number)
        ledger.commit(number, np.array([0, 1]))
    ledger.close()
    for home in homes:
        own = DeviceLedger(home / "ledger.sqlite")
        store = DeviceStore(home / "store.sqlite")
        for number in (1, 3) if home.name == "one" else (1, 2, 3):
            own.charge("the-run", number, COST, time.time())
            store.connection.execute("insert into answers values ('the-run', ?, 'asked', null, 0, 1, 1)", [number])
        store.connection.execute("insert into answers values ('another', 2, 'asked', null, 0, 1, 1)")
        own.charge("another", 7, COST, time.time())
        own.close()
        store.close()
    run = tmp_path / "runs" / "r"
    (run / "exact").mkdir(parents=True)
    (run / "config.yaml").write_text("run: the-run\n")
    (run / "exact" / "rounds.jsonl").write_text(line(1, 2) + line(2, 1) + line(3, 2))
    return Walk(tmp_path), homes


HONEST = {"rounds_released": 3, "rounds_charged": 3, "updates_counted": 5}


def bad(found: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in found.items() if count and name not in HONEST}


def test_an_honest_run_on_devices_has_no_fault(played: tuple[Walk, list[Path]]) -> None:
    found = device_kills.verdict(*played, "r")
    assert {name: found[name] for name in HONEST} == HONEST and bad(found) == {}


def test_an_update_that_more_devices_are_said_to_have_sent_than_did_was_counted_twice(
    played: tuple[Walk, list[Path]],
) -> None:
    lines = played[0].folder / "runs" / "r" / "exact" / "rounds.jsonl"
    lines.write_text(line(1, 2) + line(2, 2) + line(3, 1))
    assert bad(device_kills.verdict(*played, "r")) == {"updates_counted_twice": 1}
    lines.write_text(lines.read_text() + line(3, 0))
    assert bad(device_kills.verdict(*played, "r")) == {"updates_counted_twice": 1, "rounds_released_twice": 1}


def test_a_round_that_no_device_was_charged_for_and_a_device_charged_twice_are_found(
    played: tuple[Walk, list[Path]],
) -> None:
    with sqlite3.connect(played[1][1] / "ledger.sqlite") as database:
        database.execute(
            "update entries set body = json_set(body, '$.round', 3) where json_extract(body, '$.round') = 2"
        )
    assert bad(device_kills.verdict(*played, "r")) == {"rounds_charged_to_nobody": 1, "devices_charged_twice": 1}


def test_only_processes_that_name_the_word_and_the_folder_are_killed(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)", "fedrec.device.process"]
    places = [{"cwd": tmp_path, "env": {**os.environ, "FEDREC_HOME": str(tmp_path / name)}} for name in ("a", "b")]
    started = [subprocess.Popen(sleeper, stdout=subprocess.PIPE, **place) for place in places]  # type: ignore[call-overload]
    try:
        for process in started:
            assert process.stdout is not None and process.stdout.readline()
        assert device_kills.processes_of(tmp_path / "a", "fedrec.device.process") == [started[0].pid]
        assert sorted(device_kills.processes_of(tmp_path, "fedrec.device.process")) == sorted(p.pid for p in started)
        assert device_kills.processes_of(tmp_path / "a", "flower-superlink") == []
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_what_a_round_on_devices_took_is_read_from_its_lines(tmp_path: Path) -> None:
    assert device_kills.lines_of(tmp_path) == 0
    (tmp_path / "rounds.jsonl").write_text(
        "".join(
            line(number, answered, seconds=seconds, bytes_down=100 * answered, bytes_up=answered)
            for number, (answered, seconds) in enumerate([(2, 9.126), (1, 1.0), (0, 2.0)], 1)
        )
    )
    assert device_kills.lines_of(tmp_path) == 3
    assert devices.figures(tmp_path) == {
        "round_seconds": [9.13, 1.0, 2.0],
        "median_round_seconds": 2.0,
        "answered": 3,
        "bytes_down_per_device_and_round": 100.0,
        "bytes_up_per_device_and_round": 1.0,
    }


def test_nobody_answered_is_no_division_by_zero(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").write_text(line(1, 0, seconds=1.0, bytes_down=0, bytes_up=0))
    assert devices.figures(tmp_path)["bytes_up_per_device_and_round"] == 0


def test_a_call_is_timed_without_its_warm_up_and_without_what_comes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that each call moves by its number in ms; what comes before a call moves it by a second."""
    now, calls, had = [0.0], [0], [0.0]

    def call() -> None:
        now[0] += (calls[0] - 19) / 1000
        had[0] += 2 * (calls[0] - 19)
        calls[0] += 1

    def before() -> None:
        now[0] += 1.0
        had[0] += 1000.0

    monkeypatch.setattr(device.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(device, "processor_ms", lambda process: had[0])
    found = device.timed(1, call, 101, before)
    assert calls[0] == 121
    assert found == pytest.approx(
        {"p50_ms": 51, "p99_ms": 100, "processor_p50_ms": 102, "processor_p99_ms": 200, "calls": 101}
    )


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel tells no processor times of threads")
def test_the_processor_time_of_a_process_is_that_of_its_threads() -> None:
    before, mine = device.processor_ms(os.getpid()), time.process_time()
    while time.process_time() - mine < 0.02:
        pass
    grown, used = device.processor_ms(os.getpid()) - before, 1000 * (time.process_time() - mine)
    assert grown == pytest.approx(used, abs=15)


def test_steps_of_the_ledger_are_timed_in_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, times = iter([1.0, 1.5, 2.0, 2.25]), bench_ledger.Times()
    monkeypatch.setattr(bench_ledger.time, "perf_counter", lambda: next(now))
    asked = list[int]()
    bench_ledger.timed(times, "step", lambda: asked.append(1))
    bench_ledger.timed(times, "step", lambda: asked.append(2))
    assert times == {"step": [500.0, 250.0]} and asked == [1, 2]


def test_every_step_of_a_round_of_the_ledger_is_timed(tmp_path: Path) -> None:
    times = bench_ledger.measured(PLAN, 2, tmp_path)
    once = {name for name, values in times.items() if len(values) == 1}
    assert once == {"open (once a run)", "open again, every entry verified"}
    assert len(times) == 9 and {len(values) for name, values in times.items() if name not in once} == {2}


def test_memory_is_what_the_system_says_in_bytes() -> None:
    now, most = (scale.resident(which) for which in ("VmRSS", "VmHWM"))
    assert 30 << 20 < now <= most < 1 << 40 and most % 1024 == 0


def test_a_scaled_run_has_its_first_round_besides_and_its_own_folder(tmp_path: Path) -> None:
    options = SimpleNamespace(
        items=7, folder=tmp_path, cohort=5, privacy="user", rounds=6, evaluate=3, overrides=["model.dim=2"]
    )
    settings = scale.population(20, options, tmp_path / "out")  # type: ignore[arg-type]
    said = dict(one.split("=", 1) for one in settings)
    assert (said["rounds"], said["cohort.size"], said["dataset.path"]) == ("7", "5", f"{tmp_path}/20-7")
    assert settings[-1] == "model.dim=2" and said["privacy"] == "user" and said["evaluation.users"] == "3"


def test_kills_at_any_line_fall_on_files_that_there_are() -> None:
    assert len(TRACED) >= 15 and all(Path(name).exists() for name in TRACED)


FINE = {
    "kills": {"client app": 1}, "runs": 2, "runs_completed": 2, "rounds_charged_to_nobody": 0,
    "updates_counted_twice": 0, "devices_charged_twice": 0, "rounds_released_twice": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"runs_completed": 1},
        {"rounds_charged_to_nobody": 1},
        {"updates_counted_twice": 1},
        {"devices_charged_twice": 1},
        {"rounds_released_twice": 1},
    ],
)
def test_kills_on_devices_end_badly_where_a_promise_was_broken(
    wrong: dict[str, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = list[tuple[object, ...]]()
    monkeypatch.setattr(device_kills, "loop", lambda folder, *more: asked.append(more) or {**FINE, **wrong})
    monkeypatch.setattr("sys.argv", ["device_kills", "--kills", "5", "--rounds", "4", "--seed", "6"])
    if wrong:
        with pytest.raises(SystemExit) as ended:
            device_kills.main()
        assert ended.value.code == 1
    else:
        device_kills.main()
    assert asked == [(2, "light", 5, 4, 6)]
    assert json.loads(capsys.readouterr().out)["runs"] == 2


@pytest.mark.parametrize(("broken", "status"), [({}, 0), ({"noise_repeated": 1}, 1), ({"over_counted": 9}, 1)])
def test_kills_in_a_simulation_end_badly_where_a_promise_was_broken(
    broken: dict[str, int], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Verdict(**{"kills": 7, "charged": 9, "released": 8, "over_counted": 1, **broken})
    monkeypatch.setattr(runs, "killed", lambda privacy, count, seed, told: told(found) or found)
    monkeypatch.setattr("sys.argv", ["kills", "--kills", "7", "--json"])
    assert runs.main() == status
    said = capsys.readouterr()
    assert json.loads(said.out)["released"] == 8 and "7 kills, under-counted 0" in said.err


def test_a_superlink_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("no port for me")
    ended = subprocess.Popen(["false"])
    ended.wait()
    with pytest.raises(FedrecError, match="the SuperLink did not start: no port for me"):
        superlink.wait_until_up(ended, 1, tmp_path / "log")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("override", "said"),
    [("name=a b", "can't travel through `flwr run`"), ("modle=mf", "modle does not exist. Did you mean 'model'")],
)
def test_what_can_not_travel_to_ray_is_refused_before_anything_starts(
    override: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "simulation_superlink", lambda *_: pytest.fail("it started"))
    with pytest.raises(FedrecError, match=said):
        ray.run_on_ray([override], 2, None)
