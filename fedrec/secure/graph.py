"""Who masks with whom: every device with some neighbours, few enough to be cheap and enough to be safe.

Bell, Bonawitz, Gascon, Lepoint & Raykova, "Secure single-server aggregation with (poly)logarithmic overhead", 2020.
Devices sit on a circle in an order that follows from a hash; each is a neighbour of the k/2 next to it on either side.
A device's secrets are shared among its k neighbours, `threshold` of whom can rebuild one.

How many neighbours, for n devices of which c are corrupt and d drop out at most. To each device the others sit in a
random order, so how many of its neighbours are corrupt is hypergeometric. Over all devices these are rare:

1. `threshold` corrupt neighbours of one device, who could rebuild its secrets: below 2^-80;
2. k/2 devices in a row that are corrupt or gone, without which what is left of the circle holds together, so that
   only the whole sum can be unmasked: below 2^-80;
3. fewer than `threshold` neighbours of one device left, so that there is no sum: below 2^-30.

Half of the 80 bits are against a server that tries 2^40 lists of devices until the order suits it. The threshold is
more than half of k: so a device whose neighbours each give a share of one of its two secrets never has both rebuilt.
`quorum` is more than half of the devices and of the corrupt ones together: two lists of who is left can't both have so
many signatures, where honest devices sign one.

Up to 128 devices everybody is everybody's neighbour, and nothing is left to chance. Beyond, drop-outs are taken to be
blind to the circle. A server that chooses who is said to be gone can cut it in two, with corrupt devices at the edges
of the cut, and then unmask each part by itself: part of the devices, part of the noise.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

from fedrec.errors import RefusedError

UNSAFE_BITS, LOST_BITS = 80, 30
ALL_PAIRS = 128  # up to so many devices, each is a neighbour of all others
LEAST, MOST = 3, 1 << 20  # devices of one sum


@dataclass(frozen=True, slots=True)
class Graph:
    """The public numbers of a cohort: each of `devices` has `neighbours`, `threshold` of whom rebuild a secret."""

    devices: int
    neighbours: int
    threshold: int
    quorum: int

    @property
    def least(self) -> int:
        """The fewest devices that must be left for there to be a sum."""
        return max(self.quorum, self.threshold + 1)


@lru_cache(maxsize=1024)
def plan_graph(devices: int, corrupt_share: float, dropped_share: float) -> Graph:
    """Return the graph with the fewest neighbours for so many devices, or `RefusedError` where there is none.

    At most `corrupt_share` of them are corrupt and `dropped_share` drop out.
    """
    if not (0 <= corrupt_share < 0.5 and dropped_share >= 0 and corrupt_share / 2 + dropped_share < 0.5):
        raise RefusedError(
            f"privacy.corrupt={corrupt_share} and privacy.dropped={dropped_share}: half of the corrupt devices and all "
            "that drop out must be less than half of a cohort"
        )
    if not LEAST <= devices <= MOST:
        raise RefusedError(f"{devices} devices have no secure sum: {LEAST} to {MOST:,} are needed")
    corrupt, dropped = math.floor(corrupt_share * devices), math.floor(dropped_share * devices)
    quorum = (devices + corrupt) // 2 + 1
    for neighbours in range(2, devices - 1, 2) if devices > ALL_PAIRS else ():
        if is_safe(devices, corrupt, dropped, neighbours):
            return Graph(devices, neighbours, neighbours // 2 + 1, quorum)
    # All pairs: nothing is left to chance.
    threshold = max((devices - 1) // 2 + 1, corrupt + 1)
    if threshold > devices - dropped - 1:
        raise RefusedError(f"{devices} devices, {corrupt} of them corrupt and {dropped} dropped, have no secure sum")
    return Graph(devices, devices - 1, threshold, quorum)


def is_safe(devices: int, corrupt: int, dropped: int, neighbours: int) -> bool:
    """Say whether so many neighbours, even, keep what must be rare as rare as it must be."""
    threshold, half, others = neighbours // 2 + 1, neighbours // 2, devices - 1
    bad, unsafe, lost = corrupt + dropped, UNSAFE_BITS, LOST_BITS
    # Exact: chance * devices * 2^bits < 1, in whole numbers.
    run = math.comb(bad, half) * devices << unsafe < math.comb(devices, half)
    held = tail(others, corrupt, neighbours, threshold) * devices << unsafe < math.comb(others, neighbours)
    gone = tail(others, dropped, neighbours, neighbours - threshold + 1)
    return run and held and gone * devices << lost < math.comb(others, neighbours)


def tail(of: int, marked: int, drawn: int, least: int) -> int:
    """Return in how many of the choices of `drawn` out of `of` there are at least `least` of the `marked`."""
    first = max(least, drawn - (of - marked), 0)
    if first > min(drawn, marked):
        return 0
    term, total = math.comb(marked, first) * math.comb(of - marked, drawn - first), 0
    for found in range(first, min(drawn, marked) + 1):
        total += term
        term = term * (marked - found) * (drawn - found) // ((found + 1) * (of - marked - drawn + found + 1))
    return total


@dataclass(frozen=True, slots=True)
class Circle:
    """The order of devices 0, 1, ... on the circle, and where each sits."""

    order: tuple[int, ...]
    seats: tuple[int, ...]

    def neighbours_of(self, device: int, graph: Graph) -> tuple[int, ...]:
        """Return a device's neighbours, ascending."""
        if graph.neighbours == graph.devices - 1:
            return tuple(other for other in range(graph.devices) if other != device)
        seat, half = self.seats[device], graph.neighbours // 2
        steps = (step for step in range(-half, half + 1) if step)
        return tuple(sorted(self.order[(seat + step) % graph.devices] for step in steps))


@lru_cache(maxsize=16)
def arrange_circle(devices: int, root: bytes) -> Circle:
    """Return the circle of so many devices: by the SHA-256 of the list's root and each one's number in it."""
    order = sorted(range(devices), key=lambda device: hashlib.sha256(root + device.to_bytes(4)).digest())
    seats = sorted(range(devices), key=order.__getitem__)
    return Circle(tuple(order), tuple(seats))
