"""The folder of one server: its certificates, the devices admitted, Flower's database, where it listens."""

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from fedrec.errors import FedrecError
from fedrec.flower.superlink import CONNECTION, write_connection


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
    def registry(self) -> Path:
        """Which devices are admitted."""
        return self.path / "devices.sqlite"

    @property
    def status(self) -> Path:
        """How the run that was started last goes, for metrics."""
        return self.path / "status.json"

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

    def write_address(self, address: Address) -> None:
        """Write where the server listens, for our commands and for Flower's."""
        (self.path / "address.json").write_text(json.dumps(asdict(address)) + "\n")
        # The server's own commands come over loopback: its certificate names that too.
        write_connection(self.flower, CONNECTION, address.port, None if address.insecure else self.authority)
