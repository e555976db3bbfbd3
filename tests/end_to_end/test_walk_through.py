"""The tutorial's walk-through on real devices, line by line as printed there, under a guard; and what is killed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fedrec.ops.processes import free_port
from simulations.crash_tests.devices import DEVICE, workers_of
from tests.end_to_end.test_offline import GUARD

ROOT = Path(__file__).parents[2]


def walk_through() -> list[str]:
    """Return the commands of the tutorial, its first block."""
    page = (ROOT / "docs" / "tutorials" / "two_devices.md").read_text()
    lines = page.partition("\n```sh")[2].partition("\n```")[0].splitlines()[1:]
    assert lines[0].startswith("fedrec data split")
    return lines


@pytest.fixture
def place(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with `fedrec` on the path and a guard in every Python process; nothing is left running after."""
    programs = tmp_path / "bin"
    programs.mkdir()
    fedrec = programs / "fedrec"
    fedrec.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fedrec "$@"\n')
    fedrec.chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    yield {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "GUARD_LOG": str(tmp_path / "guard.log"),
        "FEDREC_PORT": str(free_port()),
        "FEDREC_STATE": str(tmp_path / "state"),
        "OMP_NUM_THREADS": "1",
    }
    end = time.monotonic() + 120
    while (left := processes_of(tmp_path)) and time.monotonic() < end:
        time.sleep(0.5)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left


def processes_of(path: Path, *words: str) -> list[int]:
    """Return the processes whose command line or surroundings name the folder, and hold all the words."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            line, pid = (entry / "cmdline").read_bytes().decode().replace("\0", " "), int(entry.name)
            around = (entry / "environ").read_bytes().decode(errors="replace")
            if str(path) in line + around and pid != os.getpid() and all(word in line for word in words):
                found.append(pid)
    return found


LOOPBACK_UP = """import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 0x41))"""  # SIOCSIFFLAGS: up and running


def alone() -> list[str]:
    """Return what runs a script where there is no network but loopback; empty where that is not allowed."""
    command = ["unshare", "--map-root-user", "--net"]
    try:
        tried = subprocess.run([*command, sys.executable, "-c", LOOPBACK_UP], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return command if tried.returncode == 0 else []


def shell(
    lines: list[str], path: Path, environment: dict[str, str], timeout: float = 560, before: Sequence[str] = ()
) -> str:
    script, command = "\n".join(["set -e", *lines]), [*before, "bash", "-c"]
    done = subprocess.run(
        [*command, script], cwd=path, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_walk_through_is_ten_lines_of_commands_that_exist() -> None:
    lines = walk_through()
    assert len(lines) == 10
    for name in re.findall(r"fedrec (server|client|data) (\w+)", "\n".join(lines)):
        done = subprocess.run(
            [sys.executable, "-m", "fedrec", *name, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_readmes_walk_through_gives_what_its_simulation_gives(tmp_path: Path, place: dict[str, str]) -> None:
    """Under a guard in every process and, where the machine lets us, with no network but loopback at all."""
    up = [f"{sys.executable} -c '{LOOPBACK_UP}'"] if (before := alone()) else []
    said = shell([*up, *walk_through()], tmp_path, place, before=before)
    real, simulated = (tmp_path / "runs" / name for name in ("real", "simulated"))
    assert (real / "model.safetensors").read_bytes() == (simulated / "model.safetensors").read_bytes()
    assert "2 of 2 admitted devices are there" in said and "3 rounds" in said
    assert len((real / "rounds.jsonl").read_text().splitlines()) == 3
    for device in (1, 2):  # nothing that the server delivered was even unpacked
        assert not list((tmp_path / "walk" / f"device-{device}" / "flower").rglob("*.py"))
    guard = Path(place["GUARD_LOG"])
    assert not guard.exists(), guard.read_text()


def begin(tmp_path: Path, place: dict[str, str], rounds: int) -> "subprocess.Popen[str]":
    """Walk until training has begun; return the `fedrec server start` that goes on."""
    lines = walk_through()
    last = next(n for n, line in enumerate(lines) if line.startswith("fedrec server start"))
    shell(lines[:last], tmp_path, place)
    command = lines[last].replace("rounds=3", f"rounds={rounds}").split()
    environment = {**place, "FEDREC_SERVER": "walk/server"}
    started = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for_rounds(tmp_path, 1)
    return started


def wait_for_rounds(tmp_path: Path, count: int, seconds: float = 300) -> None:
    path, end = tmp_path / "runs" / "real" / "rounds.jsonl", time.monotonic() + seconds
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < end, f"no {count} rounds within {seconds} s"
        time.sleep(0.2)


def kill(find: Callable[[], list[int]], wait: float = 120) -> None:
    """Kill -9 the processes that are found, as soon as there are some."""
    end = time.monotonic() + wait
    while not (found := find()):
        assert time.monotonic() < end
        time.sleep(0.02)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def finish(tmp_path: Path, place: dict[str, str]) -> None:
    shell(["export FEDREC_SERVER=walk/server", walk_through()[-1]], tmp_path, place)


def rounds_of(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "runs" / "real" / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("find", [workers_of, lambda home: processes_of(home, DEVICE)], ids=["its work", "all of it"])
def test_a_killed_device_costs_its_answer_and_the_run_goes_on(
    tmp_path: Path, place: dict[str, str], find: Callable[[Path], list[int]]
) -> None:
    started = begin(tmp_path, place, rounds=5)
    kill(lambda: find(tmp_path / "walk" / "device-1"))
    out, _ = started.communicate(timeout=500)
    assert started.returncode == 0, out
    lines = rounds_of(tmp_path)
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[-1]["answered"] >= 1 and sum(line["answered"] for line in lines) >= 6
    status = json.loads(shell(["fedrec client status --json --home walk/device-1"], tmp_path, place))
    assert status["answered"] <= 5 and status["up"]
    finish(tmp_path, place)


@pytest.mark.slow
def test_a_killed_server_resumes_and_its_devices_come_back(tmp_path: Path, place: dict[str, str]) -> None:
    started = begin(tmp_path, place, rounds=4)
    kill(lambda: processes_of(tmp_path, "own_superlink"))
    out, _ = started.communicate(timeout=300)
    assert started.returncode != 0 and "--resume" in out
    said = shell(
        [
            "export FEDREC_SERVER=walk/server",
            "while ! fedrec server up --background; do sleep 1; done",
            "fedrec server start --resume runs/real",
        ],
        tmp_path,
        place,
    )
    assert "4 rounds" in said
    lines = rounds_of(tmp_path)
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    for device in (1, 2):
        status = shell([f"fedrec client status --json --home walk/device-{device}"], tmp_path, place)
        assert json.loads(status)["answered"] <= 4
    finish(tmp_path, place)


@pytest.mark.slow
def test_a_key_that_was_not_admitted_does_not_connect(tmp_path: Path, place: dict[str, str]) -> None:
    lines = walk_through()
    last = next(n for n, line in enumerate(lines) if line.startswith("fedrec server admit"))
    shell([*lines[:last], "fedrec client up --background --always --home walk/device-1"], tmp_path, place)
    log, end = tmp_path / "walk" / "device-1" / "up.log", time.monotonic() + 120
    while "did not admit this key" not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.5)
    shell(["fedrec client down --home walk/device-1", "fedrec server down --home walk/server"], tmp_path, place)


@pytest.mark.slow
def test_whatever_is_killed_no_update_counts_twice_and_nothing_is_charged_to_nobody(
    tmp_path: Path, place: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "simulations.crash_tests.devices", "--kills", "1", "--seed", "3"]
    environment = {**place, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=590, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == {"work": 1, "device": 1, "SuperLink": 1} and found["runs_completed"] == 3
    assert found["updates_counted"] > 3 and found["rounds_charged"] >= found["rounds_released"] > 3
    for name in ("updates_counted_twice", "rounds_charged_to_nobody", "devices_charged_twice", "rounds_released_twice"):
        assert found[name] == 0
