"""What a stranger's load costs a server: large bodies without a key, and connections that say nothing.

    python -m simulations.benchmarks.front --bodies 1000 --mb 200

brings a server up on loopback and prints one JSON object: the statuses, the memory that the front and the SuperLink
gained, how long a connection that sends nothing, half a handshake or half its headers stays open.
"""

import argparse
import json
import os
import socket
import ssl
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fedrec.ops.processes import free_port
from simulations.devices import Walk

PATHS = ("/v1/fleet/push-messages", "/v1/fleet/register-node", "/v1/control/start-run")

SILENT = {  # all that a connection sends; None: not even a handshake
    "no handshake": None,
    "nothing": b"",
    "half of the headers": b"POST /v1/fleet/get-run HTTP/1.1\r\nHost:",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


def resident_mib(words: str) -> float:
    """Return the memory of the processes with these words in their command line."""
    found = 0.0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and words in (entry / "cmdline").read_text().replace("\0", " "):
                pages = int((entry / "statm").read_text().split()[1])
                found += pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
        except OSError:
            continue
    return found


def connect(port: int, authority: Path, address: str = "127.0.0.1") -> ssl.SSLSocket:
    """Connect as a device does that has this address."""
    context = ssl.create_default_context(cafile=str(authority))
    plain = socket.create_connection(("127.0.0.1", port), 60, source_address=(address, 0))
    return context.wrap_socket(plain, server_hostname="localhost")


def send_body(port: int, authority: Path, path: str, size: int, address: str = "127.0.0.1") -> str:
    """Send a body of zeros without a key until the server hangs up; return the status."""
    chunk, sent = bytes(1 << 16), 0
    with connect(port, authority, address) as end:
        end.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        try:
            while sent < size:
                sent += end.send(chunk)
        except OSError:
            pass
        try:
            return end.recv(100).split(b" ")[1].decode()
        except (OSError, IndexError):
            return "closed"


def open_seconds(port: int, authority: Path, first: bytes | None) -> float:
    """Return how long a connection stays open that sends no more than this; None: not even a handshake."""
    start = time.monotonic()
    try:
        end = socket.create_connection(("127.0.0.1", port)) if first is None else connect(port, authority)
        with end:
            end.settimeout(120)
            if first:
                end.sendall(first)
            while end.recv(1000):
                pass
    except OSError:
        pass
    return time.monotonic() - start


def measure(folder: Path, bodies: int, size: int) -> dict[str, Any]:
    """Bring a server up, put the load on it, and take it down."""
    port, home = free_port(), folder / "server"
    steps, statuses = Walk(folder), Counter[str]()
    steps.fedrec("up", "server", "up", "--background", "--port", str(port))
    try:
        authority = home / "certificates" / "ca.crt"
        parts = {"front": "fedrec.server.front " + str(home), "superlink": f"--database {home}"}
        send_body(port, authority, PATHS[0], 1)  # what a first request loads is no growth
        before = {name: resident_mib(words) for name, words in parts.items()}
        start = time.monotonic()
        for number in range(bodies):
            statuses[send_body(port, authority, PATHS[number % len(PATHS)], size)] += 1
        seconds = time.monotonic() - start
        with ThreadPoolExecutor(len(SILENT)) as together:
            opened = list(together.map(lambda first: open_seconds(port, authority, first), SILENT.values()))
        return {
            "bodies": bodies, "bytes_each": size, "seconds": seconds, "statuses": statuses,
            "gained_mib": {name: round(resident_mib(words) - before[name], 1) for name, words in parts.items()},
            "open_seconds": dict(zip(SILENT, opened, strict=True)),
        }  # fmt: skip
    finally:
        steps.fedrec("down", "server", "down")


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=1000)
    parser.add_argument("--mb", type=int, default=200, help="megabytes each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), options.bodies, options.mb * 1_000_000), indent=2))


if __name__ == "__main__":
    main()
