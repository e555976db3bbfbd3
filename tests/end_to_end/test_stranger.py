"""A stranger with the address and the public certificate, and Flower's own commands, gets nothing from a server."""

import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path

import pytest

from fedrec.flower.superlink import write_connection
from fedrec.ops import processes
from fedrec.ops.keys import new_key

ROOT = Path(__file__).parents[2]
COMMANDS = (
    ["run", str(ROOT), "fedrec"],
    ["list", "fedrec"],
    ["stop", "1", "fedrec"],
    ["supernode", "list", "fedrec"],
    ["supernode", "register", "stranger.pub", "fedrec"],
)


def fedrec(home: Path, *words: str) -> str:
    command = [sys.executable, "-m", "fedrec", "server", *words, "--home", str(home)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    return done.stdout + done.stderr


@pytest.fixture(params=["TLS", "insecure"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[tuple[Path, int, Path | None]]:
    """A server that is up: its home, its port, its public certificate."""
    home, port = tmp_path / "server", processes.free_port()
    tls = request.param == "TLS"
    said = fedrec(home, "up", "--background", "--port", str(port), *([] if tls else ["--insecure"]))
    assert " is up (" in said, said
    yield home, port, home / "certificates" / "ca.crt" if tls else None
    fedrec(home, "down")


def status_of(port: int, authority: Path | None, path: str) -> int:
    scheme, context = ("http", None) if authority is None else ("https", ssl.create_default_context(cafile=authority))
    try:
        address = f"{scheme}://127.0.0.1:{port}{path}"
        return urllib.request.urlopen(address, data=b"", timeout=30, context=context).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_flowers_own_commands_get_nothing(served: tuple[Path, int, Path | None], tmp_path: Path) -> None:
    home, port, authority = served
    write_connection(tmp_path / "flower", "fedrec", port, authority)
    (tmp_path / "stranger.pub").write_bytes(new_key()[1])
    for words in COMMANDS:
        done = subprocess.run(
            [processes.program("flwr"), *words, "--format", "json"], cwd=tmp_path, check=False, timeout=120,
            env=processes.environment(tmp_path / "flower"), capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert "404 Not Found" in done.stdout + done.stderr, words
        assert '"success": true' not in done.stdout
    if authority is not None:
        assert status_of(port, authority, "/v1/fleet/pull-messages") == 401
    time.sleep(2)
    counted = json.loads((home / "front.json").read_text())
    assert counted["path"] >= len(COMMANDS) and "passed" not in counted
    assert not re.search(r"start-run|list-|stop-run", (home / "flower.log").read_text())


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_of_this_machine_gets_nothing_from_the_superlink(served: tuple[Path, int, Path | None]) -> None:
    home, _, authority = served
    port = int(re.findall(r"127\.0\.0\.1:(\d+)", (home / "flower" / "config.toml").read_text())[0])
    path = "/v1/control/list-runs"
    assert status_of(port, authority, path) not in (403, 404), "the server's own user is asked for its request"
    child = os.fork()
    if not child:
        context = ssl.create_default_context(cafile=authority) if authority else None
        os.setuid(65534)
        scheme = "https" if authority else "http"
        try:
            urllib.request.urlopen(f"{scheme}://127.0.0.1:{port}{path}", data=b"", timeout=30, context=context)
        except urllib.error.HTTPError as error:
            os._exit(error.code - 400)
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3, "403"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["fedrec.server.front", "own_superlink"])
def test_when_one_part_dies_the_other_is_stopped_and_status_says_so(
    served: tuple[Path, int, Path | None], part: str
) -> None:
    home, port, _ = served

    def alive(words: str) -> list[int]:
        found = list[int]()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                line = path.read_text().replace("\0", " ")
                found += [int(path.parent.name)] if words in line and str(home) in line else []
        return found

    (victim,) = alive(part)
    os.kill(victim, signal.SIGKILL)
    end = time.monotonic() + 60
    while (alive("fedrec.server.front") or alive("own_superlink")) and time.monotonic() < end:
        time.sleep(0.2)
    assert not alive("fedrec.server.front") and not alive("own_superlink") and not processes.listens(port)
    said = fedrec(home, "status")
    assert "is not up" in said and "ended by itself (status -9)" in said
