"""Which devices a node hosts: every so-manieth row of a population, or rows that it lists."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.messages import Message

Hosted = NDArray[np.int64] | range
NOBODY = 1 << 62


def hosted_by(reply: Message, node: int) -> Hosted:
    """Return the devices that a node's hello names: those it lists, else its "range" (first, end, step)."""
    if "devices" in reply.arrays:
        return reply.arrays["devices"].astype(np.int64)
    said = reply.header.get("range")
    numbers = cast(list[Any], said) if isinstance(said, list) else []
    if len(numbers) != 3 or not all(type(n) is int and 0 <= n < NOBODY for n in numbers) or numbers[2] < 1:
        raise FedrecError(f"node {node} does not say which devices it hosts")
    return range(*cast(list[int], numbers))


def among(hosted: Hosted, devices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of the devices (ascending), ascending, that are hosted: for a range, without going through it.

    Rows are looked up in the devices, not merged with them: with a node a device, that would take their number squared.
    """
    if isinstance(hosted, np.ndarray):
        rows = np.unique(hosted)
        place = np.minimum(np.searchsorted(devices, rows), len(devices) - 1)
        return rows[devices[place] == rows] if len(devices) else rows[:0]
    inside = (devices >= hosted.start) & (devices < hosted.stop) & ((devices - hosted.start) % hosted.step == 0)
    return np.unique(devices[inside])


def first_of(hosted: Hosted) -> int:
    """Return the first row, a number above all rows where there is none."""
    return int(hosted.min(initial=NOBODY)) if isinstance(hosted, np.ndarray) else next(iter(hosted), NOBODY)


def apart(hosted: Sequence[Hosted]) -> bool:
    """Say whether no device is hosted twice."""
    ranges = [rows for rows in hosted if isinstance(rows, range) and len(rows)]
    if len(ranges) == sum(len(rows) > 0 for rows in hosted) and len({rows.step for rows in ranges}) <= 1:
        return _cosets_apart(ranges)
    everyone = np.concatenate([np.asarray(rows, np.int64) for rows in hosted])
    return len(np.unique(everyone)) == len(everyone)


def _cosets_apart(ranges: list[range]) -> bool:
    """Say whether ranges of one step share no row: those that meet the same rows end before the next begins."""
    order = sorted(ranges, key=lambda rows: (rows.start % rows.step, rows.start))
    return all(one.start % one.step != two.start % two.step or one[-1] < two.start for one, two in pairwise(order))
