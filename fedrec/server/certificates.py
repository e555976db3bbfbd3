"""The server's own certificates: an authority made once, and a certificate for the names under which it is reached."""

import datetime
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS, SERVER_DAYS, RENEW_DAYS = 3650, 397, 30
ALWAYS = ("localhost", "127.0.0.1", "::1")


def ensure(folder: Path, names: Sequence[str]) -> list[str]:
    """Make what is missing, renew what runs out or lacks a name; return what was done, one line each."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    wanted, done = sorted({*ALWAYS, socket.gethostname(), *names}), list[str]()
    if not (folder / "ca.key").exists():
        _make_authority(folder)
        done.append(f"made an authority of this server's own: {folder / 'ca.crt'}")
    if not _fits(folder / "server.crt", wanted):
        _make_server(folder, wanted)
        done.append(f"made a certificate for {', '.join(wanted)}")
    return done


def _fits(path: Path, wanted: Sequence[str]) -> bool:
    """Say whether the certificate is there, names all that is wanted and lasts a while."""
    if not path.exists():
        return False
    made = x509.load_pem_x509_certificate(path.read_bytes())
    alternatives = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    named = {str(found.value) for found in alternatives}
    left = made.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return set(wanted) <= named and left.days >= RENEW_DAYS


def _make_authority(folder: Path) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), _name("fedrec authority")
    builder = _builder(name, name, key.public_key(), AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    _write(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    _write(folder / "ca.key", _private(key), 0o600)


def _make_server(folder: Path, names: Sequence[str]) -> None:
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signing = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name("fedrec server"), authority.subject, key.public_key(), SERVER_DAYS)
    builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(n) for n in names]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),  # type: ignore[arg-type]
        critical=False,
    )
    certificate = builder.sign(signing, hashes.SHA256())  # type: ignore[arg-type]
    _write(folder / "server.key", _private(key), 0o600)
    _write(folder / "server.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    # An hour back: a device's clock may be late.
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    fresh.replace(path)
