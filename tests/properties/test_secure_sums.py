"""No server, with a corrupt device's help, gets both secrets of a device, whatever it asks, repeats or reorders.

The server here lies as it likes: about the roster, who shared, who is left, and to each device differently. It knows
one device's key, holds all that was dealt to it, and gathers every share and signature that honest devices give.
"""

from itertools import combinations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fedrec.errors import RefusedError
from fedrec.secure.attempt import Keys, Member, Phase, Roster, pack_places
from fedrec.secure.device import survivors_signed
from fedrec.secure.primitives import join, take_apart
from tests.support.secure_sums import MODEL, Cohort, terms

HONEST, CORRUPT = range(4), 4
EVERYBODY = 5
TERMS = terms(2, corrupt=0.2, dropped=0.2)
SUBSETS = [set(s) | {CORRUPT} for size in range(2, 5) for s in combinations(HONEST, size)]


class LyingServer(RuleBasedStateMachine):
    """Each rule asks an honest device something; what it answers goes to the server's books."""

    def __init__(self) -> None:
        super().__init__()
        self.cohort = Cohort(EVERYBODY, TERMS, seed=3)
        keys = {d: Keys.decode(self.cohort.ask(d, Phase.KEYS, b"")) for d in range(EVERYBODY)}
        self.order = sorted(keys, key=lambda d: keys[d].identity)
        self.keys = [keys[d] for d in self.order]
        self.roster = Roster(TERMS, (Member(k.identity, b"", k.digest) for k in self.keys))
        self.place = {device: place for place, device in enumerate(self.order)}
        self.dealt = dict[int, tuple[bytes, ...]]()
        self.signed = dict[tuple[bytes, bytes], dict[int, bytes]]()
        self.seeds: list[set[int]] = [set() for _ in range(EVERYBODY)]  # by dealer, the holders that gave a share
        self.mask_keys: list[set[int]] = [set() for _ in range(EVERYBODY)]
        for device in range(EVERYBODY):
            self.shares(device)

    def shares(self, device: int) -> None:
        """All share at once: what follows is where a server can lie."""
        near = self.roster.neighbours_of(self.place[device])
        request = join(self.roster.encoded, join(*(self.keys[other].encode() for other in near)))
        sealed, hashes, _ = take_apart(self.cohort.ask(device, Phase.SHARES, request), 3)
        self.dealt[self.place[device]] = tuple(
            hashes[64 * t : 64 * t + 64] + sealed[82 * t : 82 * t + 82] for t in range(len(near))
        )

    def bits(self, devices: set[int]) -> bytes:
        return pack_places([self.place[device] for device in devices], EVERYBODY)

    def ask(self, device: int, phase: Phase, request: bytes, model: bytes = MODEL) -> bytes:
        try:
            return self.cohort.ask(device, phase, request, model)
        except RefusedError:
            return b""

    @rule(device=st.sampled_from(HONEST), sharers=st.sampled_from(SUBSETS), model=st.sampled_from([MODEL, bytes(32)]))
    def vector(self, device: int, sharers: set[int], model: bytes) -> None:
        own, near = self.place[device], self.roster.neighbours_of(self.place[device])
        told = join(*(self.dealt[p][self.roster.neighbours_of(p).index(own)] for p in near))
        self.ask(device, Phase.VECTOR, join(self.bits(sharers), told), model)

    @rule(device=st.sampled_from(HONEST), survivors=st.sampled_from(SUBSETS), model=st.sampled_from([MODEL, bytes(32)]))
    def confirm(self, device: int, survivors: set[int], model: bytes) -> None:
        bits = self.bits(survivors)
        book = self.signed.setdefault((bits, model), {})
        said = survivors_signed(self.roster, model, bits)
        book[self.place[CORRUPT]] = self.cohort.identities[CORRUPT].sign("survivors", *said)
        if reply := self.ask(device, Phase.CONFIRM, bits):
            book[self.place[device]] = reply

    @rule(device=st.sampled_from(HONEST), least=st.integers(1, 5))
    def unmask(self, device: int, least: int) -> None:
        for (bits, _), book in self.signed.items():
            signers = sorted(book)[: max(least, 4)]
            request = join(pack_places(signers, EVERYBODY), b"".join(book[signer] for signer in signers))
            reply = self.ask(device, Phase.UNMASK, request)
            if reply:
                left = np.unpackbits(np.frombuffer(bits, np.uint8))
                for dealer, share in zip(self.roster.neighbours_of(self.place[device]), take_apart(reply), strict=True):
                    if share:
                        (self.seeds if left[dealer] else self.mask_keys)[dealer].add(self.place[device])

    @invariant()
    def never_both(self) -> None:
        """The corrupt device has a share of both kinds of everybody's secrets."""
        threshold = self.roster.graph.threshold
        for seeds, keys in zip(self.seeds, self.mask_keys, strict=True):
            assert len(seeds) + 1 < threshold or len(keys) + 1 < threshold


TestLyingServer = LyingServer.TestCase
TestLyingServer.settings = settings(max_examples=60, stateful_step_count=24)


def test_the_server_does_get_one_secret_of_each() -> None:
    """The rules reach what they are about: an honest course of them rebuilds a secret of everybody."""
    server = LyingServer()
    everybody = set(range(EVERYBODY))
    for device in HONEST:
        server.vector(device, everybody, MODEL)
    for device in HONEST:
        server.confirm(device, {0, 1, 2, 3, CORRUPT}, MODEL)
    for device in HONEST:
        server.unmask(device, 4)
    assert all(len(seeds) + 1 >= server.roster.graph.threshold for seeds in server.seeds)
    server.never_both()
