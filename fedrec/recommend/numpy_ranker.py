"""A light model as it ranks for one person: the private part is found again from the history, the rest stands still.

A device calls this whenever an event is logged or forgotten, so that the next answer counts it; somebody who never
trained is served in the same way. Shapes: V items, n items of a history, d dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.messages import Arrays
from fedrec.numpy_engine.experiment import light_model
from fedrec.numpy_engine.models import Floats, LightModel, MatrixFactorization
from fedrec.numpy_engine.solver import LogitStep, Solved, SolveWeights, solve_user
from fedrec.recommend.ranker import Items, UserRanker, check_rows

# Chosen on the validation items of ml-latest-small, where they rank as well as the vectors that devices had trained.
NEGATIVES, RIDGE = 4.0, 3.0  # the ridge in units of the mean squared length of an item's vector
RATING_RIDGE = 1.0  # likewise, where scores are ratings
STEPS, DRAWN, RATE = 60, 4, 0.4  # of the gradient descent on private arrays that no closed form finds


@dataclass(frozen=True)
class LinearRanker:
    """Matrix factorisation: the user vector in the parts of the history's items, linear in them."""

    history: Items
    vectors: Floats  # [V, d]
    own: Floats  # [V]: what each item has without any history
    solved: Solved  # of the different items of the history
    first: NDArray[np.int64]  # where in the history each of them is first

    @cached_property
    def _found(self) -> Floats:
        return self.vectors @ self.solved.user.astype(self.vectors.dtype) + self.own

    def scores(self) -> Floats:
        """Return user . item + what the item has on its own, for every item [V]."""
        return self._found

    def item_contributions(self, item: int) -> Floats:
        """Return what each item of the history adds to one item's score [n]; what comes again adds nothing more."""
        found = np.zeros(len(self.history))
        found[self.first] = self.solved.item_contributions(self.vectors[item])
        return found


@dataclass(frozen=True, slots=True)
class FixedRanker:
    """A model whose scores are no sum over the items of a history."""

    history: Items
    found: Floats

    def scores(self) -> Floats:
        """Return the scores [V] found from the history."""
        return self.found

    def item_contributions(self, item: int) -> None:
        """Say that there are no shares."""
        return None


class RankerFactory:
    """A model with the shared arrays of a round, on the device of one person."""

    def __init__(self, node: Mapping[str, Any], items: int, shared: Arrays, private: Arrays | None = None) -> None:
        """Build the model that a document describes; `private` are arrays to start from where training needs some."""
        self.model: LightModel = light_model(node, items)
        self.model.load({name: array for name, array in shared.items() if name in self.model.shared})
        self.model.load(private or {})
        if isinstance(self.model, MatrixFactorization) and not self.model.ratings:
            self._step = LogitStep(self.model.arrays["item.weight"], self._own(self.model), NEGATIVES, RIDGE)

    def ranker(self, history: Items, values: NDArray[np.float32] | None = None) -> UserRanker:
        """Return how the model ranks for a history [n] (with ratings [n], where the model learns from them)."""
        rows = self._rows(history)
        if isinstance(self.model, MatrixFactorization):
            return self._linear(self.model, rows, values)
        return FixedRanker(rows, self._refined(rows, values)[1])

    def private(self, history: Items, values: NDArray[np.float32] | None = None) -> Arrays:
        """Return the private arrays that a history asks for, by the names and shapes that training starts from."""
        rows = self._rows(history)
        if isinstance(self.model, MatrixFactorization):
            used, first = np.unique(rows, return_index=True)
            found = self._solved(self.model, used, None if values is None else values[first])
            return {"user.weight": found.user.astype(np.float32)[None]}
        return self._refined(rows, values)[0]

    def _rows(self, history: Items) -> NDArray[np.int64]:
        check_rows(history, self.model.items)
        return history.astype(np.int64)

    @staticmethod
    def _own(model: MatrixFactorization) -> Floats:
        return model.arrays["item_bias.weight"][:, 0] + np.float32(model.offset)

    def _linear(self, model: MatrixFactorization, rows: NDArray[np.int64], values: Floats | None) -> LinearRanker:
        used, first = np.unique(rows, return_index=True)
        ratings = None if values is None else values[first]
        return LinearRanker(
            rows, model.arrays["item.weight"], self._own(model), self._solved(model, used, ratings), first
        )

    def _solved(self, model: MatrixFactorization, used: NDArray[np.int64], ratings: Floats | None) -> Solved:
        if not model.ratings:
            return self._step.of(used)
        own, vectors = self._own(model), model.arrays["item.weight"]
        targets = np.ones(len(used)) if ratings is None else ratings - own[used]
        length = max(float(np.mean(np.sum(vectors**2, axis=1))), 1e-6)
        gram, weights = np.zeros((vectors.shape[1],) * 2), SolveWeights(0.0, RATING_RIDGE * length)
        return solve_user(vectors[used], targets, gram, weights)

    def _refined(self, rows: NDArray[np.int64], values: Floats | None) -> tuple[Arrays, Floats]:
        """Return (private arrays, scores) after gradient descent on them alone, from those that the model has now."""
        model, kept = self.model, self.model.private_arrays()
        free, generator = np.setdiff1d(np.arange(model.items), rows), np.random.default_rng(0)
        ratings = np.ones(len(rows), np.float32) if values is None else values
        for _ in range(STEPS if len(rows) else 0):
            drawn = generator.choice(free, (len(rows), DRAWN if len(free) and not model.ratings else 0))
            _, gradients = model.gradients(np.concatenate([rows[:, None], drawn], axis=1), ratings)
            for name in kept:
                model.arrays[name] = model.arrays[name] - np.float32(RATE / len(rows)) * gradients[name].values
        refined, found = model.private_arrays(), model.scores(rows)
        model.load(kept)
        return refined, found
