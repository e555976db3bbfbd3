"""Logits in closed form, by the names of a model's arrays: what the compiled loops of `fedrec.training.kernels` train.

Shapes: B examples, 1+k items of each, V items, d dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from fedrec.errors import FedrecError


@dataclass(frozen=True, slots=True)
class DotProduct:
    """A logit `scale` * user . vector + bias + `offset`.

    `user` [1, d] is private, `bias` [V, 1] shared, `vectors` [V, d] shared or, where they are a buffer, public.
    """

    user: str
    vectors: str
    bias: str
    scale: float = 1.0
    offset: float = 0.0

    @property
    def private(self) -> frozenset[str]:
        """The arrays that stay on the device."""
        return frozenset({self.user})

    @property
    def shared(self) -> frozenset[str]:
        """The arrays that leave the device, those among them that learn."""
        return frozenset({self.vectors, self.bias})

    def logits(self, arrays: Mapping[str, Tensor], items: Tensor) -> Tensor:
        """Return the logits [B, 1+k] of items [B, 1+k]."""
        along = (arrays[self.vectors][items] @ arrays[self.user].reshape(-1, 1)).squeeze(-1)
        return self.scale * along + arrays[self.bias][items].squeeze(-1) + self.offset


@dataclass(frozen=True, slots=True)
class NeuralCF:
    """A logit `output` [product_user * product_item, h] + `offset`, h = relu layers over [user, item].

    He et al., "Neural collaborative filtering", 2017: its multilayer perceptron, and with `product`, the names of the
    vectors of a user and of items that are multiplied, its NeuMF. `user` [1, d] and product's are private, `item`
    [V, d] and product's shared, as are `layers` and `output`: the names of linear layers with biases, of which there
    is at least one below the output.
    """

    user: str
    item: str
    layers: tuple[str, ...]
    output: str
    product: tuple[str, str] | None = None
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not self.layers:
            raise FedrecError("NeuralCF(layers=()): at least one layer below the output is expected")

    @property
    def private(self) -> frozenset[str]:
        """The arrays that stay on the device."""
        return frozenset({self.user, *(self.product or ())[:1]})

    @property
    def shared(self) -> frozenset[str]:
        """The arrays that leave the device."""
        dense = {f"{layer}.{part}" for layer in (*self.layers, self.output) for part in ("weight", "bias")}
        return frozenset({self.item, *(self.product or ())[1:], *dense})

    def logits(self, arrays: Mapping[str, Tensor], items: Tensor) -> Tensor:
        """Return the logits [B, 1+k] of items [B, 1+k]."""
        item = arrays[self.item][items]
        hidden = torch.cat([arrays[self.user].expand_as(item), item], -1)
        for layer in self.layers:
            hidden = torch.relu(hidden @ arrays[f"{layer}.weight"].T + arrays[f"{layer}.bias"])
        if self.product is not None:
            user, vectors = (arrays[name] for name in self.product)
            hidden = torch.cat([user * vectors[items], hidden], -1)
        return (hidden @ arrays[f"{self.output}.weight"].T + arrays[f"{self.output}.bias"]).squeeze(-1) + self.offset


ClosedForm: TypeAlias = DotProduct | NeuralCF
