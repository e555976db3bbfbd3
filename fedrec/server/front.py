"""`python -m fedrec.server.front HOME PORT`: the front's process, before the SuperLink on a loopback port."""

import asyncio
import contextlib
import json
import math
import resource
import sqlite3
import sys

import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedrec.flower.front import Front, upstream
from fedrec.flower.superlink import LOOPBACK
from fedrec.ops.connections import Doorman, Limits, TimedLoop, listen, timed_protocol
from fedrec.server.home import Address, Registry, ServerHome
from fedrec.storage.run_folder import atomic_write

COUNT_SECONDS = 1.0
OTHER_FILES = 512  # descriptors besides those of connections from outside


def command(home: ServerHome, port: int) -> list[str]:
    """Return the command line of the front before a SuperLink."""
    return [sys.executable, "-m", "fedrec.server.front", str(home.path), str(port)]


class AdmittedKeys:
    """The keys that a server's registry admits, as Flower writes them; a change there counts at once."""

    def __init__(self, home: ServerHome) -> None:
        self._registry = Registry(home)
        self._registry.devices()  # makes the table
        self._watching = sqlite3.connect(home.registry, timeout=30)
        self._version = -1
        self._keys = dict[bytes, ec.EllipticCurvePublicKey]()

    def find(self, pem: bytes) -> ec.EllipticCurvePublicKey | None:
        """Return the admitted key that Flower writes as `pem`, None where there is none."""
        (version,) = self._watching.execute("pragma data_version").fetchone()
        if version != self._version:
            self._version, self._keys = version, self._read()
        return self._keys.get(pem)

    def _read(self) -> dict[bytes, ec.EllipticCurvePublicKey]:
        form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        found = dict[bytes, ec.EllipticCurvePublicKey]()
        for device in self._registry.admitted():
            key = serialization.load_ssh_public_key(device.key)
            if isinstance(key, ec.EllipticCurvePublicKey):
                found[key.public_bytes(*form)] = key
        return found


async def write_counted(home: ServerHome, front: Front, doorman: Doorman) -> None:
    """Write what was passed and refused, whenever it has changed."""
    written = None
    while True:
        values = {**front.counted, "connections": doorman.refused, "open": doorman.here.total()}
        if values != written:
            atomic_write(home.counted, json.dumps(values).encode() + b"\n", 0o600)
            written = values
        await asyncio.sleep(COUNT_SECONDS)


def configuration(front: Front, home: ServerHome, address: Address) -> uvicorn.Config:
    """Return uvicorn's settings: HTTP/1.1 alone, and nothing of what a request says believed or logged."""
    files = {} if address.insecure else {
        "ssl_keyfile": str(home.certificates / "server.key"), "ssl_certfile": str(home.certificates / "server.crt"),
    }  # fmt: skip
    return uvicorn.Config(
        front, http=timed_protocol(front.limits), ws="none", lifespan="off", log_level="error", access_log=False,
        proxy_headers=False, server_header=False, date_header=False, timeout_graceful_shutdown=5,
        timeout_keep_alive=math.ceil(front.limits.header_seconds), h11_max_incomplete_event_size=16 << 10, **files,  # type: ignore[arg-type]
    )  # fmt: skip


async def serve(home: ServerHome, port: int) -> None:
    """Serve until SIGTERM."""
    address, limits = home.address(), Limits.read(home.limits)
    doorman = Doorman(limits)
    keys, authority = (None, None) if address.insecure else (AdmittedKeys(home), str(home.authority))
    async with upstream(port, authority) as client:
        front = Front(client, keys, limits)
        bound = "127.0.0.1" if address.host in LOOPBACK else "0.0.0.0"
        with listen(bound, address.port, doorman) as listening:
            counting = asyncio.create_task(write_counted(home, front, doorman))
            try:
                await uvicorn.Server(configuration(front, home, address)).serve(sockets=[listening])
            finally:
                counting.cancel()


def main() -> None:
    """Serve the home and the port that the command line names."""
    home, port = ServerHome.at(sys.argv[1]), int(sys.argv[2])
    limits = Limits.read(home.limits)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = limits.connections + OTHER_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
    TimedLoop.handshake_seconds = limits.header_seconds
    with asyncio.Runner(loop_factory=TimedLoop) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(serve(home, port))


if __name__ == "__main__":
    main()
