"""Sampled candidates: drawn once per device from a fixed seed, apart for validation and test."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedrec.data.interactions import DeviceData, DeviceTable
from fedrec.evaluation.config import EvaluationConfig

Items = NDArray[np.int32]
Part = Literal["validation", "test"]
BLOCK = 64  # devices whose mapped pages may be held at a time


def draw(device: DeviceData, items: int, options: EvaluationConfig) -> tuple[Items, Items]:
    """Return (test, validation) candidates of one device: disjoint, distinct, uniform over what it never used.

    Where its items may come again, they are uniform over all items but its two targets.

    They depend on (seed, user), on the items that the device holds in any part and on nothing else. Where the
    catalogue leaves fewer than 2 * negatives items, each gets half of those. Published test candidates are taken as
    they are (the publisher's slips included) and kept out of the validation's.
    """
    free = np.ones(items, bool)
    free[device.known[-1:] if device.repeats else device.known] = False
    free[device.test] = False
    published = device.candidates
    if published is not None:
        free[published] = False
    left = np.flatnonzero(free)
    parts = 2 if published is None else 1
    each = min(options.negatives, len(left) // parts)
    generator = np.random.default_rng(np.random.SeedSequence((options.seed, device.user)))
    drawn = generator.choice(left, parts * each, replace=False).astype(np.int32)
    return (drawn[:each], drawn[each:]) if published is None else (published, drawn)


class CandidateBook:
    """The candidates of the devices of a population, each device's drawn once."""

    def __init__(self, devices: DeviceTable, options: EvaluationConfig) -> None:
        self.devices, self.options = devices, options
        self._drawn: dict[int, tuple[Items, Items]] = {}

    def of(self, user: int, part: Part) -> Items:
        """Return the candidates of one device."""
        if user not in self._drawn:
            self._drawn[user] = draw(self.devices[user], self.devices.items, self.options)
        test, validation = self._drawn[user]
        return test if part == "test" else validation


def digest(candidates: Iterable[NDArray[np.integer]]) -> str:
    """Return the SHA-256 over the candidates of all devices, in the order of devices; order within one is no matter."""
    sha = hashlib.sha256()
    for one in candidates:
        sha.update(len(one).to_bytes(8, "little"))
        sha.update(np.sort(one).astype("<i4").tobytes())
    return sha.hexdigest()


def candidates_digest(devices: DeviceTable, options: EvaluationConfig) -> str:
    """Return the digest of the test candidates of the devices that are evaluated."""

    def drawn() -> Iterator[Items]:
        for place, user in enumerate(options.chosen(len(devices)).tolist()):
            if place % BLOCK == 0:
                devices.release_pages()
            yield draw(devices[user], devices.items, options)[0]

    return digest(drawn())
