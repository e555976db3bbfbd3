"""The devices admitted: a row each, in the order of admission, for ever: a row is whose privacy was spent."""

import contextlib
import os
import sqlite3
from collections.abc import Generator
from dataclasses import dataclass

from fedrec.errors import FedrecError
from fedrec.ops.keys import device_id
from fedrec.server.home import ServerHome

SCHEMA = """create table if not exists devices (row integer primary key, device text not null unique,
            key blob not null, registered integer not null default 0)"""


@dataclass(frozen=True, slots=True)
class Admitted:
    """One device: its row of the population, its opaque name, its public key, and whether Flower knows the key."""

    row: int
    device: str
    key: bytes
    registered: bool


class Registry:
    """The admitted devices of one server."""

    def __init__(self, home: ServerHome) -> None:
        home.make()
        os.close(os.open(home.registry, os.O_RDWR | os.O_CREAT, 0o600))
        self._path = home.registry

    @contextlib.contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=30)
        try:
            connection.execute(SCHEMA)
            with connection:
                yield connection
        finally:
            connection.close()

    def admit(self, key: bytes) -> tuple[Admitted, bool]:
        """Return the device of a public key, and whether it is new."""
        name = device_id(key)
        with self._open() as connection:
            new = connection.execute(
                "insert or ignore into devices (row, device, key) values ((select count(*) from devices), ?, ?)",
                [name, key.strip()],
            ).rowcount
        return self.devices()[name], bool(new)

    def devices(self) -> dict[str, Admitted]:
        """Return every admitted device by its name, in the order of rows."""
        with self._open() as connection:
            rows = connection.execute("select row, device, key, registered from devices order by row").fetchall()
        return {device: Admitted(row, device, key, bool(registered)) for row, device, key, registered in rows}

    def registered(self, device: str) -> None:
        """Remember that Flower knows the device's key."""
        with self._open() as connection:
            connection.execute("update devices set registered = 1 where device = ?", [device])


def count(home: ServerHome) -> int:
    """Return how many devices are admitted; none is an error."""
    found = len(Registry(home).devices()) if home.registry.exists() else 0
    if not found:
        raise FedrecError(
            f"{home.path}: no device is admitted; fedrec server admit KEY.pub (from fedrec client enroll)"
        )
    return found
