"""The folder of one server: its certificates, the devices admitted, Flower's database, where it listens.

The devices admitted: a row each, in the order of admission, for ever: a row is whose privacy was spent.
"""

import contextlib
import json
import os
import secrets
import sqlite3
import stat
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from fedrec.errors import FedrecError
from fedrec.flower.superlink import CONNECTION, write_connection
from fedrec.ops.keys import device_id


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens: `host` as devices call it, and whether without TLS (loopback only)."""

    host: str
    port: int
    insecure: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServerHome:
    """Paths of one server."""

    path: Path

    @classmethod
    def at(cls, path: str | None) -> "ServerHome":
        """Return the home at a path; None: FEDREC_SERVER, else the platform's place."""
        chosen = path or os.environ.get("FEDREC_SERVER") or str(platformdirs.user_state_path("fedrec") / "server")
        return cls(Path(chosen).absolute())

    @property
    def certificates(self) -> Path:
        """Where the certificates lie; `ca.crt` is what devices are given."""
        return self.path / "certificates"

    @property
    def authority(self) -> Path:
        """The certificate that devices check the server's against."""
        return self.certificates / "ca.crt"

    @property
    def flower(self) -> Path:
        """Flower's own folder."""
        return self.path / "flower"

    @property
    def log(self) -> Path:
        """What Flower says."""
        return self.path / "flower.log"

    @property
    def front_log(self) -> Path:
        """What the front says."""
        return self.path / "front.log"

    @property
    def registry(self) -> Path:
        """Which devices are admitted."""
        return self.path / "devices.sqlite"

    @property
    def status(self) -> Path:
        """How the run that was started last goes, for metrics."""
        return self.path / "status.json"

    @property
    def database(self) -> Path:
        """What Flower remembers."""
        return self.path / "flower.sqlite"

    @property
    def limits(self) -> Path:
        """What the server takes from outside, where that was changed."""
        return self.path / "limits.toml"

    @property
    def counted(self) -> Path:
        """What the front passed and refused, for metrics."""
        return self.path / "front.json"

    @property
    def ended(self) -> Path:
        """Why the server ended by itself; there while it has not come up again."""
        return self.path / "ended.txt"

    def protect(self) -> bool:
        """Take from all other users what lies here; return whether the folder was open to them."""
        os.close(os.open(self.database, os.O_RDWR | os.O_CREAT, 0o600))  # its journals take its mode
        opened = bool(stat.S_IMODE(self.path.stat().st_mode) & 0o077)
        for path in (self.path, *self.path.rglob("*")):
            mode = stat.S_IMODE(path.lstat().st_mode)
            if not path.is_symlink() and mode & 0o077:
                path.chmod(mode & 0o700)
        return opened

    def make(self) -> None:
        """Make the folder, for its owner only, and give this server a name of its own."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (self.path / "name").exists():
            (self.path / "name").write_text(f"devices-{secrets.token_hex(6)}\n")

    @property
    def population(self) -> str:
        """The name under which the privacy of this server's devices is accounted."""
        return (self.path / "name").read_text().strip()

    def address(self) -> Address:
        """Return where the server listens or listened last."""
        try:
            return Address(**json.loads((self.path / "address.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise FedrecError(f"{self.path} is no server yet: fedrec server up --home {self.path}") from error

    def write_address(self, address: Address, port: int) -> None:
        """Write where the server listens, for our commands, and its SuperLink's loopback port, for Flower's."""
        (self.path / "address.json").write_text(json.dumps(asdict(address)) + "\n")
        write_connection(self.flower, CONNECTION, port, None if address.insecure else self.authority)


SCHEMA = """create table if not exists devices (row integer primary key, device text not null unique,
            key blob not null, registered integer not null default 0, revoked integer not null default 0)"""


@dataclass(frozen=True, slots=True)
class Admitted:
    """One device: its row of the population, its opaque name, its public key, whether Flower knows the key, and
    whether it may no longer take part."""

    row: int
    device: str
    key: bytes
    registered: bool
    revoked: bool = False


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
            if "revoked" not in {column[1] for column in connection.execute("pragma table_info(devices)")}:
                connection.execute("alter table devices add column revoked integer not null default 0")
            with connection:
                yield connection
        finally:
            connection.close()

    def admit(self, key: bytes) -> tuple[Admitted, bool]:
        """Return the device of a public key, and whether it is new; one that was revoked may take part again."""
        name = device_id(key)
        with self._open() as connection:
            new = connection.execute(
                "insert or ignore into devices (row, device, key) values ((select count(*) from devices), ?, ?)",
                [name, key.strip()],
            ).rowcount
            connection.execute("update devices set revoked = 0 where device = ?", [name])
        return self.devices()[name], bool(new)

    def devices(self) -> dict[str, Admitted]:
        """Return every device that was ever admitted by its name, in the order of rows."""
        with self._open() as connection:
            columns = "row, device, key, registered, revoked"
            rows = connection.execute(f"select {columns} from devices order by row").fetchall()
        return {
            device: Admitted(row, device, key, bool(registered), bool(revoked))
            for row, device, key, registered, revoked in rows
        }

    def admitted(self) -> list[Admitted]:
        """Return the devices that may take part now."""
        return [device for device in self.devices().values() if not device.revoked]

    def revoked(self) -> set[int]:
        """Return the rows of devices that may not take part now."""
        with self._open() as connection:
            return {row for (row,) in connection.execute("select row from devices where revoked")}

    def revoke(self, device: str) -> None:
        """Let a device take part no more; its row stays, as what was spent on it does."""
        with self._open() as connection:
            if not connection.execute("update devices set revoked = 1 where device = ?", [device]).rowcount:
                raise FedrecError(f"no device {device} was admitted; fedrec server status --json names those that were")

    def registered(self, device: str) -> None:
        """Remember that Flower knows the device's key."""
        with self._open() as connection:
            connection.execute("update devices set registered = 1 where device = ?", [device])


def count(home: ServerHome) -> int:
    """Return how many devices were ever admitted, the population; none that may take part is an error."""
    registry = Registry(home)
    if not home.registry.exists() or not registry.admitted():
        raise FedrecError(
            f"{home.path}: no device is admitted; fedrec server admit KEY.pub (from fedrec client enroll)"
        )
    return len(registry.devices())
