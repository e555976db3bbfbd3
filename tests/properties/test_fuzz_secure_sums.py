"""Bytes that were changed anywhere in a secure sum: refused by name, or without effect on the sum."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import RejectedReplyError
from fedrec.secure.attempt import Phase
from fedrec.secure.server import LostSumError
from tests.support.secure_sums import Cohort, terms

DEVICES = 5


@dataclass(frozen=True)
class Change:
    """What is done to a message: `cut` bytes at a place, from 0 to 1, exchanged for others."""

    place: float
    cut: int
    instead: bytes

    def of(self, content: bytes) -> bytes:
        at = int(self.place * len(content))
        return content[:at] + self.instead + content[at + self.cut :]


CHANGES = st.builds(Change, st.floats(0, 1), st.integers(0, 80), st.binary(max_size=80))


@settings(max_examples=30)
@given(phase=st.sampled_from(Phase), hostile=st.integers(0, DEVICES - 1), change=CHANGES)
def test_an_answer_that_was_changed_never_makes_a_wrong_sum(phase: Phase, hostile: int, change: Change) -> None:
    """But for a vector of the right length, which is random bytes to whoever reads it."""
    cohort, before = Cohort(DEVICES, terms(3), seed=1), Phase.KEYS
    changed = False
    try:
        while True:
            before = cohort.server.phase
            asked = [(d, b"") for d in range(DEVICES)] if before == Phase.KEYS else list(cohort.server.requests())
            for device, request in asked:
                reply = cohort.ask(device, before, request)
                if before == phase and device == hostile:
                    changed, reply = change.of(reply) != reply, change.of(reply)
                try:
                    cohort.server.receive(device, reply)
                except RejectedReplyError as reason:
                    assert changed and str(reason).startswith(f"secure sum, {phase.name.lower()}: ")
            cohort.server.close()
            if before == Phase.UNMASK:
                break
        found = cohort.server.total()
    except (LostSumError, RefusedError):
        assert changed
        return
    if phase != Phase.VECTOR or hostile not in cohort.server.counted or not changed:
        np.testing.assert_array_equal(found, cohort.plain_sum())


@settings(max_examples=30)
@given(phase=st.sampled_from(Phase), change=CHANGES)
def test_a_request_that_was_changed_is_refused_or_answered_and_nothing_breaks(phase: Phase, change: Change) -> None:
    """Whatever a server sends, a device says why it refuses, and answers what it should have been asked."""
    cohort = Cohort(DEVICES, terms(3), seed=2)
    if phase > Phase.KEYS:
        cohort.play(until=Phase(phase - 1))
    request = b"" if phase == Phase.KEYS else dict(cohort.server.requests())[0]
    try:
        cohort.ask(0, phase, change.of(request))
    except FedrecError as reason:
        assert isinstance(reason, RefusedError)
        assert cohort.ask(0, phase, request)
