"""iALS: matrix factorisation for implicit feedback, whose user vector is solved for on the device (Rendle et al. 2022).

A device with items S holds the vector p that minimises, over its items and all V items q,
sum_S (1 - p.q)^2 + w * sum_all (p.q)^2 + regularization * (|S| + w * V) |p|^2, w = unobserved_weight (their nu = 1).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Recommender, check_sizes

Floats = NDArray[np.float64]


class Ials(Recommender):
    """Shares item vectors [V, d] in double precision; the user vector is made from the history when it is needed."""

    name: ClassVar[str] = "ials"
    shared = frozenset({"item_factors"})

    def __init__(
        self, catalogue: Catalogue, *, dim: int = 32, unobserved_weight: float = 0.3, regularization: float = 0.01
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, unobserved_weight=unobserved_weight, regularization=regularization)
        self.items, self.unobserved_weight, self.regularization = len(catalogue), unobserved_weight, regularization
        first = torch.randn(self.items, dim, dtype=torch.float64) * (0.1 / dim**0.5)
        self.register_buffer("item_factors", first)

    def scores(self, history: Tensor) -> Tensor:
        """Return the products of the device's vector with all item vectors [V]."""
        return self.scores_many([history], {})[0]

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the scores [C, V] of C devices; what all of them solve with is made once."""
        factors = cast(Tensor, self.item_factors)
        solver = UserSolver(factors.cpu().numpy(), self.unobserved_weight, self.regularization)
        own = (solver.vector(np.unique(history.cpu().numpy())) for history in histories)
        return torch.stack([(factors @ torch.from_numpy(one).to(factors.device)).float() for one in own])


class UserSolver:
    """Finds the best vector [d] of a device, given all item vectors [V, d]."""

    def __init__(self, factors: Floats, unobserved_weight: float, regularization: float) -> None:
        self._factors, self._regularization = factors, regularization
        self._unobserved, self._every = unobserved_weight * len(factors), unobserved_weight * (factors.T @ factors)

    def vector(self, used: NDArray[np.integer]) -> Floats:
        """Return the vector of a device that used these items, each named once."""
        seen = self._factors[used]
        system = self._every + seen.T @ seen
        system[np.diag_indices(len(system))] += self._regularization * (len(used) + self._unobserved)
        return np.linalg.solve(system, seen.sum(axis=0))
