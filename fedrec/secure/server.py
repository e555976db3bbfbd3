"""A server's side of a secure sum: who is in it, what each is asked, and the sum when it may be had.

The five phases follow each other: `requests` says what each device is asked, `receive` takes an answer or says what is
wrong with it, `close` goes on with those who answered. `total` then gives the exact sum over all whose vectors arrived,
whoever dropped out meanwhile. Where too few are left there is no sum, and nothing that arrived can be unmasked later.
"""

import os
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.messages import RejectedReplyError
from fedrec.secure.attempt import (
    HASH_BYTES,
    MASK_KEY,
    SEED,
    Keys,
    Member,
    Phase,
    Roster,
    SecureTerms,
    pack_places,
    share_hash,
    split_evenly,
)
from fedrec.secure.device import commitment, survivors_signed
from fedrec.secure.primitives import (
    KEY_BYTES,
    TAG_BYTES,
    Words,
    agree,
    is_signed,
    join,
    public_key,
    take_apart,
)
from fedrec.secure.shamir import SHARE_BYTES, rebuild_secret

SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES


class LostSumError(FedrecError):
    """Too few devices are left, or one of them made a sum impossible: there is none, and the attempt is over."""


class SecureServer:
    """The server of one attempt on `terms`, with devices whose senders the transport names by a number.

    `model` is the hash of what all devices are given to compute with; `identities` the identity of each sender, where
    they are known beforehand, and `certificates` what a registrar certifies identities with.
    """

    def __init__(
        self,
        terms: SecureTerms,
        model: bytes,
        identities: Mapping[int, bytes] | None = None,
        certificates: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self.terms, self.phase = terms, Phase.KEYS
        self._model, self._identities, self._certificates = model, identities, certificates or {}
        self._roster, self._keys, self._senders = Roster(terms, ()), list[Keys](), list[int]()  # by place
        self._places = dict[int, int]()  # by sender
        self._asked = frozenset[int]()  # places on the roster
        self._answers = dict[int, bytes]()  # of this phase, by place; the keys by sender
        self._seen = set[bytes]()  # identities that sent keys
        self._probe = os.urandom(KEY_BYTES)  # a private key for nothing but to try public ones
        self._dealt = dict[int, tuple[bytes, bytes]]()  # sealed shares and their hashes, by place
        self._sharers, self._survivors = frozenset[int](), frozenset[int]()
        self._confirmed = dict[int, bytes]()
        self._sum: Words = np.zeros(terms.numbers, terms.word)
        self._given = dict[int, dict[int, bytes]]()  # shares by place of the dealer, then by number of the holder

    @property
    def count(self) -> int:
        """How many devices are in the sum: known once the vectors are there."""
        return len(self._survivors)

    @property
    def neighbours(self) -> int:
        """How many neighbours each device has: known once the keys are there."""
        return self._roster.graph.neighbours

    @property
    def counted(self) -> tuple[int, ...]:
        """The senders whose vectors are in the sum, ascending."""
        return tuple(sorted(self._senders[place] for place in self._survivors))

    def requests(self) -> Iterator[tuple[int, bytes]]:
        """Yield (sender, request) of this phase; keys are asked, by an empty request, of whom the caller chose."""
        common = self._common_request()
        for place in sorted(self._asked):
            yield self._senders[place], self._request_of(place) if common is None else common

    def receive(self, sender: int, reply: bytes) -> None:
        """Take an answer of this phase; one that is wrong, or that comes twice, is `RejectedReplyError`."""
        try:
            if self.phase == Phase.KEYS:
                self._take_keys(sender, Keys.decode(reply))
            else:
                self._take(self._place_of(sender), reply)
        except FedrecError as error:
            raise RejectedReplyError(f"secure sum, {self.phase.name.lower()}: {error}") from error

    def close(self) -> None:
        """End this phase: whoever has not answered is gone. `LostSumError` where too few are left for a sum."""
        if self.phase == Phase.KEYS:
            self._make_roster()
        came, graph = frozenset(self._answers), self._roster.graph
        needed = {Phase.CONFIRM: graph.quorum, Phase.UNMASK: graph.threshold}.get(self.phase, self._roster.least)
        if len(came) < needed:
            raise LostSumError(f"{len(came)} devices answered the secure sum's {self.phase.name.lower()}, not {needed}")
        if self.phase == Phase.SHARES:
            self._sharers = came
        if self.phase == Phase.VECTOR:
            self._survivors = came
        if self.phase == Phase.CONFIRM:
            self._confirmed = self._answers
        if self.phase < Phase.UNMASK:
            self._asked, self._answers, self.phase = came, {}, Phase(self.phase + 1)

    def total(self) -> NDArray[np.int64]:
        """Return the sum [numbers] of the vectors that arrived, once the last phase was closed.

        `LostSumError`, naming a device by its sender, where its secret can't be rebuilt.
        """
        words = self._sum.copy()
        for place in self._survivors:
            words -= self._roster.self_mask(self._rebuilt(place, SEED), self._model)
        for place in self._sharers - self._survivors:
            private, own = self._rebuilt(place, MASK_KEY), self._keys[place]
            for other in self._survivors.intersection(self._roster.neighbours_of(place)):
                mask = self._roster.pair_mask(private, (own, self._keys[other]), self._model)
                words -= mask if other < place else -mask
        return self.terms.lifted(words)

    def _common_request(self) -> bytes | None:
        """Return what all devices are asked in this phase, None where each is asked something else."""
        if self.phase == Phase.CONFIRM:
            return self._survivor_bits
        if self.phase == Phase.UNMASK:
            signers = sorted(self._confirmed)[: self._roster.graph.quorum]
            signatures = b"".join(self._confirmed[place] for place in signers)
            return join(pack_places(signers, len(self._roster)), signatures)
        return None

    def _request_of(self, place: int) -> bytes:
        neighbours = self._roster.neighbours_of(place)
        if self.phase == Phase.SHARES:
            return join(self._roster.encoded, join(*(self._keys[other].encode() for other in neighbours)))
        told = join(*(self._dealt_to(place, other) if other in self._sharers else b"" for other in neighbours))
        return join(pack_places(self._sharers, len(self._roster)), told)

    def _dealt_to(self, holder: int, dealer: int) -> bytes:
        """Return a dealer's hashes and sealed shares for one holder."""
        turn = self._roster.neighbours_of(dealer).index(holder)
        sealed, hashes = self._dealt[dealer]
        return _piece(hashes, 2 * HASH_BYTES, turn) + _piece(sealed, SEALED_BYTES, turn)

    def _take_keys(self, sender: int, keys: Keys) -> None:
        if not keys.are_signed(self.terms.context):
            raise FedrecError("the keys are not signed for this sum")
        if sender in self._answers or keys.identity in self._seen:
            raise FedrecError("it answered twice, or as another device")
        if self._identities is not None and self._identities.get(sender) != keys.identity:
            raise FedrecError("it answered as another device")
        for key in (keys.seal_key, keys.mask_key):
            agree(self._probe, key, "probe")
        self._seen.add(keys.identity)
        self._answers[sender] = keys.encode()

    def _make_roster(self) -> None:
        keys = {sender: Keys.decode(content) for sender, content in self._answers.items()}
        self._senders = sorted(keys, key=lambda sender: keys[sender].identity)
        self._keys = [keys[sender] for sender in self._senders]
        self._answers = dict.fromkeys(range(len(keys)), b"")
        lines = (Member(k.identity, self._certificates.get(k.identity, b""), k.digest) for k in self._keys)
        try:
            self._roster = Roster(self.terms, lines)
            _ = self._roster.graph
        except FedrecError as error:
            raise LostSumError(f"no secure sum over those who sent keys: {error}") from error
        self._places = {sender: place for place, sender in enumerate(self._senders)}

    def _place_of(self, sender: int) -> int:
        place = self._places.get(sender)
        if place is None or place not in self._asked:
            raise FedrecError("it was not asked")
        if place in self._answers:
            raise FedrecError("it answered twice")
        return place

    def _take(self, place: int, reply: bytes) -> None:
        match self.phase:
            case Phase.SHARES:
                self._take_shares(place, reply)
            case Phase.VECTOR:
                self._sum += self.terms.unpack(reply)
                reply = b""
            case Phase.CONFIRM:
                said = survivors_signed(self._roster, self._model, self._survivor_bits)
                if not is_signed(self._keys[place].identity, reply, "survivors", *said):
                    raise FedrecError("it signed another list of who is left")
            case _:
                self._take_unmasking(place, reply)
        self._answers[place] = reply

    def _take_shares(self, place: int, reply: bytes) -> None:
        sealed, hashes, signature = take_apart(reply, 3)
        count, context = self._roster.graph.neighbours, self.terms.context
        split_evenly(sealed, SEALED_BYTES, count)
        split_evenly(hashes, 2 * HASH_BYTES, count)
        if not is_signed(self._keys[place].identity, signature, "shares", context, self._roster.root, hashes):
            raise FedrecError("the shares' hashes are not signed for this sum")
        self._dealt[place] = sealed, hashes

    @property
    def _survivor_bits(self) -> bytes:
        return pack_places(self._survivors, len(self._roster))

    def _take_unmasking(self, place: int, reply: bytes) -> None:
        """Take one share of each neighbour: of the kind that was asked for, and the one that was dealt."""
        neighbours, given = self._roster.neighbours_of(place), dict[int, bytes]()
        for dealer, share in zip(neighbours, take_apart(reply, len(neighbours)), strict=True):
            if share and dealer not in self._sharers:
                raise FedrecError("it gives a share that it was never dealt")
            if share:
                self._check_share(place, dealer, share)
                given[dealer] = share
        for dealer, share in given.items():
            number = self._roster.neighbours_of(dealer).index(place) + 1
            self._given.setdefault(dealer, {})[number] = share

    def _check_share(self, holder: int, dealer: int, share: bytes) -> None:
        kind, ends = SEED if dealer in self._survivors else MASK_KEY, (dealer, holder)
        names = [self._keys[place].identity for place in ends]
        if len(share) != SHARE_BYTES or share_hash(self.terms.context, names, kind, share) != _piece(
            self._dealt_to(holder, dealer), HASH_BYTES, kind
        ):
            raise FedrecError("a share is not the one that it was dealt")

    def _rebuilt(self, dealer: int, kind: int) -> bytes:
        """Return the secret of this kind."""
        found, threshold = self._given.get(dealer, {}), self._roster.graph.threshold
        name, keys = f"the device of sender {self._senders[dealer]}", self._keys[dealer]
        if len(found) < threshold:
            raise LostSumError(f"{len(found)} of those who hold shares of {name} are left: {threshold} needed")
        try:
            secret = rebuild_secret({number: found[number] for number in sorted(found)[:threshold]})
            honest = commitment(secret) == keys.commitment if kind == SEED else public_key(secret) == keys.mask_key
        except FedrecError:
            secret, honest = b"", False
        if not honest:
            raise LostSumError(f"{name} dealt shares of another secret than it committed to")
        return secret


def _piece(content: bytes, size: int, turn: int) -> bytes:
    return content[size * turn : size * (turn + 1)]
