"""Starts long-running programs and stops them with all that they started, whatever stops us."""

import contextlib
import ctypes
import fcntl
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, cast

from fedrec.errors import FedrecError

OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
GRACE_SECONDS = 10.0
START_SECONDS = 90.0
LOG_BYTES = 10 << 20
TURNED_AWAY = 3  # exit status of a device's process whose server does not take it
SET_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


def environment(flower_home: Path) -> dict[str, str]:
    """Return an environment in which Flower finds its own programs and its folder, and calls nobody."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    flower_home.mkdir(parents=True, exist_ok=True, mode=0o700)
    return {
        **os.environ,
        **OFFLINE,
        "FLWR_HOME": str(flower_home),
        "PATH": programs,
    }


def check_owner(folder: Path) -> None:
    """Refuse to work in another user's folder: its own service could not read what is written there."""
    if not folder.exists() or (owner := folder.stat().st_uid) == os.geteuid():
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"'#{owner}'"
    raise FedrecError(f"{folder} belongs to user {name}: run this as that user (sudo -u {name} fedrec ...)")


def program(name: str) -> str:
    """Return the path of a command of this Python's environment."""
    return str(Path(sys.executable).parent / name)


def port() -> int:
    """Return the server's port where none is given: FEDREC_PORT, else 8000."""
    text = os.environ.get("FEDREC_PORT", "8000")
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise FedrecError(f"FEDREC_PORT={text}: a number from 1 to 65535 expected")
    return int(text)


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Say whether something listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start(command: Sequence[str], variables: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a program in a group of its own, its output appended to a log (readable by its owner, turned at 10 MB)."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".old.log"))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            command, env=dict(variables), stdout=descriptor, stderr=descriptor, stdin=subprocess.DEVNULL,
            start_new_session=True, preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )  # fmt: skip
    finally:
        os.close(descriptor)


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask Linux to stop this process, by that signal, when whoever started it is gone, even by kill -9."""
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, number)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a program and all that it started: asked first, killed after a while."""
    _signal(process, signal.SIGTERM)
    end = time.monotonic() + GRACE_SECONDS
    while _group_lives(process.pid) and time.monotonic() < end:
        process.poll()
        time.sleep(0.05)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def only_one(folder: Path, what: str) -> Generator[None]:
    """Refuse a second process of the same folder."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FedrecError(f"{folder}: {what} is up already") from None
        yield
    finally:
        os.close(descriptor)


def say_up(folder: Path, **told: Any) -> None:
    """Write that this process is up for a folder, and what it was told."""
    fresh = folder / "up.json.new"
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps({"pid": os.getpid(), **told}))
    fresh.replace(folder / "up.json")


def say_down(folder: Path) -> None:
    """Take that back."""
    (folder / "up.json").unlink(missing_ok=True)


def running(folder: Path) -> dict[str, Any]:
    """Return what the process that is up for a folder wrote of itself; empty where none is."""
    if not _locked(folder):
        return {}
    try:
        return cast(dict[str, Any], json.loads((folder / "up.json").read_text()))
    except (OSError, ValueError):
        return {}


def _lives(pid: int) -> bool:
    """Say whether a process is there and not merely waiting for its parent to notice that it ended."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _locked(folder: Path) -> bool:
    try:
        with only_one(folder, ""):
            return False
    except FedrecError:
        return True


def background(command: Sequence[str], folder: Path, what: str) -> str:
    """Start a `fedrec` command that stays when this one ends; return what it said until it was up."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if _locked(folder):
        raise FedrecError(f"{folder}: {what} is up already")
    log = folder / "up.log"
    log.write_bytes(b"")
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedrec", *command], env=environment(folder / "flower"), stdout=file, stderr=file,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + START_SECONDS
    while running(folder).get("pid") != process.pid:
        if process.poll() is not None:
            raise FedrecError(f"{what} did not start: {log.read_text(errors='replace').strip()[-600:]}")
        if time.monotonic() > end:
            stop(process)
            raise FedrecError(f"{what} did not start within {START_SECONDS:.0f} s; see {log}")
        time.sleep(0.1)
    return log.read_text(errors="replace").strip().replace("Ctrl-C stops it", f"process {process.pid}")


def down(folder: Path, what: str) -> None:
    """Stop what is up for a folder, and wait until it is gone."""
    found = running(folder)
    if not found:
        raise FedrecError(f"{folder}: {what} is not up")
    os.kill(found["pid"], signal.SIGTERM)
    end = time.monotonic() + 3 * GRACE_SECONDS
    while _locked(folder) or _lives(found["pid"]):
        if time.monotonic() > end:
            raise FedrecError(f"{folder}: process {found['pid']} does not end")
        time.sleep(0.1)


class Stopped(BaseException):
    """SIGTERM or SIGINT came."""


@contextlib.contextmanager
def stoppable() -> Generator[None]:
    """Turn the first SIGTERM or SIGINT into `Stopped` inside, and end quietly; later ones are ignored."""

    def handle(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise Stopped

    before = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        with contextlib.suppress(Stopped):
            yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
