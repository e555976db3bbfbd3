"""Nothing calls home: a whole run, under a guard that fails on any connection that leaves the machine."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.tiny import SMALL

ROOT = Path(__file__).parents[2]
GUARD = """
import ipaddress, os, socket
def guarded(real):
    def connect(self, address, *rest):
        if self.family != socket.AF_UNIX and not ipaddress.ip_address(address[0]).is_loopback:
            open(os.environ["GUARD_LOG"], "a").write(f"{address}\\n")
            raise OSError(f"left the machine: {address}")
        return real(self, address, *rest)
    return connect
socket.socket.connect = guarded(socket.socket.connect)
socket.socket.connect_ex = guarded(socket.socket.connect_ex)
real_lookup = socket.getaddrinfo
def lookup(host, *rest, **more):
    if host not in (None, "localhost", "127.0.0.1", "::1", "", "0.0.0.0", socket.gethostname()):
        open(os.environ["GUARD_LOG"], "a").write(f"lookup {host}\\n")
        raise OSError(f"looked up {host}")
    return real_lookup(host, *rest, **more)
socket.getaddrinfo = lookup
"""


def guarded(tmp_path: Path, code: list[str]) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run Python under the guard; return the process and what the guard saw."""
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    log = tmp_path / "guard.log"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "GUARD_LOG": str(log)}
    done = subprocess.run(
        [sys.executable, *code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    return done, log.read_text() if log.exists() else ""


def test_a_simulation_opens_no_connection(tmp_path: Path) -> None:
    done, seen = guarded(tmp_path, ["-m", "fedrec", "simulate", *SMALL, "rounds=1", "evaluation.baselines=[]"])
    assert done.returncode == 0, done.stderr
    assert "Run folder" in done.stdout and seen == ""


def test_the_guard_sees_a_connection(tmp_path: Path) -> None:
    done, seen = guarded(tmp_path, ["-c", "import socket; socket.create_connection(('192.0.2.1', 80), 1)"])
    assert done.returncode != 0 and "192.0.2.1" in seen
