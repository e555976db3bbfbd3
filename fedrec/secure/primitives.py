"""The cryptography of a secure sum, one function for each use: all of it from the `cryptography` package.

Whatever is hashed, signed, or made a key of, is first joined from parts with their lengths, under a label for the use:
no two uses, and no two lists of parts, are the same bytes.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fedrec.errors import FedrecError

KEY_BYTES, SIGNATURE_BYTES, TAG_BYTES = 32, 64, 16
LENGTH_BYTES = 4
ZEROS = bytes(1 << 16)

RandomBytes = Callable[[int], bytes]
Word = np.uint32 | np.uint64
Words = NDArray[Any]  # of one of them


def join(*parts: bytes) -> bytes:
    """Return the parts one after the other, each after its length in four bytes."""
    return b"".join(len(part).to_bytes(LENGTH_BYTES) + part for part in parts)


def take_apart(content: bytes, count: int | None = None) -> tuple[bytes, ...]:
    """Return the parts that were joined; anything else, or another `count` of them, is `FedrecError`."""
    found, at = list[bytes](), 0
    while at < len(content):
        start = at + LENGTH_BYTES
        at = start + int.from_bytes(content[at:start])
        if start > len(content) or at > len(content):
            raise FedrecError("a message of a secure sum is cut short")
        found.append(content[start:at])
    if count is not None and len(found) != count:
        raise FedrecError(f"a message of a secure sum has {len(found)} parts, not {count}")
    return tuple(found)


def digest(label: str, *parts: bytes) -> bytes:
    """Return the SHA-256 of the parts under a label."""
    return hashlib.sha256(join(b"fedrec secure sum", label.encode(), *parts)).digest()


@dataclass(frozen=True, slots=True)
class Identity:
    """An Ed25519 key: whoever holds `private` signs for `public`."""

    private: bytes

    @classmethod
    def new(cls, random: RandomBytes = os.urandom) -> "Identity":
        """Return a fresh identity."""
        return cls(random(KEY_BYTES))

    @property
    def public(self) -> bytes:
        """The 32 bytes that others know it by."""
        return Ed25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw()

    def sign(self, label: str, *parts: bytes) -> bytes:
        """Return the signature of the parts under a label."""
        return Ed25519PrivateKey.from_private_bytes(self.private).sign(digest(label, *parts))


def is_signed(public: bytes, signature: bytes, label: str, *parts: bytes) -> bool:
    """Say whether the holder of `public` signed the parts under this label."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, digest(label, *parts))
    except (InvalidSignature, ValueError):
        return False
    return True


def public_key(private: bytes) -> bytes:
    """Return the X25519 public key [32 bytes] of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes, label: str, *parts: bytes) -> bytes:
    """Return the key of 32 bytes that two parties share for a use; a public key that fixes it is `FedrecError`."""
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # a point of small order, whose secret everybody knows
        raise FedrecError("a public key that no honest device has") from error
    return derive(shared, label, *parts)


def derive(secret: bytes, label: str, *parts: bytes) -> bytes:
    """Return a key of 32 bytes for a use: HKDF-SHA256."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=digest(label, *parts)).derive(secret)


def seal(key: bytes, content: bytes, about: bytes) -> bytes:
    """Return the content encrypted and authenticated together with `about`, under a key that seals once."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), content, about)


def unseal(key: bytes, sealed: bytes, about: bytes) -> bytes | None:
    """Return what was sealed under this key about this; None where anything else is found."""
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, about)
    except (InvalidTag, ValueError):
        return None


def mask_words(key: bytes, numbers: int, kind: type[Word]) -> Words:
    """Return so many words that nobody without the key can tell from random ones: AES-256 in counter mode.

    A key makes one mask. The words are little-endian, on any machine.
    """
    stream, size = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor(), np.dtype(kind).itemsize * numbers
    content, at = bytearray(size + 15), 0
    while at < size:
        at += stream.update_into(ZEROS[: size - at], memoryview(content)[at:])
    return np.frombuffer(content, np.dtype(kind).newbyteorder("<"), numbers).astype(kind, copy=False)
