"""iALS: matrix factorisation for implicit feedback, whose user vector is solved for on the device (Rendle et al. 2022).

A device with items S holds the vector p that minimises, over its items and all V items q,
sum_S (1 - p.q)^2 + unobserved * sum_all (p.q)^2 + regulariser * (|S| + unobserved * V) |p|^2 (their nu = 1).
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
        self, catalogue: Catalogue, *, dim: int = 32, unobserved: float = 0.3, regulariser: float = 0.01
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, unobserved=unobserved, regulariser=regulariser)
        self.items, self.unobserved, self.regulariser = len(catalogue), unobserved, regulariser
        first = torch.randn(self.items, dim, dtype=torch.float64) * (0.1 / dim**0.5)
        self.register_buffer("item_factors", first)

    def scores(self, history: Tensor) -> Tensor:
        """Return the products of the device's vector with all item vectors [V]."""
        factors = cast(Tensor, self.item_factors)
        used = np.unique(history.cpu().numpy())
        own = user_vector(factors.cpu().numpy(), used, self.unobserved, self.regulariser)
        return (factors @ torch.from_numpy(own).to(factors.device)).float()


def user_vector(factors: Floats, used: NDArray[np.integer], unobserved: float, regulariser: float) -> Floats:
    """Return the best vector [d] of a device that used these items, each named once, given all item vectors [V, d]."""
    seen = factors[used]
    system = unobserved * (factors.T @ factors) + seen.T @ seen
    system[np.diag_indices(len(system))] += regulariser * (len(used) + unobserved * len(factors))
    return np.linalg.solve(system, seen.sum(axis=0))
