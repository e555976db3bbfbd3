"""What both sides of a secure sum know of one attempt, and the values that they send each other.

An attempt is one try at one sum: its terms are public and part of every key, signature and hash in it, so that nothing
of it is worth anything in another. Five messages:

1. keys: each device sends fresh public keys and a commitment to its self-mask's seed, signed;
2. shares: told the roster of devices, it shares its two secrets among its neighbours, a sealed share for each;
3. vector: told who shared, it sends its numbers under its own mask and one with each neighbour who shared;
4. confirm: told whose vectors arrived, it signs that list, and no other;
5. unmask: told that a quorum signed the same list, it gives one share of each neighbour: of the self-mask's seed where
   the vector arrived, of the key of the pair masks where it did not.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", 2017, on the graph of
`fedrec.secure.graph`. That the model's hash goes into the masks is against servers that send each device another model
(Pasquini, Francati & Ateniese, "Eluding secure aggregation in federated learning via model inconsistency", 2022).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.privacy.grid import pack_bits, unpack_bits
from fedrec.secure.graph import LEAST, Circle, Graph, arrange_circle, plan_graph
from fedrec.secure.primitives import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    Identity,
    Word,
    Words,
    agree,
    derive,
    digest,
    is_signed,
    join,
    mask_words,
    take_apart,
)

VERSION = 1
MOST_BITS = 62
HASH_BYTES = 32
MASK_KEY, SEED = 0, 1  # the kinds of secrets that are shared: of the pair masks, of the self-mask


class Phase(IntEnum):
    """The five messages, in their order."""

    KEYS = 1
    SHARES = 2
    VECTOR = 3
    CONFIRM = 4
    UNMASK = 5


@dataclass(frozen=True, slots=True)
class SecureTerms:
    """The public terms of one attempt at a sum of vectors of `numbers` whole numbers, modulo 2^`bits`.

    `least` devices must be in the sum and at most `most` may be in the cohort; `corrupt` and `dropped` are the shares
    of it that may be corrupt and drop out. `experiment` is the hash of what the numbers are computed by.
    """

    run: str
    round: int
    attempt: int
    experiment: str
    numbers: int
    bits: int
    least: int
    most: int
    corrupt: float
    dropped: float

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MOST_BITS:
            raise FedrecError(f"a secure sum of {self.bits} bits: 1 to {MOST_BITS} expected")
        if not LEAST <= self.least <= self.most:
            raise FedrecError(f"a secure sum of {self.least} to {self.most} devices: at least {LEAST} expected")

    @property
    def context(self) -> bytes:
        """The hash of the terms and of the protocol's version."""
        return _context(self)

    @property
    def word(self) -> type[Word]:
        """The numbers that masks are made of."""
        return np.uint32 if self.bits <= 32 else np.uint64

    @property
    def packed_bytes(self) -> int:
        """How many bytes a packed vector has."""
        return 8 * self.bits * -(-self.numbers // 64)

    def pack(self, words: Words) -> bytes:
        """Return the words modulo 2^bits, packed."""
        low = words.astype(np.uint64) & np.uint64((1 << self.bits) - 1)
        return pack_bits(low, self.bits).astype("<u8", copy=False).tobytes()

    def unpack(self, content: bytes) -> Words:
        """Return the words that were packed; another number of bytes is `FedrecError`."""
        if len(content) != self.packed_bytes:
            raise FedrecError(f"a vector has {len(content)} bytes, not {self.packed_bytes}")
        words = np.frombuffer(content, "<u8").astype(np.uint64, copy=False)
        return unpack_bits(words, self.numbers, self.bits).astype(self.word)

    def lifted(self, words: Words) -> NDArray[np.int64]:
        """Return the whole numbers nearest to zero that these are modulo 2^bits."""
        shift = np.uint64(64 - self.bits)
        return (words.astype(np.uint64) << shift).view(np.int64) >> np.int64(shift)


@lru_cache(maxsize=64)
def _context(terms: SecureTerms) -> bytes:
    return digest("terms", bytes([VERSION]), json.dumps(asdict(terms), sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class Keys:
    """What a device says of itself first: whose it is, its two public keys, and what it commits to."""

    identity: bytes
    seal_key: bytes
    mask_key: bytes
    commitment: bytes
    signature: bytes

    @classmethod
    def signed_by(cls, identity: Identity, context: bytes, keys: tuple[bytes, bytes, bytes]) -> "Keys":
        """Return the keys of an identity for this context: seal key, mask key and commitment."""
        return cls(identity.public, *keys, identity.sign("keys", context, *keys))

    @classmethod
    def decode(cls, content: bytes) -> "Keys":
        """Return the keys that were encoded; anything else is `FedrecError`."""
        parts = take_apart(content, 5)
        if [len(part) for part in parts] != [KEY_BYTES, KEY_BYTES, KEY_BYTES, HASH_BYTES, SIGNATURE_BYTES]:
            raise FedrecError("keys have other lengths than keys have")
        return cls(*parts)

    def encode(self) -> bytes:
        """Return the keys as bytes."""
        return join(self.identity, self.seal_key, self.mask_key, self.commitment, self.signature)

    @property
    def digest(self) -> bytes:
        """The hash by which a roster names them."""
        return digest("keys", self.encode())

    def are_signed(self, context: bytes) -> bool:
        """Say whether the identity signed them for this context."""
        said = (self.seal_key, self.mask_key, self.commitment)
        return is_signed(self.identity, self.signature, "keys", context, *said)


@dataclass(frozen=True, slots=True)
class Member:
    """One line of a roster: an identity, what a registrar certifies it with, and the hash of its keys."""

    identity: bytes
    certificate: bytes
    keys: bytes

    def is_certified(self, registrar: bytes) -> bool:
        """Say whether the registrar with this public key vouches for the identity."""
        return is_signed(registrar, self.certificate, "device", self.identity)


class Roster:
    """The devices of an attempt, by identity ascending; whoever has the same roster has the same graph."""

    def __init__(self, terms: SecureTerms, members: Iterable[Member]) -> None:
        self.terms, self.members = terms, tuple(members)
        identities = [member.identity for member in self.members]
        if any(one >= other for one, other in pairwise(identities)):
            raise FedrecError("a roster names its devices once each, ascending")
        if len(identities) > terms.most:
            raise FedrecError(f"a roster of {len(identities)} devices: at most {terms.most} expected")
        self._circle: Circle | None = None
        self.places = {identity: place for place, identity in enumerate(identities)}

    def __len__(self) -> int:
        return len(self.members)

    @classmethod
    def decode(cls, terms: SecureTerms, content: bytes) -> "Roster":
        """Return the roster that was encoded; anything else is `FedrecError`."""
        parts = take_apart(content)
        if len(parts) % 3:
            raise FedrecError("a roster has three parts for each device")
        return cls(terms, (Member(*parts[at : at + 3]) for at in range(0, len(parts), 3)))

    @cached_property
    def encoded(self) -> bytes:
        """The roster as bytes."""
        return join(*(part for m in self.members for part in (m.identity, m.certificate, m.keys)))

    @cached_property
    def graph(self) -> Graph:
        """The numbers of its graph; `RefusedError` where so many devices have none."""
        return plan_graph(len(self), self.terms.corrupt, self.terms.dropped)

    @cached_property
    def root(self) -> bytes:
        """The hash that stands for the roster: it holds everybody's fresh keys."""
        return digest("roster", self.terms.context, self.encoded)

    @property
    def least(self) -> int:
        """How many devices must be in the sum."""
        return max(self.terms.least, self.graph.least)

    def neighbours_of(self, place: int) -> tuple[int, ...]:
        """Return the places of a device's neighbours, ascending."""
        if self._circle is None:
            self._circle = arrange_circle(len(self), self.root)
        return self._circle.neighbours_of(place, self.graph)

    def self_mask(self, seed: bytes, model: bytes) -> Words:
        """Return the mask that a device puts on its own vector."""
        key = derive(seed, "self mask", self.terms.context, self.root, model)
        return mask_words(key, self.terms.numbers, self.terms.word)

    def pair_mask(self, private: bytes, pair: tuple[Keys, Keys], model: bytes) -> Words:
        """Return the mask of two neighbours, by the private key of the first."""
        names = sorted(keys.identity for keys in pair)
        key = agree(private, pair[1].mask_key, "pair mask", self.terms.context, self.root, model, *names)
        return mask_words(key, self.terms.numbers, self.terms.word)


def share_key(private: bytes, public: bytes, context: bytes, dealer: bytes, holder: bytes) -> bytes:
    """Return the key under which a dealer's shares are sealed for a holder, by either's private key."""
    return agree(private, public, "sealed shares", context, dealer, holder)


def share_hash(context: bytes, ends: Sequence[bytes], kind: int, share: bytes) -> bytes:
    """Return what binds a dealer to the share of one kind of secret that it gave a holder: `ends` are the two."""
    return digest("share", context, *ends, bytes([kind]), share)


def pack_places(places: Iterable[int], devices: int) -> bytes:
    """Return a set of places on a roster as bits, the first place first."""
    flags = np.zeros(devices, np.uint8)
    flags[list(places)] = 1
    return np.packbits(flags).tobytes()


def unpack_places(content: bytes, devices: int) -> tuple[int, ...]:
    """Return the places, ascending, that were packed; bits beyond the roster are `FedrecError`."""
    flags = np.unpackbits(np.frombuffer(content, np.uint8))
    if len(content) != -(-devices // 8) or flags[devices:].any():
        raise FedrecError(f"a list of places on a roster of {devices} has {-(-devices // 8)} bytes")
    return tuple(np.flatnonzero(flags).tolist())


def split_evenly(content: bytes, size: int, count: int) -> Sequence[bytes]:
    """Return `count` pieces of `size` bytes; another number of bytes is `FedrecError`."""
    if len(content) != size * count:
        raise FedrecError(f"{count} pieces of {size} bytes are not {len(content)}")
    return [content[at : at + size] for at in range(0, len(content), size)]
