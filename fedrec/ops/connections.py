"""Connections from strangers: how many there may be, how long each may take, and how often one may ask."""

import asyncio
import socket
import ssl
import time
import tomllib
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from fedrec.errors import FedrecError

REMEMBERED = 4096  # addresses or devices whose rate is known at a time
LOOK_SECONDS = 1.0
BURST_SECONDS = 2.0
ANSWER_SECONDS = 60.0  # the server's own share of a request


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes from outside; every one is a key of `limits.toml` in its home."""

    body_mib: float = 64.0  # of one request; Flower sends arrays in parts of 5 MB
    header_seconds: float = 15.0  # from the connection, or the last answer, to the end of the next headers
    body_seconds: float = 30.0
    connections: int = 1000
    address_connections: int = 100
    address_requests_per_second: float = 500.0
    device_requests_per_second: float = 100.0

    @property
    def body_bytes(self) -> int:
        """The longest body."""
        return int(self.body_mib * (1 << 20))

    @classmethod
    def read(cls, path: Path) -> "Limits":
        """Return the limits that a file sets, the others as they are; no file sets none."""
        if not path.exists():
            return cls()
        try:
            given: dict[str, Any] = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise FedrecError(f"{path}: {error}") from error
        kinds = {each.name: type(each.default) for each in fields(cls)}
        for name, value in given.items():
            if name not in kinds:
                raise FedrecError(f"{path}: {name} is no limit; there are {', '.join(kinds)}")
            whole = kinds[name] is int
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not 0 < value < 1e9:
                raise FedrecError(f"{path}: {name} = {value}: a {'whole ' if whole else ''}number over 0 expected")
        return cls(**given)


class Rate:
    """A token bucket for each of the last few thousand who asked."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._clock = per_second, clock
        self._left = OrderedDict[Hashable, tuple[float, float]]()

    def take(self, who: Hashable) -> bool:
        """Say whether `who` may ask once more now."""
        now, most = self._clock(), max(self._per_second * BURST_SECONDS, 1.0)
        left, since = self._left.pop(who, (most, now))
        left = min(left + (now - since) * self._per_second, most)
        self._left[who] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        return left >= 1


class CountedSocket(socket.socket):
    """A connection that says when it is closed."""

    ended: Callable[[], None] | None = None

    def close(self) -> None:
        """Close it; the first time, say so."""
        super().close()
        if self.ended is not None:
            ended, self.ended = self.ended, None
            ended()


@dataclass
class Doorman:
    """Counts connections as they are accepted, before TLS, and refuses those over the limits."""

    limits: Limits
    here: Counter[str] = field(default_factory=Counter[str])
    refused: int = 0

    def admit(self, connection: CountedSocket, address: str) -> bool:
        """Say whether one more may stay; one that may not is closed."""
        if self.here.total() >= self.limits.connections or self.here[address] >= self.limits.address_connections:
            self.refused += 1
            connection.close()
            return False
        self.here[address] += 1
        connection.ended = lambda: self.leave(address)
        return True

    def leave(self, address: str) -> None:
        """Count one less."""
        self.here[address] -= 1
        if not self.here[address]:
            del self.here[address]


class GuardedSocket(socket.socket):
    """A listening socket whose doorman sees every connection first."""

    doorman: Doorman

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection that may stay; raise BlockingIOError where none waits, as asyncio expects."""
        while True:
            descriptor, address = self._accept()  # type: ignore[attr-defined]
            connection = CountedSocket(self.family, self.type, self.proto, fileno=descriptor)
            if self.doorman.admit(connection, str(address[0])):
                return connection, address


def listen(host: str, port: int, doorman: Doorman) -> GuardedSocket:
    """Return a socket that listens; `host` is an address."""
    listening = GuardedSocket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.doorman = doorman
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(256)
    listening.setblocking(False)
    return listening


class TimedLoop(asyncio.SelectorEventLoop):
    """An event loop in which a TLS handshake has as long as headers have."""

    handshake_seconds = Limits.header_seconds

    async def create_server(self, *arguments: Any, **named: Any) -> asyncio.Server:
        """Create a server; uvicorn leaves the handshake a minute."""
        if isinstance(named.get("ssl"), ssl.SSLContext):
            named["ssl_handshake_timeout"] = self.handshake_seconds
            named["ssl_shutdown_timeout"] = 5.0
        return await super().create_server(*arguments, **named)


def timed_protocol(limits: Limits) -> type[H11Protocol]:
    """Return uvicorn's HTTP/1.1 whose connections end when headers, or a whole request, take too long.

    Uvicorn itself waits for ever for the headers of a first request, and for a reader who doesn't read.
    """

    class TimedProtocol(H11Protocol):
        phase: tuple[object, bool] | None = None
        since: float = 0.0
        next_look: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.look()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.next_look is not None:
                self.next_look.cancel()
                self.next_look = self.phase = None  # they would keep the connection's buffers for a while

        def look(self) -> None:
            """End what takes too long; look again in a second."""
            waiting = not self.cycle or self.cycle.response_complete  # none before the first request
            # The request itself, held: its id would be a later one's too, and a busy connection pass for an idle one.
            now, phase = self.loop.time(), (self.cycle, waiting)
            if phase != self.phase:
                self.phase, self.since = phase, now
            allowed = limits.header_seconds if waiting else 2 * limits.body_seconds + ANSWER_SECONDS
            if now - self.since >= allowed:
                self.transport.abort()
                return
            self.next_look = self.loop.call_later(LOOK_SECONDS, self.look)

    return TimedProtocol
