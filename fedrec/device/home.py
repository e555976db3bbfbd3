"""The folder of one device: its key, its server, its person's policy, its store. No torch, no Flower."""

import json
import os
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import platformdirs

from fedrec.device.store import DeviceStore
from fedrec.errors import FedrecError, nearest


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Where this device belongs: the server's address, the certificate that it must show (none: loopback, no TLS)."""

    server: str
    certificate: str | None = None
    engine: str = "auto"


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of one device; everything in it is for its owner only."""

    path: Path

    @classmethod
    def at(cls, path: str | None) -> "Home":
        """Return the home at a path; None: FEDREC_HOME, else the platform's place."""
        chosen = path or os.environ.get("FEDREC_HOME") or str(platformdirs.user_state_path("fedrec") / "device")
        return cls(Path(chosen).absolute())

    @property
    def key(self) -> Path:
        """The device's private key; the public one lies beside it, as .pub."""
        return self.path / "device.key"

    @property
    def public_key(self) -> Path:
        """What the server's operator admits."""
        return self.path / "device.pub"

    @property
    def certificate(self) -> Path:
        """The certificate that the server must show."""
        return self.path / "server.crt"

    @property
    def policy(self) -> Path:
        """What this device's person allows."""
        return self.path / "policy.toml"

    @property
    def ledger(self) -> Path:
        """What this device has taken part in, and what that cost."""
        return self.path / "ledger.sqlite"

    @property
    def enrolment_file(self) -> Path:
        """Where the device belongs."""
        return self.path / "enrolment.json"

    def enrolment(self) -> Enrolment:
        """Return where the device belongs; one that was never enrolled is an error."""
        if not self.enrolment_file.exists():
            raise FedrecError(
                f"{self.path} is no device yet: fedrec client enroll --home {self.path} --server HOST:PORT"
            )
        try:
            return Enrolment(**json.loads(self.enrolment_file.read_text()))
        except (ValueError, TypeError) as error:
            raise FedrecError(f"{self.enrolment_file} is damaged ({error}): enroll again with --again") from error

    def write_enrolment(self, enrolment: Enrolment) -> None:
        """Write where the device belongs."""
        write_private(self.enrolment_file, json.dumps(asdict(enrolment), indent=2).encode() + b"\n")

    def store(self) -> DeviceStore:
        """Open the device's store."""
        return DeviceStore(self.path / "store.sqlite")

    def table(self, name: str) -> dict[str, Any]:
        """Return one table of policy.toml; empty where there is none."""
        if not self.policy.exists():
            return {}
        try:
            document = tomllib.loads(self.policy.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FedrecError(f"{self.policy}: {error}") from error
        found = document.get(name, {})
        if not isinstance(found, dict):
            raise FedrecError(f"{self.policy}: {name} must be a table, [{name}]")
        return cast(dict[str, Any], found)


def checked_table(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    """Build a dataclass from a table; a key that it lacks is an error that names the nearest."""
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            raise FedrecError(f"{where}.{key} does not exist.{nearest(key, known)}")
    return kind(**values)


def write_private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
