"""iALS as exchanged sums: a device solves for its own vector, the server for the items, from sums over devices alone.

For the items, the server needs for each item the sum of p p' and of p over the devices that used it, their number, and
the sum of p p' over all devices: with these its solve is that of centralised alternating least squares, exactly
(`fedrec/models/ials.py` has the loss). Arrays are in double precision.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.algorithms.base import PooledContribution, RoundContext, StatisticAlgorithm
from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError
from fedrec.messages import Arrays, ModelUpdate, cells
from fedrec.models.base import Recommender
from fedrec.models.ials import Ials, UserSolver
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import Aggregate

FACTORS = "item_factors"
CHUNK = 1024  # items whose [d, d] systems are solved together
LARGEST = 2**28  # values in the sum of p p' over all items: 2 GiB


@dataclass(frozen=True, slots=True)
class IALSStatistics(StatisticAlgorithm):
    """One alternation a round: devices solve and send sums, the server solves. Nothing bounds what one user changes."""

    name: ClassVar[str] = "ials"
    unobserved_weight: float = 0.3
    regularization: float = 0.01

    float64_arrays: ClassVar[frozenset[str]] = frozenset({"squares", "vectors", "uses", "gram"})
    accepts: ClassVar[tuple[type[Recommender], ...]] = (Ials,)

    def __post_init__(self) -> None:
        for name in ("unobserved_weight", "regularization"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise FedrecError(f"algorithm.{name}={getattr(self, name)} must be a positive number")

    def init(self, model: Recommender, catalogue: Catalogue) -> Arrays:
        """Start from the model's item vectors."""
        found = model.shared_arrays()
        items, dim = found[FACTORS].shape
        if items * dim * dim > LARGEST:
            need = items * dim * dim * 8 / 2**30
            raise FedrecError(
                f"model.dim={dim} over {items:,} items needs {need:,.1f} GiB for the sums: take a smaller one"
            )
        return found

    def rounds(self, rounds: int) -> int:
        """Alternate as often as asked for."""
        return rounds

    def budget_shares(self, rounds: int) -> tuple[float, ...] | None:
        """There is no budget to share."""
        return None

    def broadcast(self, state: Arrays) -> Arrays:
        """Send the item vectors."""
        return state

    def sensitivity(self, unit: Unit) -> float | None:
        """Have no argument at either unit: a user vector grows with what it is fitted to."""
        return None

    def shapes(self, state: Arrays) -> dict[str, tuple[int, ...]]:
        """Expect the sums of p p' and p over the users of each item, their number, and p p' over all devices."""
        items, dim = state[FACTORS].shape
        return {"squares": (items, dim, dim), "vectors": (items, dim), "uses": (items,), "gram": (dim, dim)}

    def statistic(self, broadcast: Arrays, device: DeviceData, unit: Unit) -> Arrays:
        """Return one device's part of the four sums; rows of items that it did not use are zero."""
        shapes, used = self.shapes(broadcast), np.unique(device.history).astype(np.int64)
        own = self._solver(broadcast).vector(used)
        square = np.outer(own, own)
        rows = {"squares": square.ravel(), "vectors": own, "uses": np.ones(1)}
        found: Arrays = {"gram": square}  # pyright: ignore[reportAssignmentType]
        for name, row in rows.items():
            index = (used[:, None] * len(row) + np.arange(len(row))).ravel()
            found[name] = cells(index, np.tile(row, len(used)), shapes[name])
        return {name: found[name] for name in shapes}

    def contribute_pooled(
        self,
        model: Recommender,
        broadcast: Arrays,
        devices: Sequence[DeviceData],
        private: Sequence[Arrays],
        context: RoundContext,
    ) -> PooledContribution | None:
        """Return the sums over the devices, bit for bit those of one device after the other; None under privacy.

        One device's p p' over its items is a thousand times as large as its p: without privacy it is never made.
        """
        if context.mechanism.terms.protects:
            return None
        solver, shapes = self._solver(broadcast), self.shapes(broadcast)
        used = [np.unique(device.history).astype(np.int64) for device in devices]
        own = np.stack([solver.vector(items) for items in used])
        squares = own[:, :, None] * own[:, None, :]
        where = np.concatenate(used), np.repeat(np.arange(len(used)), [len(items) for items in used])
        users_of = sparse.csr_array((np.ones(len(where[0])), where), (shapes["uses"][0], len(used)))
        sums: Arrays = {
            "squares": (users_of @ squares.reshape(len(used), -1)).reshape(shapes["squares"]),
            "vectors": users_of @ own,
            "uses": np.asarray(users_of.sum(axis=1)),
            "gram": squares.sum(axis=0),  # pyright: ignore[reportAssignmentType]
        }
        return PooledContribution(ModelUpdate(sums, len(used)), private)

    def _solver(self, broadcast: Arrays) -> UserSolver:
        return UserSolver(broadcast[FACTORS].astype(np.float64), self.unobserved_weight, self.regularization)

    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        """Solve for every item."""
        sums = {name: array.astype(np.float64) for name, array in total.arrays.items()}
        return {FACTORS: self.solved(sums, total.denominator)}  # pyright: ignore[reportReturnType]

    def solved(self, sums: dict[str, NDArray[np.float64]], devices: float) -> NDArray[np.float64]:
        """Return the best item vectors [V, d] for the sums over `devices` devices."""
        dim = len(sums["gram"])
        ridge = self.regularization * (sums["uses"] + self.unobserved_weight * devices)
        found = np.empty_like(sums["vectors"])
        for first in range(0, len(found), CHUNK):
            rows = slice(first, first + CHUNK)
            systems = (
                sums["squares"][rows] + self.unobserved_weight * sums["gram"] + ridge[rows, None, None] * np.eye(dim)
            )
            found[rows] = np.linalg.solve(systems, sums["vectors"][rows, :, None])[:, :, 0]
        return found
