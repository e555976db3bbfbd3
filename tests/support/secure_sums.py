"""A small cohort that plays the messages of a secure sum, and every way in which its devices can drop out."""

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.secure.attempt import Phase, SecureTerms
from fedrec.secure.device import DeviceState, SecureDevice
from fedrec.secure.primitives import Identity, digest
from fedrec.secure.server import LostSumError, SecureServer

MODEL = digest("model", b"the same for all")


def terms(numbers: int = 5, **changes: Any) -> SecureTerms:
    """Return terms of a small sum."""
    plain: dict[str, Any] = {
        "run": "run", "round": 1, "attempt": 1, "experiment": "hash", "numbers": numbers, "bits": 20, "least": 3,
        "most": 1000, "corrupt": 0.0, "dropped": 0.2,
    }  # fmt: skip
    return SecureTerms(**{**plain, **changes})


class Cohort:
    """Devices 0, 1, ... with random vectors, and the server of one attempt at their sum."""

    def __init__(self, devices: int, on: SecureTerms, seed: int = 0, spread: int = 1000) -> None:
        self.random = np.random.default_rng(seed)
        self.terms, self.identities = on, [Identity.new(self.random.bytes) for _ in range(devices)]
        self.devices = [SecureDevice(on, identity, random=self.random.bytes) for identity in self.identities]
        self.vectors = [self.random.integers(-spread, spread, on.numbers, endpoint=True) for _ in range(devices)]
        self.states = [DeviceState() for _ in range(devices)]
        self.server = SecureServer(on, MODEL)

    def ask(self, device: int, phase: Phase, request: bytes, model: bytes = MODEL) -> bytes:
        """Return a device's answer, its state then kept as bytes and read back."""
        seen = model if phase == Phase.VECTOR else b""
        after = self.devices[device].answer(self.states[device], phase, request, seen, lambda: self.vectors[device])
        self.states[device] = DeviceState.decode(after.encode())
        return after.reply

    def play(
        self, leaves: Callable[[int, Phase], bool] = lambda *_: False, until: Phase = Phase.UNMASK
    ) -> NDArray[np.int64] | None:
        """Return the sum, None before the last phase; whoever `leaves` in a phase answers it and later ones no more."""
        gone = set[int]()
        while True:
            phase = self.server.phase
            asked = ((device, b"") for device in range(len(self.devices)))
            for device, request in asked if phase == Phase.KEYS else self.server.requests():
                if device not in gone and not leaves(device, phase):
                    self.server.receive(device, self.ask(device, phase, request))
                else:
                    gone.add(device)
            self.server.close()
            if phase == until:
                return self.server.total() if until == Phase.UNMASK else None

    def plain_sum(self) -> NDArray[np.int64]:
        """Return the sum of the vectors that the server counts, with no cryptography."""
        return np.sum([self.vectors[device] for device in self.server.counted], axis=0)


def every_way(cohort: Cohort, present: Sequence[int], answered: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Play every way in which devices can drop out; yield how many answered each phase, once a sum was checked.

    What devices answer hangs on who came before them alone: each answers once for all ways that go on from there.
    """
    phase = cohort.server.phase
    requests = dict.fromkeys(present, b"") if phase == Phase.KEYS else dict(cohort.server.requests())
    asked = [device for device in present if device in requests]
    before = list(cohort.states)
    replies = {device: cohort.ask(device, phase, requests[device]) for device in asked}
    after = list(cohort.states)
    for chosen in chain.from_iterable(combinations(asked, size) for size in range(len(asked) + 1)):
        way, cohort.server, saved = (*answered, len(chosen)), copy.deepcopy(cohort.server), cohort.server
        cohort.states = list(after)
        try:
            for device in chosen:
                cohort.server.receive(device, replies[device])
            cohort.server.close()
            if phase == Phase.UNMASK:
                np.testing.assert_array_equal(cohort.server.total(), cohort.plain_sum())
                yield way
            else:
                yield from every_way(cohort, chosen, way)
        except LostSumError:
            yield (*way, 0)
        cohort.server = saved
    cohort.states = before
