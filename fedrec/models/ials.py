"""iALS: matrix factorisation for implicit feedback, whose user vector is solved for on the device (Rendle et al. 2022).

A device with items S holds the vector p that minimises, over its items and all V items q,
sum_S (1 - p.q)^2 + w * sum_all (p.q)^2 + regularization * (|S| + w * V) |p|^2, w = unobserved_weight (their nu = 1).
"""

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
        factors = cast(Tensor, self.item_factors)
        used = np.unique(history.cpu().numpy())
        own = user_vector(factors.cpu().numpy(), used, self.unobserved_weight, self.regularization)
        return (factors @ torch.from_numpy(own).to(factors.device)).float()


def user_vector(factors: Floats, used: NDArray[np.integer], unobserved_weight: float, regularization: float) -> Floats:
    """Return the best vector [d] of a device that used these items, each named once, given all item vectors [V, d]."""
    seen = factors[used]
    system = unobserved_weight * (factors.T @ factors) + seen.T @ seen
    system[np.diag_indices(len(system))] += regularization * (len(used) + unobserved_weight * len(factors))
    return np.linalg.solve(system, seen.sum(axis=0))
