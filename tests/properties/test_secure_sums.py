"""No server, with corrupt devices' help, gets both secrets of a device, whatever it asks, repeats or reorders.

The server here lies as it likes: about the roster, who shared, who is left, and to each device differently. It knows
two devices' keys, holds all that was dealt to them, and gathers every share and signature that honest devices give.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fedrec.errors import RefusedError
from fedrec.secure.attempt import Keys, Member, Phase, Roster, pack_places, unpack_places
from fedrec.secure.device import survivors_signed
from fedrec.secure.primitives import join, take_apart
from tests.support.secure_sums import MODEL, Cohort, terms

HONEST, CORRUPT = range(5), (5, 6)
EVERYBODY = 7
TERMS = terms(2, corrupt=0.3, dropped=0.15)
ALL = frozenset(range(EVERYBODY))
LISTS = [ALL, ALL - {0}]


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
        self.signed = dict[bytes, dict[int, bytes]]()
        self.seeds: list[set[int]] = [set() for _ in range(EVERYBODY)]  # by dealer, the holders that gave a share
        self.mask_keys: list[set[int]] = [set() for _ in range(EVERYBODY)]
        for device in range(EVERYBODY):
            self.shares(device)
        for device in HONEST:
            self.vector(device, ALL, MODEL)

    def shares(self, device: int) -> None:
        """All share at once: what follows is where a server can lie."""
        near = self.roster.neighbours_of(self.place[device])
        request = join(self.roster.encoded, join(*(self.keys[other].encode() for other in near)))
        sealed, hashes, _ = take_apart(self.cohort.ask(device, Phase.SHARES, request), 3)
        self.dealt[self.place[device]] = tuple(
            hashes[64 * t : 64 * t + 64] + sealed[82 * t : 82 * t + 82] for t in range(len(near))
        )

    def bits(self, devices: frozenset[int]) -> bytes:
        return pack_places([self.place[device] for device in devices], EVERYBODY)

    def devices_of(self, bits: bytes) -> set[int]:
        return {self.order[place] for place in unpack_places(bits, EVERYBODY)}

    def ask(self, device: int, phase: Phase, request: bytes, model: bytes = MODEL) -> bytes:
        try:
            return self.cohort.ask(device, phase, request, model)
        except RefusedError:
            return b""

    @rule(device=st.sampled_from(HONEST), sharers=st.sampled_from(LISTS), model=st.sampled_from([MODEL, bytes(32)]))
    def vector(self, device: int, sharers: frozenset[int], model: bytes) -> None:
        own, near = self.place[device], self.roster.neighbours_of(self.place[device])
        told = join(*(self.dealt[p][self.roster.neighbours_of(p).index(own)] for p in near))
        self.ask(device, Phase.VECTOR, join(self.bits(sharers), told), model)

    @rule(device=st.sampled_from(HONEST), survivors=st.sampled_from(LISTS))
    def confirm(self, device: int, survivors: frozenset[int]) -> None:
        bits = self.bits(survivors)
        book = self.signed.setdefault(bits, {})
        said = survivors_signed(self.roster, MODEL, bits)
        for other in CORRUPT:
            book[self.place[other]] = self.cohort.identities[other].sign("survivors", *said)
        if reply := self.ask(device, Phase.CONFIRM, bits):
            book[self.place[device]] = reply

    @rule(device=st.sampled_from(HONEST))
    def unmask(self, device: int) -> None:
        for bits, book in self.signed.items():
            signers = [place for place in sorted(book) if self.order[place] in self.devices_of(bits)]
            request = join(pack_places(signers, EVERYBODY), b"".join(book[signer] for signer in signers))
            reply = self.ask(device, Phase.UNMASK, request)
            if reply:
                left = {self.place[other] for other in self.devices_of(bits)}
                for dealer, share in zip(self.roster.neighbours_of(self.place[device]), take_apart(reply), strict=True):
                    if share:
                        (self.seeds if dealer in left else self.mask_keys)[dealer].add(self.place[device])

    @invariant()
    def never_both(self) -> None:
        """The corrupt devices have a share of both kinds of everybody's secrets."""
        threshold = self.roster.graph.threshold
        for seeds, keys in zip(self.seeds, self.mask_keys, strict=True):
            assert len(seeds) + len(CORRUPT) < threshold or len(keys) + len(CORRUPT) < threshold


TestLyingServer = LyingServer.TestCase
TestLyingServer.settings = settings(max_examples=40, stateful_step_count=40)


def test_the_server_does_get_one_secret_of_each() -> None:
    """The rules reach what they are about: an honest course of them rebuilds a secret of everybody."""
    server = LyingServer()
    for device in HONEST:
        server.confirm(device, ALL)
    for device in HONEST:
        server.unmask(device)
    assert all(len(seeds) + len(CORRUPT) >= server.roster.graph.threshold for seeds in server.seeds)
    server.never_both()


def test_half_of_the_devices_told_one_list_and_half_another_unmask_nothing() -> None:
    server = LyingServer()
    for device in (1, 2):
        server.confirm(device, ALL - {0})
    for device in (3, 4):
        server.confirm(device, ALL)
    for device in HONEST:
        server.unmask(device)
    assert not any(server.seeds) and not any(server.mask_keys)
