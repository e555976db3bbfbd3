"""`python -m fedrec.flower.own_superlink ARGUMENTS`: a SuperLink that answers its own user's processes alone.

Flower asks nobody on loopback who he is: every user of the machine could start a run, that is, code, as the server's
user. Linux tells whose a loopback connection is, and a connection can't be handed to another user's name.

It also outlives a machine that is busy: Flower waits five seconds for its data base, and its SuperExec, which starts
runs, ends at the first answer that says so. Every run after that would wait for ever.
"""

import importlib
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

CONNECTIONS = Path("/proc/net/tcp")
LOCK_SECONDS = 60
CACHE_KIB = 256  # of each of some 15 connections: 2 MB each would fill as the data base grows
AGAIN = 'while kill -0 "$0" 2>/dev/null && ! "$@"; do sleep 1; done'  # $0 is the SuperLink


def _hexadecimal(host: str, port: int) -> str:
    """Return an IPv4 address as Linux lists it."""
    (number,) = struct.unpack("=I", socket.inet_aton(host))
    return f"{number:08X}:{port:04X}"


def owner(client: tuple[str, int], server: tuple[str, int]) -> int | None:
    """Return the user whose process holds the client's end of a connection of this machine; None: nobody is known.

    An end that its process has closed belongs to nobody: Linux lists it as root's, without an inode.
    """
    try:
        wanted = [_hexadecimal(*client), _hexadecimal(*server)]
        lines = CONNECTIONS.read_text().splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        parts = line.split()
        if parts[1:3] == wanted:
            return int(parts[7]) if int(parts[9]) else None
    return None


def can_tell() -> bool:
    """Say whether this system tells whose a loopback connection is."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as end:
        return owner(end.getsockname(), listening.getsockname()) == os.geteuid()


class OwnerOnly:
    """ASGI middleware that answers 403 to every process of another user."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on where the connection is our own."""
        if scope["type"] == "lifespan" or owner(scope["client"], scope["server"]) == os.geteuid():
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await PlainTextResponse("another user's process\n", 403)(scope, receive, send)


def start_again(command: list[str]) -> list[str]:
    """Return a command that runs this one anew whenever it fails, as long as this process lives."""
    return ["/bin/sh", "-c", AGAIN, str(os.getpid()), *command]


def endure() -> None:
    """Let Flower wait longer for its data base, hold less of it, and start its SuperExec again where it ended."""
    database: Any = importlib.import_module("flwr.supercore.sql_mixin")
    own = ("busy_timeout", str(LOCK_SECONDS * 1000)), ("cache_size", str(-CACHE_KIB))
    database.SQLITE_PRAGMAS = (*database.SQLITE_PRAGMAS, *own)
    program: Any = importlib.import_module("flwr.superlink.cli.flower_superlink")
    launch = program._get_superexec_command

    def kept(*arguments: object, **named: object) -> list[str]:
        return start_again(launch(*arguments, **named))

    program._get_superexec_command = kept


def main() -> None:
    """Run the SuperLink, guarded where the system can tell."""
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink

    endure()
    if can_tell():
        before = extensions.get_middleware
        extensions.get_middleware = lambda: (Middleware(OwnerOnly), *before())
    flower_superlink()


if __name__ == "__main__":
    sys.argv[0] = "flower-superlink"
    main()
