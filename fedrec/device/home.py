"""The folder of one device, and how it is enrolled: its key, its server, its person's policy, its store.

No torch, no Flower.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import platformdirs

from fedrec.device.backend import select_backend
from fedrec.device.consent.consent import ConsentPolicy, packages_of, policy_of, read_table, trusted
from fedrec.device.store import DeviceStore
from fedrec.errors import FedrecError, suggest
from fedrec.ops.keys import device_id, new_key
from fedrec.privacy.guarantee import Trust


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
    def log(self) -> Path:
        """What the device's process says."""
        return self.path / "device.log"

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
        return read_table(self.policy, name)

    def packages(self) -> tuple[str, ...]:
        """Return the packages whose classes this device's person lets be built here, beside fedrec's own."""
        return packages_of(self.table("packages"), str(self.policy))


def checked_table(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    """Build a dataclass from a table; a key that it lacks is an error that names the nearest."""
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            raise FedrecError(f"{where}.{key} does not exist.{suggest(key, known)}")
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


LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
POLICY = """# What this device allows. Nothing here is told to the server.

[participation]      # it trains only while all of these hold; what can't be told on a machine counts as true
idle = true
charging = true      # a machine without a battery always is
unmetered = true
# hours = "22-6"     # local time

[store]
# retention_days = 365   # forget what is older; without it, everything is kept until `fedrec client forget`

[limits]             # of what a server may make it do; every limit: docs, "Set a device's own limits"
seconds = 600        # of work for one request
memory_mib = 2048    # that this work may take
disk_mib = 1024      # that this folder may take

[sharing]
evaluation = false   # true: the server may ask how well this device is served, exact figures that no epsilon covers
"""


def enroll(
    home: Home,
    enrolment: Enrolment,
    certificate: str | None,
    again: bool = False,
    trust: Sequence[str] = (Trust.DEVICE,),
) -> list[str]:
    """Make the home with a key, the server's certificate and a policy; return what to do next, line by line.

    `trust` is whom the policy trusts: with "none" in it, rounds that protect nobody pass, for trying things.
    """
    trusted(list(trust), "--trust")
    host = check_address(enrolment.server)
    if certificate is None and host not in LOOPBACK:
        raise FedrecError(
            f"--server {enrolment.server} is not this machine: --ca FILE names the certificate (ca.crt) that "
            "`fedrec server up` made, copied from the server"
        )
    select_backend(enrolment.engine)
    if home.enrolment_file.exists() and not again:
        raise FedrecError(f"{home.path} is enrolled with {home.enrolment().server} already; --again changes that")
    if home.policy.exists() and not {*trust} - {Trust.DEVICE} <= {*ConsentPolicy.load(home.policy).trust}:
        raise FedrecError(f"{home.policy} is there already and trusts less: change its line trust = [...] yourself")
    home.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.path.chmod(0o700)
    kept = None
    if certificate is not None:
        kept = _certificate(home, Path(certificate))
    if not home.key.exists():
        private, public = new_key()
        write_private(home.public_key, public)
        write_private(home.key, private)
    if not home.policy.exists():
        write_private(home.policy, f"{POLICY}\n{policy_of(trust)}".encode())
    home.store().close()
    home.write_enrolment(Enrolment(enrolment.server, kept, enrolment.engine))
    return [
        f"Device {device_id(home.public_key.read_bytes())} in {home.path}",
        f"What it allows: {home.policy}",
        f"Next, on the server: fedrec server admit {home.public_key}",
        f"then here: fedrec client up --home {home.path}",
    ]


def _certificate(home: Home, path: Path) -> str:
    if not path.is_file() or b"BEGIN CERTIFICATE" not in path.read_bytes():
        raise FedrecError(f"--ca {path}: no certificate there; copy ca.crt from the server's home")
    if path.resolve() != home.certificate.resolve():
        shutil.copyfile(path, home.certificate)
    return str(home.certificate)


def check_address(address: str) -> str:
    """Return the host of "host:port"."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise FedrecError(f"--server {address}: a name and a port expected, such as 192.168.1.10:8000")
    return host
