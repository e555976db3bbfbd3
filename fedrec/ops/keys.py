"""Keys of devices: an elliptic-curve key each, in OpenSSH's format; whoever holds it can prove to be that device.

Flower authenticates the connection with it; our own hello is signed with it too, so that a message is known to be from
an admitted device however it came.
"""

import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedrec.errors import FedrecError

PURPOSE = b"fedrec hello\0"  # so that a signature is good for nothing else
SIGNING = ec.ECDSA(hashes.SHA256())


def new_key() -> tuple[bytes, bytes]:
    """Return a fresh (private, public) pair as OpenSSH writes them."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public + b"\n"


def device_id(public: bytes) -> str:
    """Return the opaque name of the device with this public key: 32 hexadecimal digits."""
    return hashlib.sha256(_public(public)[1]).hexdigest()[:32]


def sign(private: bytes, text: str) -> str:
    """Return the signature of a text, as hexadecimal digits."""
    key = serialization.load_ssh_private_key(private, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FedrecError("the device's key is not an elliptic-curve key: enroll again")
    return key.sign(PURPOSE + text.encode(), SIGNING).hex()


def signed(public: bytes, text: str, signature: str) -> bool:
    """Say whether the holder of this public key signed the text."""
    try:
        _public(public)[0].verify(bytes.fromhex(signature), PURPOSE + text.encode(), SIGNING)
    except (InvalidSignature, ValueError):
        return False
    return True


def _public(content: bytes) -> tuple[ec.EllipticCurvePublicKey, bytes]:
    """Return the key, and its bytes without a comment."""
    try:
        key = serialization.load_ssh_public_key(content.strip())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FedrecError("not a public key as `fedrec client enroll` writes it (device.pub)") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise FedrecError("a public key, but not an elliptic-curve one: take the device.pub of `fedrec client enroll`")
    return key, key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
