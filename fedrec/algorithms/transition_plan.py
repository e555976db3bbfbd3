"""What a run of order statistics asks devices for, round by round: its settings, shares, shapes and bounds."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from fedrec.algorithms.base import StatisticAlgorithm
from fedrec.algorithms.feature_weights import most_numbers
from fedrec.algorithms.item_bounds import ItemBound, bounding, check_shortest_history
from fedrec.algorithms.item_pairs import plain_norm, triangle
from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError
from fedrec.messages import Arrays
from fedrec.privacy.guarantee import Unit

STAGES = ("counts", "pairs", "cells", "weights")
STAGE, CELLS, CELL_SHARE, SCALES = "stage/order", "stage/cells", "stage/cell_share", "stage/scales"
COUNTS, PARTS, CELL_PARTS = ("counts", "late"), ("symmetric", "antisymmetric"), ("cell_symmetric", "cell_antisymmetric")


@dataclass(frozen=True, slots=True)
class TransitionPlan(StatisticAlgorithm):
    """What the rounds of order statistics ask for; sensitivity 1 at user level.

    `head` items are modelled in pairs. `window` and `decay` say which transitions count: one at lag l weighs
    decay^(l - 1). `direction` is the weight of the ascending part. `count_share` and `late_share` of the budget go to
    the counts and to those of the last `late` items. With `order` false a device's vector holds the pairs of items that
    it used at all, in no order. `cell_share` goes to `cells` pairs a head item, `weight_share` to the weights of the
    features; either round is left out where its share is 0. `own` and `prior_scale` are those of `FactorPrior`. With a
    `shortest_history` no device says more of an item, of a pair, or of all pairs of an item, than a history of so many
    different items does. With an `encoder` (`fedrec.models.text_embeddings`), what a public language model says of
    items is one more thing to smooth by. The catalogue is that of `with_catalogue`.
    """

    head: int = 1500
    one_round: bool = False
    order: bool = True
    window: int = 10
    decay: float = 0.8
    direction: float = 0.4
    late: int = 20
    count_share: float = 0.2
    late_share: float = 0.06
    cells: int = 22
    cell_share: float = 0.0
    weight_share: float = 0.0
    own: float = 0.95
    prior_scale: float | None = None
    encoder: str | None = None
    shortest_history: int | str | None = None
    catalogue: Catalogue | None = None

    def __post_init__(self) -> None:
        for name in ("window", "late", "cells"):
            if getattr(self, name) < 1:
                raise FedrecError(f"algorithm.{name}={getattr(self, name)} must be at least 1")
        for name in ("decay", "direction", "count_share", "late_share", "own"):
            if not 0 < getattr(self, name) <= 1:
                raise FedrecError(f"algorithm.{name}={getattr(self, name)} must lie above 0 and at most at 1")
        for name in ("cell_share", "weight_share"):
            if not 0 <= getattr(self, name) < 1:
                raise FedrecError(f"algorithm.{name}={getattr(self, name)} must be at least 0 and below 1")
        if self.count_share + self.late_share + self.cell_share + self.weight_share >= 1:
            shares = "count_share, late_share, cell_share and weight_share"
            raise FedrecError(f"algorithm.{shares} must leave some of the budget for pairs")
        if self.prior_scale is not None and not self.prior_scale > 0:
            raise FedrecError(f"algorithm.prior_scale={self.prior_scale} must be positive, or null")
        check_shortest_history(self.shortest_history)
        if not isinstance(self.catalogue, Catalogue | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise FedrecError("algorithm.catalogue is the data set's: it can't be set")

    def with_catalogue(self, catalogue: Catalogue) -> Self:
        """Return the algorithm with the catalogue that it smooths by."""
        return replace(self, catalogue=catalogue)

    @property
    def stages(self) -> tuple[str, ...]:
        """What the rounds are about, in turn; in one round counts and pairs are sent together."""
        if self.one_round:
            return ("counts",)
        left_out = {"cells": not self.cell_share, "weights": not self.weight_share}
        return tuple(name for name in STAGES if not left_out.get(name))

    def rounds(self, rounds: int) -> int:
        """Take a round for each stage, whatever is asked for."""
        return len(self.stages)

    def budget_shares(self, rounds: int) -> tuple[float, ...] | None:
        """Spend in each round what its stage gets."""
        counted = self.count_share + self._late_share
        shares = {"counts": counted, "cells": self.cell_share, "weights": self.weight_share}
        shares["pairs"] = 1 - sum(shares.values())
        return None if self.one_round else tuple(shares[name] for name in self.stages)

    def sensitivity(self, unit: Unit) -> float | None:
        """One at user level. One interaction shifts the lags of others, for which there is no argument here."""
        return 1.0 if unit in (Unit.USER, Unit.NONE) else None

    def shapes(self, state: Arrays) -> dict[str, tuple[int, ...]]:
        """Expect two vectors of counts [V], two flat triangles, two vectors of cells, or slopes; in one round both."""
        items, size, stage = len(state["counts"]), len(state["head_items"]), stage_of(state)
        parts = dict[str, tuple[int, ...]]()
        if stage == "counts" or self.one_round:
            parts |= {name: (items,) for name in COUNTS}
        if stage == "pairs" or self.one_round:
            parts |= {name: (triangle(items if self.one_round else size),) for name in PARTS}
        if stage == "cells":
            parts |= {name: state[CELLS].shape for name in CELL_PARTS}
        if stage == "weights":
            parts["slopes"] = (most_numbers(len(state[SCALES])),)
        return parts

    def item_bounds(self, unit: Unit, state: Arrays) -> dict[str, ItemBound]:
        """Bound each count, each pair in either part, and the sum over the pairs of an item."""
        if (shortest := bounding(self.shortest_history, unit)) is None:
            return {}
        lengths, norm = self.lengths(), self.least_norm(shortest)
        pair = lengths["pairs"] / norm if norm else lengths["pairs"]
        # Of pairs in no order, the n - 1 of an item have a length of sqrt(2 (n - 1) / n).
        row = 2 * sum(self.decay**lag for lag in range(self.window)) * pair if self.order else lengths["pairs"] * 2**0.5
        bounds = {
            "counts": ItemBound(lengths["counts"] * shortest**-0.5),
            "late": ItemBound(lengths["late"] * min(shortest, self.late) ** -0.5),
        }
        places, more = None, 1.0
        for names in (PARTS, CELL_PARTS):
            if names == CELL_PARTS:
                if CELLS not in state:
                    return bounds
                more = max(float(state[CELL_SHARE][0]), 1e-12) ** -0.5
                places = (state[CELLS].astype(np.int64), len(state["head_items"]))
            bounds[names[0]] = ItemBound(more * pair, more * row, places=places)
            bounds[names[1]] = ItemBound(
                self.direction * more * pair, self.direction * more * row, signed=True, places=places
            )
        return bounds

    def least_norm(self, shortest: int | None) -> float:
        """Return the norm of the pairs of the shortest history: no device's are divided by less."""
        if shortest is None:
            return 0.0
        ordered = plain_norm(shortest, self.window, self.decay, self.direction)
        return ordered if self.order else triangle(shortest) ** 0.5

    def lengths(self) -> dict[str, float]:
        """Return the L2 length of each part of a device's vector; within a round their squares add up to 1."""
        counted = self.count_share + self._late_share
        whole = 1.0 if self.one_round else counted
        pairs = 1 - counted if self.one_round else 1.0
        squares = {"counts": self.count_share / whole, "late": self._late_share / whole, "pairs": pairs}
        return {name: float(np.sqrt(square)) for name, square in squares.items()}

    @property
    def _late_share(self) -> float:
        return self.late_share if self.order else 0.0


def stage_of(state: Arrays) -> str:
    """Return what the next round is about."""
    return STAGES[int(state[STAGE][0])]
