"""A device's side of a secure sum: what it answers, what it refuses, and the little that it must remember.

`SecureDevice.answer` is a function of the state before, so that a device can write the state after in one transaction
with what it did for it, and be killed at any time. The last request again gets the same bytes; any other request of a
phase that was answered is refused. A device's own secrets are gone from its state once its vector has left; what it
holds of its neighbours' once it has unmasked.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError, RefusedError
from fedrec.secure.attempt import (
    HASH_BYTES,
    Keys,
    Phase,
    Roster,
    SecureTerms,
    share_hash,
    share_key,
    split_evenly,
    unpack_places,
)
from fedrec.secure.primitives import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    Identity,
    RandomBytes,
    Words,
    digest,
    is_signed,
    join,
    public_key,
    seal,
    take_apart,
    unseal,
)
from fedrec.secure.shamir import SHARE_BYTES, split_secret

Vector = Callable[[], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What a device remembers of an attempt, as bytes: `phase` [1] is the last message that it answered.

    `asked` is the hash of that request and `reply` the answer. `secrets` are the private seal key, the private mask key
    and the self-mask's seed; `held` the shares of each neighbour's two secrets, empty where it holds none.
    """

    phase: bytes = b"\0"
    asked: bytes = b""
    reply: bytes = b""
    keys: bytes = b""
    secrets: bytes = b""
    roster: bytes = b""
    neighbours: bytes = b""
    sharers: bytes = b""
    held: bytes = b""
    model: bytes = b""
    survivors: bytes = b""

    @classmethod
    def decode(cls, content: bytes) -> "DeviceState":
        """Return the state that was encoded."""
        return cls(*take_apart(content, len(fields(cls))))

    def encode(self) -> bytes:
        """Return the state as bytes, to be kept where nobody else reads."""
        return join(*(getattr(self, field.name) for field in fields(self)))


class SecureDevice:
    """The device of an identity in an attempt on `terms`, which it computed by itself.

    With a `registrar`'s public key, it takes part with devices alone that this key certifies. `random(n)` gives n bytes
    that nobody can guess.
    """

    def __init__(
        self, terms: SecureTerms, identity: Identity, registrar: bytes = b"", random: RandomBytes = os.urandom
    ) -> None:
        self.terms, self._identity, self._registrar, self._random = terms, identity, registrar, random

    def answer(
        self, state: DeviceState, phase: Phase, request: bytes, model: bytes = b"", vector: Vector | None = None
    ) -> DeviceState:
        """Return the state after a request, its `reply` the answer; `RefusedError` says why there is none.

        For the vector, `model` is the hash of what the device was given to compute with, and `vector()` computes the
        numbers once all is checked.
        """
        asked, last = digest(f"request {phase:d}", request, model), state.phase[0]
        if phase == last and asked == state.asked:
            return state
        if phase != last + 1:
            raise RefusedError(f"a secure sum's message {phase:d} after {last}: each is answered once, in their order")
        try:
            after = self._answer(state, phase, request, model, vector)
        except RefusedError:
            raise
        except FedrecError as error:
            raise RefusedError(f"a message of the secure sum can't be understood: {error}") from error
        return replace(after, phase=bytes([phase]), asked=asked)

    def _answer(
        self, state: DeviceState, phase: Phase, request: bytes, model: bytes, vector: Vector | None
    ) -> DeviceState:
        match phase:
            case Phase.KEYS:
                return self._keys(state)
            case Phase.SHARES:
                return self._shares(state, request)
            case Phase.VECTOR:
                if vector is None or len(model) != HASH_BYTES:
                    raise RefusedError("a vector is computed with a model")
                return self._vector(state, request, model, vector)
            case Phase.CONFIRM:
                return self._confirm(state, request)
            case Phase.UNMASK:
                return self._unmask(state, request)

    def _keys(self, state: DeviceState) -> DeviceState:
        secrets = [self._random(KEY_BYTES) for _ in range(3)]
        said = public_key(secrets[0]), public_key(secrets[1]), commitment(secrets[2])
        keys = Keys.signed_by(self._identity, self.terms.context, said).encode()
        return replace(state, keys=keys, secrets=b"".join(secrets), reply=keys)

    def _shares(self, state: DeviceState, request: bytes) -> DeviceState:
        """Share both secrets among the neighbours that the roster gives this device."""
        lines, told = take_apart(request, 2)
        own, roster = Keys.decode(state.keys), Roster.decode(self.terms, lines)
        place = self._checked_place(roster, own)
        places = roster.neighbours_of(place)
        neighbours = [Keys.decode(content) for content in take_apart(told, len(places))]
        self._check_neighbours(roster, own, places, neighbours)
        secrets, context = split_evenly(state.secrets, KEY_BYTES, 3), self.terms.context
        numbers = roster.graph.neighbours, roster.graph.threshold
        pairs = zip(*(split_secret(secret, *numbers, self._random) for secret in secrets[1:]), strict=True)
        sealed, hashes = list[bytes](), b""
        for keys, pair in zip(neighbours, pairs, strict=True):
            shares, ends = b"".join(pair), (own.identity, keys.identity)
            key = share_key(secrets[0], keys.seal_key, context, *ends)
            sealed.append(seal(key, shares, context))
            hashes += b"".join(share_hash(context, ends, kind, share) for kind, share in enumerate(pair))
        signature = self._identity.sign("shares", context, roster.root, hashes)
        reply = join(b"".join(sealed), hashes, signature)
        return replace(state, roster=lines, neighbours=told, reply=reply)

    def _checked_place(self, roster: Roster, own: Keys) -> int:
        """Return this device's place on a roster that it may take part in."""
        place = roster.places.get(own.identity)
        if place is None or roster.members[place].keys != own.digest:
            raise RefusedError("the roster does not hold this device with its own keys")
        if len(roster) < roster.least:
            raise RefusedError(f"the roster has {len(roster)} devices: this device wants {roster.least}")
        if self._registrar and not all(member.is_certified(self._registrar) for member in roster.members):
            raise RefusedError("the roster has a device that the registrar does not vouch for")
        return place

    def _check_neighbours(self, roster: Roster, own: Keys, places: Sequence[int], neighbours: Sequence[Keys]) -> None:
        for place, keys in zip(places, neighbours, strict=True):
            member = roster.members[place]
            if keys.identity != member.identity or keys.digest != member.keys:
                raise RefusedError("a neighbour's keys are not those on the roster")
            if not keys.are_signed(self.terms.context):
                raise RefusedError("a neighbour's keys are not signed by it for this sum")
        fresh = [key for keys in (own, *neighbours) for key in (keys.seal_key, keys.mask_key)]
        if len(set(fresh)) < len(fresh):
            raise RefusedError("two devices say that they have the same key")

    def _vector(self, state: DeviceState, request: bytes, model: bytes, vector: Vector) -> DeviceState:
        """Open what neighbours shared, compute the numbers, and mask them."""
        bits, told = take_apart(request, 2)
        roster, own = Roster.decode(self.terms, state.roster), Keys.decode(state.keys)
        place = roster.places[own.identity]
        sharers = self._checked_list(roster, place, unpack_places(bits, len(roster)))
        neighbours, secrets = self._neighbours(roster, place, state), split_evenly(state.secrets, KEY_BYTES, 3)
        parts = dict(zip(neighbours, take_apart(told, len(neighbours)), strict=True))
        held = [self._opened(secrets[0], own, neighbours[p], parts[p]) if p in sharers else b"" for p in neighbours]
        values = vector()
        if values.shape != (self.terms.numbers,) or values.dtype.kind != "i":
            raise RefusedError(f"{values.size} {values.dtype} numbers: the sum is of {self.terms.numbers} whole ones")
        words: Words = values.astype(np.int64).view(np.uint64).astype(self.terms.word)
        words += roster.self_mask(secrets[2], model)
        for other, keys in neighbours.items():
            if other in sharers:
                mask = roster.pair_mask(secrets[1], (own, keys), model)
                words += mask if place < other else -mask
        # The masks can't be made again: whoever reads this device from now on finds no secret of its own.
        reply = self.terms.pack(words)
        return replace(state, secrets=b"", sharers=bits, held=join(*held), model=model, reply=reply)

    def _opened(self, private: bytes, own: Keys, dealer: Keys, told: bytes) -> bytes:
        """Return a neighbour's two shares; nothing where they are not what it signed for, as the server has it."""
        context, ends = self.terms.context, (dealer.identity, own.identity)
        shares = unseal(share_key(private, dealer.seal_key, context, *ends), told[2 * HASH_BYTES :], context) or b""
        pair = shares[:SHARE_BYTES], shares[SHARE_BYTES:]
        hashes = b"".join(share_hash(context, ends, kind, share) for kind, share in enumerate(pair))
        return shares if len(shares) == 2 * SHARE_BYTES and hashes == told[: 2 * HASH_BYTES] else b""

    def _checked_list(self, roster: Roster, place: int, places: tuple[int, ...]) -> frozenset[int]:
        """Return a list of devices who are left, where it holds this one and enough others."""
        left = frozenset(places)
        if place not in left or len(left) < roster.least:
            raise RefusedError(f"{len(left)} devices are left: this device wants {roster.least}, itself among them")
        near = len(left.intersection(roster.neighbours_of(place)))
        if near < roster.graph.threshold:
            raise RefusedError(f"{near} neighbours are left: this device wants {roster.graph.threshold}")
        return left

    def _confirm(self, state: DeviceState, request: bytes) -> DeviceState:
        roster = Roster.decode(self.terms, state.roster)
        place = roster.places[self._identity.public]
        survivors = self._checked_list(roster, place, unpack_places(request, len(roster)))
        if not survivors <= set(unpack_places(state.sharers, len(roster))):
            raise RefusedError("a device is said to have sent a vector that never shared its secrets")
        reply = self._identity.sign("survivors", *survivors_signed(roster, state.model, request))
        return replace(state, survivors=request, reply=reply)

    def _unmask(self, state: DeviceState, request: bytes) -> DeviceState:
        """Give a share of each neighbour, of one secret alone, where a quorum signed the list that this device did."""
        roster = Roster.decode(self.terms, state.roster)
        bits, told = take_apart(request, 2)
        signers, survivors = (unpack_places(part, len(roster)) for part in (bits, state.survivors))
        signatures = split_evenly(told, SIGNATURE_BYTES, len(signers))
        said = survivors_signed(roster, state.model, state.survivors)
        if len(signers) < roster.graph.quorum or not set(signers) <= set(survivors):
            raise RefusedError(f"{len(signers)} devices signed who is left: this device wants {roster.graph.quorum}")
        for signer, signature in zip(signers, signatures, strict=True):
            if not is_signed(roster.members[signer].identity, signature, "survivors", *said):
                raise RefusedError("a signature under who is left is not that of its device")
        place = roster.places[self._identity.public]
        held = dict(zip(roster.neighbours_of(place), take_apart(state.held), strict=True))
        given = [pair[SHARE_BYTES:] if p in survivors else pair[:SHARE_BYTES] for p, pair in held.items()]
        return replace(state, held=b"", neighbours=b"", reply=join(*given))

    def _neighbours(self, roster: Roster, place: int, state: DeviceState) -> dict[int, Keys]:
        keys = (Keys.decode(content) for content in take_apart(state.neighbours))
        return dict(zip(roster.neighbours_of(place), keys, strict=True))


def commitment(seed: bytes) -> bytes:
    """Return what binds a device to its self-mask's seed and tells nothing of it."""
    return digest("self-mask seed", seed)


def survivors_signed(roster: Roster, model: bytes, survivors: bytes) -> tuple[bytes, ...]:
    """Return what a device signs of who is left: the terms, the roster, the model and the list."""
    return roster.terms.context, roster.root, model, survivors
