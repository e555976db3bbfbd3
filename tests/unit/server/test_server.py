"""Certificates, the registry, processes that stop with all they started, and what Prometheus reads."""

import contextlib
import os
import signal
import ssl
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrec.cli.server import run
from fedrec.device.home import Home
from fedrec.device.status import page as device_page
from fedrec.device.supervisor import explain_exit
from fedrec.errors import FedrecError
from fedrec.ops import processes
from fedrec.ops.keys import new_key
from fedrec.ops.prometheus import Metric, serve_metrics, text
from fedrec.server import certificates
from fedrec.server.home import Address, Registry, ServerHome
from fedrec.server.status import page
from fedrec.server.supervisor import up
from tests.support.devices import Village

ROOT = Path(__file__).parents[3]


def handshake(folder: Path, name: str, authority: Path) -> None:
    """Shake hands with a server of these certificates under this name; raises what a device would."""
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(folder / "server.crt", folder / "server.key")
    ends = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(ends[0], ends[1], server_side=True)
    client = ssl.create_default_context(cafile=str(authority)).wrap_bio(ends[1], ends[0], server_hostname=name)
    for _ in range(4):
        for end in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()


def test_certificates_are_trusted_by_their_names_and_no_other(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    certificates.ensure(mine, ["gateway.local", "10.1.2.3"])
    certificates.ensure(other, [])
    for name in ("localhost", "127.0.0.1", "gateway.local", "10.1.2.3"):
        handshake(mine, name, mine / "ca.crt")
    for name, authority in (("elsewhere.local", mine), ("localhost", other)):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(mine, name, authority / "ca.crt")
    for secret in ("ca.key", "server.key"):
        assert stat.S_IMODE((mine / secret).stat().st_mode) == 0o600


def test_certificates_are_made_once_and_renewed_for_a_new_name(tmp_path: Path) -> None:
    assert len(certificates.ensure(tmp_path, ["a.local"])) == 2
    authority, server = (tmp_path / "ca.crt").read_bytes(), (tmp_path / "server.crt").read_bytes()
    assert certificates.ensure(tmp_path, ["a.local"]) == []
    assert (tmp_path / "server.crt").read_bytes() == server
    assert len(certificates.ensure(tmp_path, ["b.local"])) == 1
    assert (tmp_path / "ca.crt").read_bytes() == authority and (tmp_path / "server.crt").read_bytes() != server


def test_a_certificate_that_runs_out_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(certificates, "SERVER_DAYS", 5)
        certificates.ensure(tmp_path, [])
    assert len(certificates.ensure(tmp_path, [])) == 1 and certificates.ensure(tmp_path, []) == []


def test_rows_are_in_the_order_of_admission_and_for_ever(tmp_path: Path) -> None:
    registry, keys = Registry(ServerHome(tmp_path)), [new_key()[1] for _ in range(4)]
    assert [registry.admit(key)[0].row for key in keys] == [0, 1, 2, 3]
    again, new = registry.admit(keys[2] + b" a comment\n")
    assert again.row == 2 and not new
    assert [device.row for device in Registry(ServerHome(tmp_path)).devices().values()] == [0, 1, 2, 3]
    assert stat.S_IMODE((tmp_path / "devices.sqlite").stat().st_mode) == 0o600


@pytest.mark.parametrize("host", ["0.0.0.0", "gateway.local", "192.168.1.10"])
def test_without_tls_the_server_stays_on_loopback(tmp_path: Path, host: str) -> None:
    with pytest.raises(FedrecError, match="--insecure"):
        up(ServerHome(tmp_path), Address(host, processes.free_port(), True), print)


def test_a_port_that_is_taken_and_a_home_that_is_none_are_named(tmp_path: Path) -> None:
    with serve_metrics(port := processes.free_port(), lambda: ""), pytest.raises(FedrecError, match="taken"):
        up(ServerHome(tmp_path), Address("127.0.0.1", port, True), print)
    for command in (["status"], ["down"], ["start"]):
        with pytest.raises(FedrecError, match="up"):
            run([*command, "--home", str(tmp_path / "none")])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soon(holds: Callable[[], bool], seconds: float = 60) -> bool:
    """Wait until something holds; say whether it came to that."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


FAMILY = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print(0, flush=True); time.sleep(600)"


@pytest.mark.parametrize("code", [FAMILY, STUBBORN])
def test_stopping_stops_all_that_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    process = processes.start([sys.executable, "-c", code], os.environ, tmp_path / "log")
    while not (text_ := (tmp_path / "log").read_text()).strip():
        time.sleep(0.02)
    processes.stop(process)
    child = int(text_)
    assert process.returncode is not None and not alive(process.pid)
    assert not child or soon(lambda: not alive(child))
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


PARENT = """
import sys, time
from pathlib import Path
from fedrec.ops import processes
with processes.stoppable():
    p = processes.start(["sleep", "600"], {"PATH": "/usr/bin:/bin"}, Path(sys.argv[1]) / "log")
    try:
        print(p.pid, flush=True)
        p.wait()
    finally:
        processes.stop(p)
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_whatever_stops_us_leaves_no_orphan(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    os.kill(parent.pid, number)
    rest, _ = parent.communicate(timeout=120)
    assert soon(lambda: not alive(child)) and (number == signal.SIGKILL or "ended" in rest)


def test_one_process_a_home(tmp_path: Path) -> None:
    with processes.only_one(tmp_path, "this device"):
        processes.say_up(tmp_path, only_when=None)
        assert processes.running(tmp_path)["pid"] == os.getpid()
        with pytest.raises(FedrecError, match="up already"), processes.only_one(tmp_path, "this device"):
            pass
    assert processes.running(tmp_path) == {}, "a file that a killed process left is no sign of life"


def test_a_device_says_why_it_was_not_let_in(tmp_path: Path) -> None:
    assert "did not admit" in explain_exit(tmp_path / "device.log", processes.TURNED_AWAY)
    assert "status -9: see" in explain_exit(tmp_path / "device.log", -9)


def test_prometheus_reads_text() -> None:
    figures = [
        Metric("a_seconds", "Time.", 1.5),
        Metric("b", "Nothing now.", None),
        Metric("c", "C.", 2, counter=True),
    ]
    said = text(figures, {"run": 'x"y\n'})
    assert said.splitlines() == [
        "# HELP a_seconds Time.",
        "# TYPE a_seconds gauge",
        'a_seconds{run="x\\"y\\n"} 1.5',
        "# HELP c_total C.",
        "# TYPE c_total counter",
        'c_total{run="x\\"y\\n"} 2.0',
    ]


def test_metrics_are_served_while_inside_and_on_loopback_only() -> None:
    port = processes.free_port()
    place = f"http://127.0.0.1:{port}"
    before = threading.active_count()
    with serve_metrics(port, lambda: "a 1\n"):
        assert urllib.request.urlopen(f"{place}/metrics").read() == b"a 1\n"
        assert b'href="/metrics"' in urllib.request.urlopen(place).read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{place}/other")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{place}/metrics")
    assert soon(lambda: threading.active_count() <= before)


def test_a_run_is_seen_in_the_servers_metrics_and_no_item_in_a_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedrec.server import deployment

    monkeypatch.setattr(deployment, "GATHER_SECONDS", 0.0)
    village = Village(tmp_path, devices=2)
    assert "fedrec_devices_admitted 2.0" in page(village.server)
    village.deployment(village.prepare("name=real", "rounds=2")).carry_out()
    said = page(village.server)
    for name, value in (("answered_total", 4.0), ("declined_total", 0.0), ("round", 2.0)):
        assert f'fedrec_{name}{{run="real"}} {value}' in said
    assert "# TYPE fedrec_answered_total counter" in said and "# TYPE fedrec_round gauge" in said
    assert "epsilon" not in said and "fedrec_round_seconds" in said
    own = device_page(Home(village.homes[0].path))
    store = village.homes[0].store()
    assert "fedrec_device_rounds_answered_total 2.0" in own
    names = [line.split()[0] for line in own.splitlines() if not line.startswith("#")]
    assert len(names) == 4 and not {event.item for event in store.history()} & set(own.split())


def test_a_revoked_device_keeps_its_row_and_is_unknown_at_once(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    from fedrec.server.front import AdmittedKeys

    home, (private, public) = ServerHome(tmp_path), new_key()
    registry = Registry(home)
    device, _ = registry.admit(public)
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    pem = serialization.load_ssh_public_key(public).public_bytes(*form)
    keys = AdmittedKeys(home)
    assert keys.find(pem) is not None and keys.find(pem + b"\n") is None and keys.find(private) is None
    registry.revoke(device.device)
    assert keys.find(pem) is None and registry.admitted() == [] and registry.devices()[device.device].row == 0
    registry.admit(public)
    assert keys.find(pem) is not None
    with pytest.raises(FedrecError, match="no device nobody was admitted"):
        registry.revoke("nobody")


def test_a_registry_of_before_there_was_revoking_is_read(tmp_path: Path) -> None:
    import sqlite3

    with contextlib.closing(sqlite3.connect(tmp_path / "devices.sqlite")) as old, old:
        old.execute("create table devices (row integer primary key, device text unique, key blob, registered integer)")
        old.execute("insert into devices values (0, 'a', x'00', 1)")
    (device,) = Registry(ServerHome(tmp_path)).admitted()
    assert device.device == "a" and device.registered and not device.revoked


@pytest.mark.parametrize(
    "line", ["bodies = 1", "body_mib = 0", 'connections = "many"', "connections = 1.5", "=", "a = true"]
)
def test_a_limit_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    from fedrec.ops.connections import Limits

    (tmp_path / "limits.toml").write_text(line)
    with pytest.raises(FedrecError, match=r"limits\.toml: "):
        Limits.read(tmp_path / "limits.toml")
    (tmp_path / "limits.toml").write_text("body_mib = 1.5\nconnections = 7")
    assert Limits.read(tmp_path / "limits.toml") == Limits(body_mib=1.5, connections=7)


def test_what_lay_open_in_a_home_is_closed(tmp_path: Path) -> None:
    home = ServerHome(tmp_path / "home")
    home.make()
    home.path.chmod(0o755)
    home.certificates.mkdir(mode=0o755)
    for path in (home.registry, home.certificates / "server.key"):
        path.touch(0o644)
    assert home.protect() and not home.protect()
    assert not [path for path in (home.path, *home.path.rglob("*")) if path.stat().st_mode & 0o077]


def test_connections_over_the_limits_are_closed_before_they_speak() -> None:
    import socket

    from fedrec.ops.connections import Doorman, Limits, listen

    doorman = Doorman(Limits(address_connections=2))
    with listen("127.0.0.1", 0, doorman) as listening, contextlib.ExitStack() as ends:
        clients = [ends.enter_context(socket.create_connection(listening.getsockname(), 5)) for _ in range(3)]
        accepted = [listening.accept()[0] for _ in range(2)]
        with pytest.raises(BlockingIOError):
            listening.accept()
        assert doorman.refused == 1 and clients[2].recv(1) == b"" and doorman.here == {"127.0.0.1": 2}
        for each in accepted:
            each.close()
            each.close()
        assert doorman.here == {}


class Turns:
    """What a connection looks at: a clock, and a transport that remembers whether it was ended."""

    def __init__(self) -> None:
        self.now, self.ended = 0.0, False

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, look: Any) -> None:
        self.now += seconds

    def abort(self) -> None:
        self.ended = True


class Answered:
    """A request that is answered."""

    __slots__ = ("response_complete",)

    def __init__(self) -> None:
        self.response_complete = True


@pytest.mark.parametrize(("requests", "ended"), [(0, True), (1, False), (2, False), (4, False)])
def test_a_connection_is_ended_when_it_asks_nothing_and_not_while_it_asks(requests: int, ended: bool) -> None:
    from fedrec.ops.connections import Limits, timed_protocol

    kind, turns = timed_protocol(Limits(header_seconds=15)), Turns()
    connection: Any = kind.__new__(kind)
    connection.loop = connection.transport = turns
    connection.cycle = Answered()
    for _ in range(60):
        for _ in range(requests):  # between two looks, each a new one in the last one's place
            connection.cycle = Answered()
        if not turns.ended:
            connection.look()
    assert turns.ended == ended


def test_no_run_begins_where_every_device_was_revoked(tmp_path: Path) -> None:
    from fedrec.server.home import count

    home = ServerHome(tmp_path)
    registry = Registry(home)
    names = [registry.admit(new_key()[1])[0].device for _ in range(2)]
    registry.revoke(names[0])
    assert count(home) == 2, "a row that was spent on stays in the population"
    registry.revoke(names[1])
    with pytest.raises(FedrecError, match="no device is admitted"):
        count(home)
