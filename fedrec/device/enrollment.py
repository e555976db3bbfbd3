"""`fedrec client enroll`: a key of this device's own, where it belongs, and what its person allows."""

import shutil
from pathlib import Path

from fedrec.device.backend import chosen
from fedrec.device.consent.policy import TEMPLATE
from fedrec.device.home import Enrolment, Home, write_private
from fedrec.errors import FedrecError
from fedrec.ops.keys import device_id, new_key

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
POLICY = """# What this device allows. Nothing here is told to the server.

[participation]      # it trains only while all of these hold; what can't be told on a machine counts as true
idle = true
charging = true      # a machine without a battery always is
unmetered = true
# hours = "22-6"     # local time

[store]
# retention_days = 365   # forget what is older; without it, everything is kept until `fedrec client forget`

[sharing]
evaluation = false   # true: the server may ask how well this device is served, exact figures that no epsilon covers
"""


def enroll(
    home: Home, enrolment: Enrolment, certificate: str | None, again: bool = False, unprotected: bool = False
) -> list[str]:
    """Make the home with a key, the server's certificate and a policy; return what to do next, line by line.

    With `unprotected`, the policy also allows rounds that protect nobody: for trying things.
    """
    host = check_address(enrolment.server)
    if certificate is None and host not in LOOPBACK:
        raise FedrecError(
            f"--server {enrolment.server} is not this machine: --ca FILE names the certificate (ca.crt) that "
            "`fedrec server up` made, copied from the server"
        )
    chosen(enrolment.engine)
    if home.enrolment_file.exists() and not again:
        raise FedrecError(f"{home.path} is enrolled with {home.enrolment().server} already; --again changes that")
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
        privacy = TEMPLATE.replace('"server"]', '"server", "none"]') if unprotected else TEMPLATE
        write_private(home.policy, f"{POLICY}\n{privacy}".encode())
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
