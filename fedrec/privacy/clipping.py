"""How one device's update is bounded: all arrays together, or item rows and dense parameters apart.

Whole ("flat") clipping is that of McMahan et al., "Learning differentially private recurrent language models", 2018;
split clipping is their per-layer clipping with two groups: the update lies within sqrt(c1^2 + c2^2), which is what is
accounted.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError, RefusedError, suggest
from fedrec.messages import Arrays, ModelUpdate
from fedrec.privacy.grid import Grid

GROUPINGS = ("whole", "split")


def group_of(name: str, grouping: str) -> str:
    """Return the group of an array: "all"; or, split, "items" for tables of one row an item and "dense" for the rest.

    Models name their item tables item..., as in "item.weight" or "item_bias.weight".
    """
    if grouping == "whole":
        return "all"
    return "items" if name.startswith("item") else "dense"


@dataclass(frozen=True, slots=True)
class NormClipper:
    """Bounds the L2 norm of each group of arrays, and so that of the whole update by `norm`.

    Split, `dense_share` of the squared norm belongs to the dense parameters and the rest to the item rows.
    """

    norm: float
    grouping: str = "whole"
    dense_share: float = 0.5

    def __post_init__(self) -> None:
        if self.grouping not in GROUPINGS:
            raise FedrecError(f"privacy.clipping={self.grouping} does not exist.{suggest(self.grouping, GROUPINGS)}")
        if not 0 < self.dense_share < 1:
            raise FedrecError(f"privacy.dense_share={self.dense_share}: must lie between 0 and 1")

    @property
    def bounds(self) -> dict[str, float]:
        """The largest norm of each group; their squares add up to that of `norm`."""
        if self.grouping == "whole":
            return {"all": self.norm}
        dense = self.norm * math.sqrt(self.dense_share)
        return {"items": self.norm * math.sqrt(1 - self.dense_share), "dense": dense}

    def lengths(self, grid: Grid) -> dict[str, int]:
        """Return the largest length of each group in whole steps; their squares add up to that of the grid, or less."""
        if self.grouping == "whole":
            return {"all": grid.length}
        shares = {"items": 1 - self.dense_share, "dense": self.dense_share}
        return {group: math.isqrt(int(4**grid.bits * share)) for group, share in shares.items()}

    def factors(self, squared_norms: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        """Return for each group what to multiply the arrays of each device [D] by: at most 1, the norm then in bounds.

        `squared_norms` holds each group's squared norms [D]. A device with a norm that is not finite gets 0 throughout.
        """
        usable = np.logical_and.reduce([np.isfinite(square) for square in squared_norms.values()])
        found = dict[str, NDArray[np.float64]]()
        for group, square in squared_norms.items():
            bound = self.bounds[group]
            factor = bound / np.maximum(np.sqrt(np.where(usable, square, 0.0)), bound)
            found[group] = np.where(usable, factor, 0.0)
        return found

    def squared_norms(self, update: ModelUpdate) -> dict[str, NDArray[np.float64]]:
        """Return the squared norm of each group of one update [1], infinite where a value is not a number."""
        sums = dict.fromkeys(self.bounds, 0.0)
        for name, array in update.arrays.items():
            sums[group_of(name, self.grouping)] += float(np.sum(np.square(array, dtype=np.float64)))
        return {group: np.array([square]) for group, square in sums.items()}

    def clipped(self, update: ModelUpdate, slack: float = 0.0) -> ModelUpdate:
        """Return the update within its bounds, as it is where it lies there (or within 1 + `slack` times) already."""
        factors = {group: float(factor[0]) for group, factor in self.factors(self.squared_norms(update)).items()}
        if all(factor * (1 + slack) >= 1 for factor in factors.values()):
            return update
        return ModelUpdate(
            {name: self._scaled(name, array, factors) for name, array in update.arrays.items()}, update.count
        )

    def _scaled(self, name: str, array: NDArray[np.float32], factors: Mapping[str, float]) -> NDArray[np.float32]:
        factor = factors[group_of(name, self.grouping)]
        # Zero times infinity is no number: what can't be scaled is replaced.
        return (array * np.float64(factor)).astype(np.float32) if factor else np.zeros(array.shape, np.float32)


def check_groups(grouping: str, arrays: Arrays, model: str) -> None:
    """Raise `RefusedError` if split clipping keeps a part of the norm for arrays that the model does not share."""
    groups = {group_of(name, "split") for name in arrays}
    if grouping == "split" and groups != {"items", "dense"}:
        only = "item rows" if groups == {"items"} else "dense parameters"
        raise RefusedError(
            f"privacy.clipping=split bounds item rows and dense parameters apart; {model} shares {only} only"
        )
