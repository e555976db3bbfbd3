"""A secure sum is the plain sum of the vectors that arrived, whoever drops out when, or there is none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedrec.errors import FedrecError, RefusedError
from fedrec.secure import graph
from fedrec.secure.attempt import Keys, Phase, Roster
from fedrec.secure.primitives import join, take_apart
from fedrec.secure.server import LostSumError
from tests.support.secure_sums import MODEL, Cohort, every_way, terms

VECTORS = Path(__file__).parent / "vectors.json"


def seed() -> int:
    return int(np.random.randint(1 << 31))


def sums_in_every_way(devices: int) -> tuple[int, int]:
    """Return in how many ways there is a sum, and in how many there is none, as the thresholds say."""
    cohort = Cohort(devices, terms(2), seed())
    found = list(every_way(cohort, range(devices)))
    for way in found:
        # With all pairs: enough for the quorum throughout, and at the end a threshold beside whoever is unmasked.
        complete = len(way) == 5 and way[4] > 0
        roster = way[0]
        quorum, threshold = roster // 2 + 1, (roster - 1) // 2 + 1
        least = max(quorum, threshold + 1, 3)
        enough = len(way) == 5 and roster >= least and min(way[:3]) >= least and way[3] >= quorum
        if complete:
            assert enough and way[4] >= threshold
        elif enough:
            assert way[4] <= threshold
    sums = sum(len(way) == 5 and way[4] > 0 for way in found)
    return sums, len(found) - sums


def test_every_way_of_three_and_four_devices() -> None:
    sums, none = sums_in_every_way(3)
    assert sums >= 1 and none > sums
    sums, none = sums_in_every_way(4)
    assert sums > 10 and none > sums


@pytest.mark.slow
@pytest.mark.parametrize("devices", [5, 6])
def test_every_way_of_five_and_six_devices(devices: int) -> None:
    sums, none = sums_in_every_way(devices)
    assert sums > 100 and none > sums


def random_pattern(devices: int, share: float, spread: int = 1000, **changes: Any) -> bool:
    """Play one attempt where each device leaves in a random phase with chance `share`; say whether there was a sum."""
    cohort = Cohort(devices, terms(3, **changes), seed(), spread)
    leaves = cohort.random.random(devices) < share
    when = cohort.random.integers(1, 6, devices)
    try:
        found = cohort.play(lambda device, phase: bool(leaves[device]) and when[device] == phase)
    except LostSumError:
        return False
    assert found is not None
    np.testing.assert_array_equal(found, cohort.plain_sum())
    return True


def test_random_patterns() -> None:
    drawn = [random_pattern(int(np.random.randint(3, 12)), 0.2) for _ in range(30)]
    assert 8 < sum(drawn) < 30


@pytest.mark.slow
def test_five_hundred_random_patterns() -> None:
    sizes = np.minimum(3 + np.random.geometric(0.15, 500), 60)
    drawn = [random_pattern(int(size), float(np.random.choice([0.05, 0.2, 0.35]))) for size in sizes]
    assert 100 < sum(drawn) < 500


def test_a_sparse_graph_sums_with_drop_outs_in_every_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "ALL_PAIRS", 20)
    graph.plan_graph.cache_clear()
    assert graph.plan_graph(30, 0.0, 0.1).neighbours < 20
    for dropped in (0.05, 0.1):
        assert random_pattern(30, dropped, corrupt=0.0, dropped=0.1)
    graph.plan_graph.cache_clear()


@pytest.mark.parametrize("bits", [1, 12, 31, 32, 33, 62])
def test_sums_wrap_around_at_the_modulus_alone(bits: int) -> None:
    """Numbers that fill the modulus come out modulo 2^bits, nearest to zero."""
    cohort = Cohort(4, terms(70, bits=bits), seed(), spread=1 << (bits - 1))
    found = cohort.play()
    assert found is not None
    half = 1 << (bits - 1)
    np.testing.assert_array_equal(found, (cohort.plain_sum() + half) % (1 << bits) - half)
    assert found.min() >= -half and found.max() < half


def test_a_masked_vector_is_uniform_and_none_of_its_numbers_the_devices_own() -> None:
    cohort = Cohort(4, terms(4096, bits=8), seed(), spread=0)
    cohort.play(until=Phase.CONFIRM)
    cohort = Cohort(4, terms(4096, bits=8), seed(), spread=0)
    cohort.play(until=Phase.SHARES)
    sent = [cohort.terms.unpack(cohort.ask(d, Phase.VECTOR, r)) for d, r in cohort.server.requests()]
    for words in sent:
        assert np.bincount(words.astype(int), minlength=256).max() < 16 + 8 * 4
    assert len({words.tobytes() for words in sent}) == 4
    assert np.abs(np.corrcoef(np.stack(sent).astype(float))[np.triu_indices(4, 1)]).max() < 0.1


def test_nothing_of_an_attempt_without_enough_devices_is_summed() -> None:
    cohort = Cohort(5, terms(least=5), seed())
    with pytest.raises(LostSumError, match="4 devices answered the secure sum's vector, not 5"):
        cohort.play(lambda device, phase: device == 1 and phase == Phase.VECTOR)
    with pytest.raises(FedrecError, match="at least 3 expected"):
        terms(least=2)


def test_no_cohort_is_larger_than_the_modulus_was_chosen_for() -> None:
    with pytest.raises(LostSumError, match="a roster of 5 devices: at most 4 expected"):
        Cohort(5, terms(most=4), seed()).play()


def test_a_device_keeps_no_secret_once_it_is_not_needed() -> None:
    cohort = Cohort(4, terms(), seed())
    cohort.play(until=Phase.SHARES)
    secrets = [state.secrets for state in cohort.states]
    assert all(len(secret) == 96 for secret in secrets)
    for device, request in cohort.server.requests():
        cohort.server.receive(device, cohort.ask(device, Phase.VECTOR, request))
        for part in range(3):
            assert secrets[device][32 * part : 32 * (part + 1)] not in cohort.states[device].encode()
    cohort.server.close()
    held = [state.held for state in cohort.states]
    for phase in (Phase.CONFIRM, Phase.UNMASK):
        for device, request in cohort.server.requests():
            cohort.server.receive(device, cohort.ask(device, phase, request))
        cohort.server.close()
    for state, shares in zip(cohort.states, held, strict=True):
        assert not state.held and all(pair[:33] not in state.encode() for pair in take_apart(shares))


def test_the_last_request_again_gets_the_same_bytes_and_any_other_is_refused() -> None:
    cohort = Cohort(4, terms(), seed())
    for phase in Phase:
        asked = [(d, b"") for d in range(4)] if phase == Phase.KEYS else list(cohort.server.requests())
        for device, request in asked:
            reply = cohort.ask(device, phase, request)
            assert cohort.ask(device, phase, request) == reply
            with pytest.raises(RefusedError, match="each is answered once"):
                cohort.ask(device, phase, request + b"\0")
            for other in set(Phase) - {phase, phase + 1}:
                with pytest.raises(RefusedError, match="each is answered once"):
                    cohort.ask(device, other, request)
            cohort.server.receive(device, reply)
        cohort.server.close()
    np.testing.assert_array_equal(cohort.server.total(), cohort.plain_sum())


def test_devices_that_were_given_different_models_have_no_sum() -> None:
    cohort = Cohort(4, terms(200), seed())
    cohort.play(until=Phase.SHARES)
    for device, request in cohort.server.requests():
        model = bytes(32) if device == 2 else MODEL
        cohort.server.receive(device, cohort.ask(device, Phase.VECTOR, request, model))
    cohort.server.close()
    (device, request), *_ = [pair for pair in cohort.server.requests() if pair[0] == 2]
    with pytest.raises(FedrecError, match="signed another list"):
        cohort.server.receive(device, cohort.ask(device, Phase.CONFIRM, request))


def fixed_attempt() -> dict[str, object]:
    """Return every message of one attempt whose draws are fixed: 4 devices, one of which drops out."""
    cohort, sent = Cohort(4, terms(3), seed=7), list[list[str]]()
    first = cohort.ask

    def told(device: int, phase: Phase, request: bytes, model: bytes = MODEL) -> bytes:
        reply = first(device, phase, request, model)
        sent.append([str(device), phase.name, request.hex(), reply.hex()])
        return reply

    cohort.ask = told  # type: ignore[method-assign]
    found = cohort.play(lambda device, phase: device == 1 and phase == Phase.VECTOR)
    assert found is not None
    return {
        "context": cohort.terms.context.hex(),
        "identities": [identity.private.hex() for identity in cohort.identities],
        "vectors": [vector.tolist() for vector in cohort.vectors],
        "messages": sent,
        "sum": found.tolist(),
    }


def test_the_messages_are_those_of_the_fixed_vectors() -> None:
    """For other languages: what is sent follows from the draws alone. They change with the protocol's version alone."""
    assert fixed_attempt() == json.loads(VECTORS.read_text())


def test_parts_come_apart_as_they_were_joined_or_not_at_all() -> None:
    parts = (b"", b"a", bytes(300), b"\0\0\0\1")
    assert take_apart(join(*parts)) == parts and take_apart(b"") == ()
    for broken in (join(*parts)[:-1], join(*parts) + b"\0", b"\0\0\0", b"\xff" * 4):
        with pytest.raises(FedrecError, match="cut short"):
            take_apart(broken)
    with pytest.raises(FedrecError, match="has 4 parts, not 3"):
        take_apart(join(*parts), 3)


def test_what_a_server_and_colluding_devices_can_take_off_leaves_the_sum_of_the_honest_alone() -> None:
    """The server's whole view, with all that devices 4 and 5 know, where device 3 dropped out and 0 to 2 are honest."""
    honest, colluding, dropped = (0, 1, 2), (4, 5), 3
    cohort = Cohort(6, terms(4096, bits=8, dropped=0.2), seed(), spread=100)
    cohort.play(until=Phase.SHARES)
    secrets = [[state.secrets[32 * part : 32 * part + 32] for part in range(3)] for state in cohort.states]
    sent = {d: cohort.ask(d, Phase.VECTOR, request) for d, request in cohort.server.requests() if d != dropped}
    roster = Roster.decode(cohort.terms, cohort.states[0].roster)
    keys = [Keys.decode(state.keys) for state in cohort.states]
    place = [roster.places[each.identity] for each in keys]
    left = list[NDArray[np.uint32]]()
    for device in honest:
        words = cohort.terms.unpack(sent[device]) - roster.self_mask(secrets[device][2], MODEL)
        for other in (*colluding, dropped):
            mask = roster.pair_mask(secrets[other][1], (keys[other], keys[device]), MODEL)
            words -= mask if place[device] < place[other] else -mask
        left.append(words % 256)
    for words in left:
        assert np.bincount(words, minlength=256).max() < 16 + 8 * 4
    assert np.abs(np.corrcoef(np.stack(left).astype(float))[np.triu_indices(3, 1)]).max() < 0.1
    wanted = np.sum([cohort.vectors[device] for device in honest], axis=0)
    np.testing.assert_array_equal(np.sum(left, axis=0) % 256, wanted % 256)
