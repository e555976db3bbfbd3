"""Matrix factorisation in NumPy: the twin of `fedrec.models.mf`.

Shapes: B examples, 1+k items of each, V items, d dimensions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.numpy_engine.losses import Floats
from fedrec.numpy_engine.model import Gradient, Gradients, Items, LightModel, by_row


class MatrixFactorisation(LightModel):
    """logit = user . item + item_bias + offset; only the item side is shared."""

    shared = frozenset({"item.weight", "item_bias.weight"})

    def __init__(
        self,
        items: int,
        *,
        dim: int = 32,
        loss: str = "bce",
        offset: float = 0.0,
        scale: float = 0.1,
        warm_start: str | None = None,  # what the server's first item vectors come from: devices receive them anyway
    ) -> None:
        shapes = {"user.weight": (1, dim), "item.weight": (items, dim), "item_bias.weight": (items, 1)}
        super().__init__(items, shapes, loss, scale)
        self.offset = offset

    def gradients(self, items: Items, values: Floats) -> tuple[Floats, Gradients]:
        """Return (loss of each example [B], gradients of their sum) for items [B, 1+k] and ratings [B]."""
        user, vectors = self.arrays["user.weight"][0], self.arrays["item.weight"][items]
        bias = self.arrays["item_bias.weight"][items, 0]
        losses, slope = self.criterion(vectors @ user + bias + self.offset, values)
        pulled = by_row(items.ravel(), slope.reshape(-1, 1))  # every vector of the item table moves along the user's
        return losses, {
            "user.weight": Gradient(np.einsum("bk,bkd->d", slope, vectors)[None]),
            "item.weight": Gradient(pulled.values * user, pulled.rows),
            "item_bias.weight": pulled,
        }

    def scores(self, history: NDArray[np.integer[Any]]) -> Floats:
        """Return user . item + bias for every item [V]; the history has shaped the user vector, nothing else."""
        arrays = self.arrays
        return arrays["item.weight"] @ arrays["user.weight"][0] + arrays["item_bias.weight"][:, 0] + self.offset
