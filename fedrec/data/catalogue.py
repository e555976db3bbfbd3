"""The public side: what can be recommended."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items that everybody may know: `ids[items]`, `titles[items]` and `features[items, feature_names]`.

    `origin` is "item file" where the source lists its items apart from who used them, else "interactions":
    then the vocabulary depends on users and every privacy claim carries "assumed public".
    """

    ids: NDArray[np.str_]
    titles: NDArray[np.str_]
    features: NDArray[np.float32]
    feature_names: tuple[str, ...]
    origin: str

    def __len__(self) -> int:
        return len(self.ids)
