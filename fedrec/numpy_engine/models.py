"""MF and NeuMF of one device in NumPy: named arrays, gradients by back-propagation, steps of gradient descent.

The twins of `fedrec.models.mf`, `fedrec.models.neumf` and the losses of `fedrec.models.base`. Shapes: B examples, 1+k
items of each, N items one after the other, V items of the catalogue, d dimensions (of each half), h of the last layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError, suggest
from fedrec.messages import Arrays

Floats = NDArray[Any]
LossAndSlope = Callable[[Floats, Floats], tuple[Floats, Floats]]  # (logits, values) -> (loss [B], d loss / d logits)


def sigmoid(logits: Floats) -> Floats:
    """Return 1 / (1 + exp(-logits)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def bce(logits: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Binary cross-entropy, summed over the positive and its negatives (He et al. 2017, eq. 7)."""
    slope = sigmoid(logits)
    slope[:, 0] -= 1.0
    return np.logaddexp(0.0, logits).sum(1) - logits[:, 0], slope


def bpr(logits: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Bayesian personalised ranking, summed over the negatives of each positive (Rendle et al. 2009)."""
    margin = logits[:, 1:] - logits[:, :1]
    negative = sigmoid(margin)
    return np.logaddexp(0.0, margin).sum(1), np.concatenate([-negative.sum(1, keepdims=True), negative], axis=1)


def mse(logits: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Squared error on the rating of the positive; negatives play no part."""
    error, slope = logits[:, 0] - values, np.zeros_like(logits)
    slope[:, 0] = 2.0 * error
    return error**2, slope


LOSSES: dict[str, LossAndSlope] = {"bce": bce, "bpr": bpr, "mse": mse}


def get_loss(name: str) -> LossAndSlope:
    """Return the loss of that name."""
    if name not in LOSSES:
        raise FedrecError(f"model.loss={name} is not a loss.{suggest(name, LOSSES)}")
    return LOSSES[name]


Items = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Gradient:
    """The derivative of a batch's summed loss: of a whole array, or of its `rows` alone (each row once)."""

    values: Floats
    rows: Items | None = None


Gradients = dict[str, Gradient]


class LightModel(ABC):
    """The NumPy twin of a `TrainableRecommender`: the same settings, the same names and shapes of arrays.

    `shared` may leave the device; every other array stays. `ratings` says that scores are ratings.
    """

    shared: frozenset[str]

    def __init__(self, items: int, shapes: Mapping[str, tuple[int, ...]], loss: str, init_std: float) -> None:
        self.items, self.init_std, self.ratings = items, init_std, loss == "mse"
        self.criterion = get_loss(loss)
        self.arrays: dict[str, Floats] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    @abstractmethod
    def gradients(self, items: Items, values: Floats) -> tuple[Floats, Gradients]:
        """Return (loss of each example [B], gradients of their sum) for items [B, 1+k] and ratings [B]."""

    @abstractmethod
    def scores(self, history: NDArray[np.integer[Any]]) -> Floats:
        """Return a score for every item [V]."""

    def load(self, arrays: Mapping[str, Floats]) -> None:
        """Copy named arrays into the model; unknown names and wrong shapes are errors."""
        for name, array in arrays.items():
            if name not in self.arrays or self.arrays[name].shape != array.shape:
                shape = self.arrays[name].shape if name in self.arrays else "no such array"
                raise FedrecError(f"{type(self).__name__} can't take {name} of shape {array.shape}: {shape} expected")
            self.arrays[name] = np.array(array)

    def shared_arrays(self) -> Arrays:
        """Return copies of the arrays that may leave."""
        return {name: array.copy() for name, array in self.arrays.items() if name in self.shared}

    def private_arrays(self) -> Arrays:
        """Return copies of the arrays that stay on the device."""
        return {name: array.copy() for name, array in self.arrays.items() if name not in self.shared}

    def step(self, items: Items, values: Floats, rate: float) -> float:
        """Go down the gradient of the batch's summed loss by `rate`; return that loss."""
        losses, gradients = self.gradients(items, values)
        for name, gradient in gradients.items():
            array = self.arrays[name]
            if gradient.rows is None:
                array -= (rate * gradient.values).astype(array.dtype)
            else:
                array[gradient.rows] -= (rate * gradient.values).astype(array.dtype)
        return float(losses.sum())


def by_row(items: Items, values: Floats) -> Gradient:
    """Return the sum of `values` [N, d] over equal `items` [N]: the gradient of a table of vectors."""
    order = np.argsort(items, kind="stable")
    rows, starts = np.unique(items[order], return_index=True)
    return Gradient(np.add.reduceat(values[order], starts, axis=0), rows)


class MatrixFactorization(LightModel):
    """logit = user . item + item_bias + offset; only the item side is shared."""

    shared = frozenset({"item.weight", "item_bias.weight"})

    def __init__(
        self,
        items: int,
        *,
        dim: int = 32,
        loss: str = "bce",
        offset: float = 0.0,
        init_std: float = 0.1,
        warm_start: str | None = None,  # what the server's first item vectors come from: devices receive them anyway
    ) -> None:
        shapes = {"user.weight": (1, dim), "item.weight": (items, dim), "item_bias.weight": (items, 1)}
        super().__init__(items, shapes, loss, init_std)
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
        init_std: float = 0.1,
    ) -> None:
        sizes = [2 * dim, *layers]
        shapes: dict[str, tuple[int, ...]] = {"user_gmf.weight": (1, dim), "user_mlp.weight": (1, dim)}
        shapes |= {"item_gmf.weight": (items, dim), "item_mlp.weight": (items, dim)}
        for place, (inputs, outputs) in enumerate(pairwise(sizes)):
            shapes |= {f"layers.{place}.weight": (outputs, inputs), f"layers.{place}.bias": (outputs,)}
        shapes |= {"output.weight": (1, dim + sizes[-1]), "output.bias": (1,)}
        super().__init__(items, shapes, loss, init_std)
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
