"""Devices and servers that cheat in a secure sum are refused by name, and never make a wrong sum."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import RejectedReplyError
from fedrec.secure.attempt import Keys, Phase, pack_places
from fedrec.secure.device import DeviceState, SecureDevice
from fedrec.secure.primitives import Identity, join, take_apart
from fedrec.secure.server import LostSumError, SecureServer
from tests.support.secure_sums import MODEL, Cohort, terms

SMALL_ORDER = (bytes(32), (1).to_bytes(32, "little"), (2**255 - 19).to_bytes(32, "little"))
N = 5


def made(**changes: Any) -> Cohort:
    return Cohort(N, terms(**changes), int(np.random.randint(1 << 31)))


def flipped(content: bytes, place: int = -1) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def finish(cohort: Cohort, hostile: int, wrong: Callable[[Phase, bytes], bytes], at: Phase) -> str:
    """Let one device send something wrong in a phase, and the others do as they should; return what was said of it."""
    said = ""
    while True:
        phase = cohort.server.phase
        asked = [(d, b"") for d in range(N)] if phase == Phase.KEYS else list(cohort.server.requests())
        for device, request in asked:
            reply = cohort.ask(device, phase, request)
            if device == hostile and phase == at:
                with pytest.raises(RejectedReplyError, match=f"secure sum, {phase.name.lower()}: ") as caught:
                    cohort.server.receive(device, wrong(phase, reply))
                said = str(caught.value)
            elif device != hostile or phase < at:
                cohort.server.receive(device, reply)
        cohort.server.close()
        if phase == Phase.UNMASK:
            np.testing.assert_array_equal(cohort.server.total(), cohort.plain_sum())
            counted = cohort.server.counted
            assert (hostile in counted) == (at > Phase.VECTOR) and len(counted) >= N - 1
            return said


CUT = {
    "nothing": lambda phase, reply: b"",
    "cut": lambda phase, reply: reply[:-1],
    "longer": lambda phase, reply: reply + b"\0",
    "of random bytes": lambda phase, reply: np.random.bytes(max(len(reply), 1)),
    "as parts": lambda phase, reply: join(reply, reply),
}


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("how", [name for name in CUT if name != "of random bytes"])
def test_a_broken_answer_is_named_and_the_others_are_summed(phase: Phase, how: str) -> None:
    assert finish(made(), 2, CUT[how], phase)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase != Phase.VECTOR])
def test_random_bytes_are_named_in_every_phase_whose_answer_can_be_checked(phase: Phase) -> None:
    """A masked vector is random bytes: what a hostile device puts there is what it adds to the sum."""
    assert finish(made(), 1, CUT["of random bytes"], phase)


@pytest.mark.parametrize("place", [4, 40, 76, 112, 148, -1])
def test_keys_that_were_changed_on_their_way_are_not_signed(place: int) -> None:
    assert "not signed for this sum" in finish(made(), 3, lambda _, reply: flipped(reply, place), Phase.KEYS)


def test_keys_of_another_attempt_round_or_run_are_not_signed_for_this_one() -> None:
    changes: list[dict[str, Any]] = [{"attempt": 2}, {"round": 2}, {"run": "other"}, {"experiment": "other"}]
    for change in [*changes, {"least": 4}]:
        cohort = made()
        other = SecureDevice(terms(**change), cohort.identities[0])
        replayed = other.answer(DeviceState(), Phase.KEYS, b"").reply
        assert "not signed" in finish(cohort, 0, lambda _, reply, replayed=replayed: replayed, Phase.KEYS)


@pytest.mark.parametrize("key", SMALL_ORDER)
@pytest.mark.parametrize("place", [0, 1])
def test_keys_whose_secret_everybody_knows_are_named(key: bytes, place: int) -> None:
    cohort = made()

    def small(phase: Phase, reply: bytes) -> bytes:
        keys = Keys.decode(reply)
        said = [keys.seal_key, keys.mask_key, keys.commitment]
        said[place] = key
        return Keys.signed_by(cohort.identities[2], cohort.terms.context, tuple(said)).encode()  # type: ignore[arg-type]

    assert "a public key that no honest device has" in finish(cohort, 2, small, Phase.KEYS)


def test_nobody_answers_as_another_or_twice_or_unasked() -> None:
    cohort = made()
    server = SecureServer(cohort.terms, MODEL, {d: identity.public for d, identity in enumerate(cohort.identities)})
    replies = [cohort.ask(device, Phase.KEYS, b"") for device in range(N)]
    with pytest.raises(RejectedReplyError, match="as another device"):
        server.receive(1, replies[0])
    for device, reply in enumerate(replies[:4]):
        server.receive(device, reply)
    with pytest.raises(RejectedReplyError, match="answered twice"):
        server.receive(0, replies[0])
    server.close()
    for device, request in server.requests():
        reply = cohort.ask(device, Phase.SHARES, request)
        server.receive(device, reply)
        with pytest.raises(RejectedReplyError, match="answered twice"):
            server.receive(device, reply)
    with pytest.raises(RejectedReplyError, match="was not asked"):
        server.receive(4, replies[4])


def test_shares_signed_for_another_roster_are_named() -> None:
    one, two = made(), made()
    two.identities, two.devices = one.identities, [SecureDevice(two.terms, i) for i in one.identities]
    two.play(until=Phase.KEYS)
    other = {device: two.ask(device, Phase.SHARES, request) for device, request in two.server.requests()}
    assert "not signed for this sum" in finish(one, 0, lambda phase, reply: other[0], Phase.SHARES)


def test_a_share_that_was_not_dealt_is_named_and_another_taken() -> None:
    """Wrong, of the other kind, of another dealer, doubled: five devices, three of whom rebuild a secret."""
    wrong: dict[str, Callable[[tuple[bytes, ...]], tuple[bytes, ...]]] = {
        "changed": lambda given: (flipped(given[0]), *given[1:]),
        "of another": lambda given: (given[1], given[0], *given[2:]),
        "doubled": lambda given: (given[0], *given[:-1]),
        "beyond the prime": lambda given: (b"\xff" * 33, *given[1:]),
    }
    for change in wrong.values():
        said = finish(made(), 4, lambda _, reply, change=change: join(*change(take_apart(reply))), Phase.UNMASK)
        assert "not the one that it was dealt" in said


def test_a_dealer_whose_shares_have_no_secret_in_common_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrec.secure import device

    cohort, true = made(), device.split_secret
    cohort.play(until=Phase.KEYS)
    for sender, request in cohort.server.requests():
        with monkeypatch.context() as patch:
            if sender == 3:
                patch.setattr(device, "split_secret", lambda secret, *rest: true(bytes(32), *rest))
            cohort.server.receive(sender, cohort.ask(sender, Phase.SHARES, request))
    cohort.server.close()
    with pytest.raises(LostSumError, match="sender 3 dealt shares of another secret than it committed to"):
        cohort.play()


def test_a_share_that_cannot_be_opened_is_not_held_and_the_others_are_enough() -> None:
    cohort = made()
    cohort.play(until=Phase.SHARES)
    for device, request in cohort.server.requests():
        bits, told = take_apart(request, 2)
        broken = (flipped(take_apart(told)[0]) if device == 1 else take_apart(told)[0], *take_apart(told)[1:])
        cohort.server.receive(device, cohort.ask(device, Phase.VECTOR, join(bits, join(*broken))))
    cohort.server.close()
    np.testing.assert_array_equal(cohort.play(), cohort.plain_sum())


def refused(cohort: Cohort, phase: Phase, change: Callable[[bytes], bytes], said: str) -> None:
    """Ask device 0 something wrong in a phase: it says why it refuses, and answers what is right afterwards."""
    cohort.play(until=Phase(phase - 1))
    request = dict(cohort.server.requests())[0]
    with pytest.raises(RefusedError, match=said):
        cohort.ask(0, phase, change(request))
    assert cohort.ask(0, phase, request)


def roster_of(request: bytes, lines: Callable[[list[bytes]], list[bytes]]) -> bytes:
    roster, told = take_apart(request, 2)
    return join(join(*lines(list(take_apart(roster)))), told)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (lambda parts: parts[:6], "does not hold this device|have no secure sum"),
        (lambda parts: [*parts[3:], *parts[:3]], "once each, ascending"),
        (lambda parts: [*parts, *parts[-3:]], "once each, ascending"),
        (lambda parts: parts[:-1], "three parts for each device"),
        (lambda parts: [p if i % 3 != 2 else bytes(32) for i, p in enumerate(parts)], "with its own keys"),
    ],
)
def test_a_roster_that_is_not_whole_is_refused(lines: Callable[[list[bytes]], list[bytes]], said: str) -> None:
    refused(made(), Phase.SHARES, lambda request: roster_of(request, lines), said)


def test_neighbours_with_keys_that_they_did_not_sign_are_refused() -> None:
    def swapped(request: bytes) -> bytes:
        roster, told = take_apart(request, 2)
        keys = list(take_apart(told))
        return join(roster, join(keys[1], keys[0], *keys[2:]))

    refused(made(), Phase.SHARES, swapped, "not those on the roster")
    refused(made(), Phase.SHARES, lambda request: request[:-1], "can't be understood")


def test_a_server_that_puts_keys_of_its_own_under_a_neighbours_name_is_refused() -> None:
    cohort = made()
    replies = [cohort.ask(device, Phase.KEYS, b"") for device in range(N)]
    forged, stranger = Keys.decode(replies[1]), Identity.new(np.random.bytes)
    other = Keys.signed_by(stranger, cohort.terms.context, (forged.seal_key, bytes(32), bytes(32)))
    replies[1] = replace(other, identity=forged.identity).encode()
    lying = SecureServer(cohort.terms, MODEL)
    lying._take_keys = lambda sender, keys: lying._answers.update({sender: keys.encode()})  # type: ignore[method-assign]
    for device, reply in enumerate(replies):
        lying.receive(device, reply)
    lying.close()
    with pytest.raises(RefusedError, match="not signed by it for this sum"):
        cohort.ask(0, Phase.SHARES, dict(lying.requests())[0])


def test_two_devices_with_one_key_are_refused() -> None:
    cohort = made()
    replies = [cohort.ask(device, Phase.KEYS, b"") for device in range(N)]
    one = Keys.decode(replies[1])
    copied = Keys.signed_by(cohort.identities[2], cohort.terms.context, (one.seal_key, one.mask_key, one.commitment))
    for device, reply in enumerate(replies):
        cohort.server.receive(device, copied.encode() if device == 2 else reply)
    cohort.server.close()
    with pytest.raises(RefusedError, match="the same key"):
        cohort.ask(0, Phase.SHARES, dict(cohort.server.requests())[0])


def test_a_registrar_vouches_for_every_device_or_nobody_takes_part() -> None:
    registrar, cohort = Identity.new(np.random.bytes), made()
    signed = {identity.public: registrar.sign("device", identity.public) for identity in cohort.identities}
    cohort.devices = [SecureDevice(cohort.terms, i, registrar.public, np.random.bytes) for i in cohort.identities]
    cohort.server = SecureServer(cohort.terms, MODEL, certificates=signed)
    np.testing.assert_array_equal(cohort.play(), cohort.plain_sum())
    for missing in (b"", bytes(64), signed[cohort.identities[1].public]):
        cohort.states = [DeviceState()] * N
        cohort.server = SecureServer(cohort.terms, MODEL, certificates={**signed, cohort.identities[4].public: missing})
        cohort.play(until=Phase.KEYS)
        for device, request in cohort.server.requests():
            with pytest.raises(RefusedError, match="does not vouch for"):
                cohort.ask(device, Phase.SHARES, request)


def only(*places: int) -> bytes:
    return pack_places(places, N)


def place_of(cohort: Cohort, device: int) -> int:
    return sorted(range(N), key=lambda d: cohort.identities[d].public).index(device)


def test_lists_of_who_is_left_are_held_to_the_devices_own_terms() -> None:
    for phase in (Phase.VECTOR, Phase.CONFIRM):
        cohort = made()
        own = place_of(cohort, 0)
        others = [place for place in range(N) if place != own]
        few, without = only(own, *others[:1]), only(*others)

        def told(request: bytes, bits: bytes, phase: Phase = phase) -> bytes:
            return join(bits, take_apart(request, 2)[1]) if phase == Phase.VECTOR else bits

        refused(cohort, phase, lambda request, told=told, few=few: told(request, few), "2 devices are left")
        cohort = made()
        own = place_of(cohort, 0)
        without = only(*(place for place in range(N) if place != own))
        refused(cohort, phase, lambda request, told=told, bits=without: told(request, bits), "itself among them")
        refused(made(), phase, lambda request, told=told: told(request, b"\xff"), "list of places")


def test_who_never_shared_is_never_unmasked() -> None:
    cohort = made()
    cohort.play(lambda device, phase: device == 1 and phase == Phase.SHARES, until=Phase.VECTOR)
    everybody = pack_places(range(N), N)
    with pytest.raises(RefusedError, match="never shared its secrets"):
        cohort.ask(0, Phase.CONFIRM, everybody)


def test_nothing_is_unmasked_without_a_quorum_of_true_signatures_under_one_list() -> None:
    cohort = made()
    cohort.play(until=Phase.CONFIRM)
    request = dict(cohort.server.requests())[0]
    bits, signatures = take_apart(request, 2)
    for wrong, said in (
        (join(only(0), signatures[:64]), "1 devices signed who is left"),
        (join(bits, flipped(signatures, 70)), "not that of its device"),
        (join(bits, signatures[64:128] + signatures[:64] + signatures[128:]), "not that of its device"),
        (join(bits, signatures[:-64]), "can't be understood"),
    ):
        with pytest.raises(RefusedError, match=said):
            cohort.ask(0, Phase.UNMASK, wrong)
    assert cohort.ask(0, Phase.UNMASK, request)


def test_vectors_that_are_no_whole_numbers_or_too_many_are_refused() -> None:
    vectors: list[tuple[Any, str]] = [(np.zeros(5), "float64"), (np.zeros(6, np.int64), "6 int64 numbers")]
    for vector, said in vectors:
        cohort = made()
        cohort.vectors[0] = vector
        cohort.play(until=Phase.SHARES)
        with pytest.raises(RefusedError, match=said):
            cohort.ask(0, Phase.VECTOR, dict(cohort.server.requests())[0])
    with pytest.raises(RefusedError, match="computed with a model"):
        SecureDevice(terms(), Identity.new())._answer(DeviceState(), Phase.VECTOR, b"", b"", None)


def test_mistakes_of_a_server_are_errors_of_its_own() -> None:
    with pytest.raises(FedrecError, match="of 63 bits"):
        terms(bits=63)
    with pytest.raises(LostSumError, match="no secure sum over those who sent keys"):
        made().server.close()
