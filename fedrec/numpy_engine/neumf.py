"""NeuMF in NumPy: the twin of `fedrec.models.neumf`.

Shapes: N items one after the other, V items of the catalogue, d dimensions of each half, h of the last layer.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.numpy_engine.losses import Floats
from fedrec.numpy_engine.model import Gradient, Gradients, Items, LightModel, by_row


class NeuMF(LightModel):
    """A generalised dot product beside a multilayer perceptron; both user vectors stay on the device."""

    def __init__(
        self,
        items: int,
        *,
        dim: int = 16,
        layers: Sequence[int] = (32, 16),
        loss: str = "bce",
        offset: float = 0.0,
        scale: float = 0.1,
    ) -> None:
        sizes = [2 * dim, *layers]
        shapes: dict[str, tuple[int, ...]] = {"user_gmf.weight": (1, dim), "user_mlp.weight": (1, dim)}
        shapes |= {"item_gmf.weight": (items, dim), "item_mlp.weight": (items, dim)}
        for place, (inputs, outputs) in enumerate(pairwise(sizes)):
            shapes |= {f"layers.{place}.weight": (outputs, inputs), f"layers.{place}.bias": (outputs,)}
        shapes |= {"output.weight": (1, dim + sizes[-1]), "output.bias": (1,)}
        super().__init__(items, shapes, loss, scale)
        self.shared = frozenset(name for name in shapes if not name.startswith("user_"))
        self.offset, self.dim, self.depth = offset, dim, len(layers)

    def gradients(self, items: Items, values: Floats) -> tuple[Floats, Gradients]:
        """Return (loss of each example [B], gradients of their sum) for items [B, 1+k] and ratings [B]."""
        arrays, flat = self.arrays, items.ravel()
        logits, gmf, hidden = self._forward(flat)
        losses, slope = self.criterion(logits.reshape(items.shape), values)
        slope = slope.reshape(-1, 1)
        top = slope * arrays["output.weight"]  # [N, d + h]
        found = {
            "output.weight": Gradient(slope.T @ np.concatenate([gmf, hidden[-1]], axis=1)),
            "output.bias": Gradient(slope.sum(0)),
            "user_gmf.weight": Gradient((top[:, : self.dim] * arrays["item_gmf.weight"][flat]).sum(0)[None]),
            "item_gmf.weight": by_row(flat, top[:, : self.dim] * arrays["user_gmf.weight"]),
        }
        below = self._backward(top[:, self.dim :], hidden, found)
        found["user_mlp.weight"] = Gradient(below[:, : self.dim].sum(0)[None])
        found["item_mlp.weight"] = by_row(flat, below[:, self.dim :])
        return losses, found

    def scores(self, history: NDArray[np.integer[Any]]) -> Floats:
        """Return the logit of every item [V]; the history has shaped the user vectors, nothing else."""
        return self._forward(np.arange(self.items))[0]

    def _forward(self, flat: Items) -> tuple[Floats, Floats, list[Floats]]:
        """Return (logits [N], products [N, d], the input of the perceptron and the output of each layer)."""
        arrays = self.arrays
        gmf = arrays["item_gmf.weight"][flat] * arrays["user_gmf.weight"]
        item = arrays["item_mlp.weight"][flat]
        hidden = [np.concatenate([np.broadcast_to(arrays["user_mlp.weight"], item.shape), item], axis=1)]
        for place in range(self.depth):
            weight, bias = arrays[f"layers.{place}.weight"], arrays[f"layers.{place}.bias"]
            hidden.append(np.maximum(hidden[-1] @ weight.T + bias, 0.0))
        output = arrays["output.weight"][0]
        logits = gmf @ output[: self.dim] + hidden[-1] @ output[self.dim :]
        return logits + arrays["output.bias"][0] + self.offset, gmf, hidden

    def _backward(self, above: Floats, hidden: list[Floats], found: Gradients) -> Floats:
        """Return the derivative of the perceptron's input [N, 2d], having added those of its layers to `found`."""
        for place in reversed(range(self.depth)):
            above = above * (hidden[place + 1] > 0)
            found[f"layers.{place}.weight"] = Gradient(above.T @ hidden[place])
            found[f"layers.{place}.bias"] = Gradient(above.sum(0))
            above = above @ self.arrays[f"layers.{place}.weight"]
        return above
