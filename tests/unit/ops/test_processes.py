"""Programs that are started, found and stopped: one of a folder, readable logs, nothing left behind."""

import json
import os
import signal
import stat
import sys
import time
from pathlib import Path

import pytest

from fedrec.errors import FedrecError
from fedrec.ops import processes


def test_flower_is_told_to_call_nobody_and_where_its_folder_is(tmp_path: Path) -> None:
    made = processes.environment(tmp_path / "flower")
    assert made["FLWR_TELEMETRY_ENABLED"] == "0" and made["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert made["FLWR_HOME"] == str(tmp_path / "flower")
    assert made["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert stat.S_IMODE((tmp_path / "flower").stat().st_mode) == 0o700


@pytest.mark.parametrize("text", ["0", "65536", "http", "-1", "8000.5", ""])
def test_a_port_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FEDREC_PORT", text)
    with pytest.raises(FedrecError, match=rf"FEDREC_PORT={text}: a number from 1 to 65535 expected"):
        processes.port()


def test_the_port_is_the_one_of_the_environment_else_8000(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDREC_PORT", "9001")
    assert processes.port() == 9001
    monkeypatch.delenv("FEDREC_PORT")
    assert processes.port() == 8000
    assert not processes.listens(processes.free_port())


def test_a_log_is_the_owners_alone_appended_to_and_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "some.log"
    for number in range(3):
        code = f"import sys; print({number}); print('trouble', file=sys.stderr)"
        assert processes.start([sys.executable, "-c", code], os.environ, log).wait(60) == 0
        if number == 1:
            monkeypatch.setattr(processes, "LOG_BYTES", 3)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert sorted(log.read_text().split()) == ["2", "trouble"]
    assert sorted((tmp_path / "some.old.log").read_text().split()) == ["0", "1", "trouble", "trouble"]


def test_a_folder_is_that_of_one_process_and_free_again_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    with processes.only_one(folder, "this device"):
        with pytest.raises(FedrecError, match="this device is up already"), processes.only_one(folder, "this device"):
            pass
        with pytest.raises(FedrecError, match="this device is up already"):
            processes.background(["config"], folder, "this device")
    with processes.only_one(folder, "this device"):
        pass
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_is_up_says_so_while_it_is_up_alone(tmp_path: Path) -> None:
    assert processes.running(tmp_path) == {}
    with processes.only_one(tmp_path, "it"):
        assert processes.running(tmp_path) == {}, "up, and has said nothing yet"
        processes.say_up(tmp_path, trouble="none")
        assert processes.running(tmp_path) == {"pid": os.getpid(), "trouble": "none"}
        assert stat.S_IMODE((tmp_path / "up.json").stat().st_mode) == 0o600
        (tmp_path / "up.json").write_text("{")
        assert processes.running(tmp_path) == {}, "half a file says nothing"
        processes.say_down(tmp_path)
        processes.say_down(tmp_path)
    processes.say_up(tmp_path)
    assert processes.running(tmp_path) == {}, "a file that a killed process left counts for nothing"
    with pytest.raises(FedrecError, match="it is not up"):
        processes.down(tmp_path, "it")


SERVICE = """
import sys, time
from pathlib import Path
from fedrec.ops import processes
folder = Path(sys.argv[-1])
with processes.only_one(folder, "it"), processes.stoppable():
    print("up; Ctrl-C stops it", flush=True)
    processes.say_up(folder)
    time.sleep(600)
"""


@pytest.fixture
def as_a_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let `background` start a script in the place of `python -m fedrec`."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} "$@"\n')
    program.chmod(0o700)
    monkeypatch.setattr(processes.sys, "executable", str(program))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    return tmp_path


def test_a_service_in_the_background_says_what_it_said_and_goes_down_when_told(as_a_script: Path) -> None:
    folder = as_a_script / "home"
    said = processes.background(["-c", SERVICE, str(folder)], folder, "it")
    pid = processes.running(folder)["pid"]
    assert said == f"up; process {pid}"
    processes.down(folder, "it")
    assert processes.running(folder) == {} and not processes._lives(pid)


def test_one_that_does_not_start_is_told_with_what_it_said(as_a_script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FedrecError, match="it did not start: no such key"):
        processes.background(["-c", "raise SystemExit('no such key')"], as_a_script / "home", "it")
    monkeypatch.setattr(processes, "START_SECONDS", 0.2)
    with pytest.raises(FedrecError, match=r"it did not start within 0 s; see .*up\.log"):
        processes.background(["-c", "import time; time.sleep(600)"], as_a_script / "home", "it")


def test_one_that_does_not_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.05)
    process = processes.start([sys.executable, "-c", "import time; time.sleep(600)"], os.environ, tmp_path / "log")
    try:
        with processes.only_one(tmp_path, "it"):
            (tmp_path / "up.json").write_text(json.dumps({"pid": process.pid}))
            with pytest.raises(FedrecError, match=f"process {process.pid} does not end"):
                processes.down(tmp_path, "it")
    finally:
        processes.stop(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_ends_a_block_quietly_and_handlers_come_back(number: signal.Signals) -> None:
    before, went_on = signal.getsignal(number), False
    with processes.stoppable():
        os.kill(os.getpid(), number)
        time.sleep(5)
        went_on = True
    assert not went_on and signal.getsignal(number) == before


def test_a_folder_of_another_user_is_refused_by_that_users_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    processes.check_owner(tmp_path)
    processes.check_owner(tmp_path / "none")
    monkeypatch.setattr(processes.os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(FedrecError, match=r"belongs to user .*: run this as that user \(sudo -u "):
        processes.check_owner(tmp_path)
    monkeypatch.setattr(processes.pwd, "getpwuid", lambda number: {}[number])
    with pytest.raises(FedrecError, match=f"user '#{tmp_path.stat().st_uid}'"):
        processes.check_owner(tmp_path)
