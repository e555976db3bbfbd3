"""How long a baseline on pooled data will take and how much memory, before it begins.

Counts of what its parts do, by how long one of each takes on one core of 2 GHz (measured at 3,000 to 12,000 users and
10,000 to 30,000 items), times how much slower this machine is now. Good to about a factor of two, which is enough to
say "seconds", "minutes" or "not here".
"""

import os
import time
from dataclasses import dataclass

import numpy as np

from fedrec.data.interactions import DeviceTable
from fedrec.evaluation.baselines.pooled import BLOCK, CHUNK
from fedrec.evaluation.config import EvaluationConfig

NS = 1e-9
FLOP = 0.02 * NS  # of a dense product
SPREAD = 8 * NS  # one entry of a sparse product with a matrix that no cache holds
RANKED = 13 * NS  # one score of one user: made, held against the others
ADDED = 30 * NS  # one entry of a sparse product
PICKED = 28 * NS  # one similarity among those of an item, the largest to be kept
SOLVED = 13_000 * NS  # one row's system of a few dozen unknowns
HEAD, DIM, EPOCHS, NEIGHBOURS = 5000, 32, 10, 50  # as the baselines' own
PROBE, PROBE_SECONDS = 1 << 18, 0.012  # numbers that are sorted to see how fast this machine is now


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds on this machine as busy as it is now, and bytes held at once."""

    seconds: float
    bytes: float

    def __str__(self) -> str:
        minutes = self.seconds / 60
        took = f"{minutes:,.0f} min" if minutes >= 2 else f"{self.seconds:,.0f} s"
        return f"about {took} and {self.bytes / 2**30:,.1f} GiB"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the work grows with: users, those evaluated, items, interactions, and pairs of items within histories."""

    users: int
    evaluated: int
    items: int
    interactions: int
    pairs: float

    @classmethod
    def of(cls, devices: DeviceTable, options: EvaluationConfig) -> "Sizes":
        """Count them; with `options.head`, as many items as that."""
        lengths, items = np.diff(devices.start), min(options.head or devices.items, devices.items)
        pairs = float(np.square(lengths, dtype=np.float64).sum())
        return cls(len(devices), len(options.chosen(len(devices))), items, int(lengths.sum()), pairs)


def estimate_cost(name: str, devices: DeviceTable, options: EvaluationConfig) -> Cost:
    """Return what a pooled baseline will take; `local` and `popularity` have nothing to fit."""
    size = Sizes.of(devices, options)
    fit = {"item_knn": _item_knn, "ease": _ease, "ials": _ials}.get(name)
    seconds, held = fit(size) if fit else (0.0, 0.0)
    ranked = size.evaluated * devices.items * RANKED
    return Cost((seconds + ranked) * find_slowness(), held + 8.0 * 2**22)


def memory() -> float:
    """Return how many bytes of memory this machine has."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def find_slowness() -> float:
    """Return how much longer sorting some numbers takes now than where the costs were measured."""
    numbers, start = np.random.default_rng(0).random(PROBE), time.perf_counter()
    np.sort(numbers)
    return (time.perf_counter() - start) / PROBE_SECONDS


def _item_knn(size: Sizes) -> tuple[float, float]:
    scored = size.evaluated * (size.items * RANKED + size.interactions / max(size.users, 1) * NEIGHBOURS * ADDED)
    return size.items**2 * PICKED + size.pairs * ADDED + scored, 8.0 * size.items * (4 * BLOCK + 4 * NEIGHBOURS)


def _ease(size: Sizes) -> tuple[float, float]:
    side = min(size.users if size.users < size.items else size.items, HEAD)
    scored = size.interactions / max(size.users, 1) * size.evaluated * side * SPREAD
    return side**3 * FLOP + size.pairs * ADDED + scored, 8.0 * 3 * side**2


def _ials(size: Sizes) -> tuple[float, float]:
    rows = size.users + size.items
    fit = EPOCHS * (rows * SOLVED + 4 * size.interactions * DIM**2 * FLOP)
    return fit + size.evaluated * (SOLVED + 2 * size.items * DIM * FLOP), 8.0 * (4 * rows * DIM + 2 * CHUNK * DIM**2)
