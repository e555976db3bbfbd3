"""FedAdagrad: the server divides by the root of all squared changes so far (Reddi et al. 2021, alg. 2)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrec.algorithms.fedopt import FedAdam


@dataclass(frozen=True, slots=True)
class FedAdagrad(FedAdam):
    """As `FedAdam`, with no first moment by default and a second moment that only grows."""

    name: ClassVar[str] = "fedadagrad"
    beta1: float = 0.0

    def second(self, previous: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Return the next second moment: the sum of squares."""
        return previous + np.square(change)
