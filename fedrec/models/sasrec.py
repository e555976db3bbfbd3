"""SASRec: self-attention over the items used last (Kang & McAuley, "Self-attentive sequential recommendation", 2018).

Differs from the paper in what later work found better: layers are normalised before, not after, each sublayer, and the
loss is the cross-entropy over the catalogue, sampled (Klenitskiy & Vasilev, "Turning dross into gold loss", 2023). Any
leading dimensions: C devices or none. Shapes: n positions, d dimensions, k negatives, V items, h heads.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError
from fedrec.models.base import ModelInput
from fedrec.models.sequential import NEVER, SequentialRecommender, Windows, filled, next_item_losses
from fedrec.models.text_embeddings import encoder_input, warm_start_from_text

Linear = Callable[[int, int], nn.Linear]  # makes a layer of so many inputs and outputs


class Block(nn.Module):
    """Causal self-attention, then two layers for each position alone; both add to what came in."""

    def __init__(self, dim: int, heads: int, linear: Linear = nn.Linear) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attend, self.attended = linear(dim, 3 * dim), linear(dim, dim)
        self.widen, self.narrow = linear(dim, 2 * dim), linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., n, d] for [..., n, d]; position t depends on positions up to t alone."""
        x = x + self.attended(self._mixed(self.attend(self.before_attention(x))))
        return x + self.narrow(functional.gelu(self.widen(self.before_layers(x))))

    def _mixed(self, projected: Tensor) -> Tensor:
        n, width = projected.shape[-2], projected.shape[-1] // 3
        parts = projected.unflatten(-1, (3, self.heads, width // self.heads)).movedim(-3, 0)  # [3, ..., n, h, d / h]
        query, key, value = parts.transpose(-2, -3)  # [..., h, n, d / h]
        weight = query @ key.mT / math.sqrt(width // self.heads)
        later = torch.ones(n, n, dtype=torch.bool, device=projected.device).triu(1)
        mixed = weight.masked_fill(later, NEVER).softmax(-1) @ value
        return mixed.transpose(-2, -3).flatten(-2)


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a body of attention; it sees the last `window` items."""

    dim: int = 64
    window: int = 64
    blocks: int = 2
    heads: int = 1

    def __post_init__(self) -> None:
        for name in ("dim", "window", "blocks", "heads"):
            if getattr(self, name) < 1:
                raise FedrecError(f"{name}={getattr(self, name)}: a body of attention has at least 1")
        if self.dim % self.heads:
            raise FedrecError(f"heads={self.heads} must divide dim={self.dim}")


class Attentive(SequentialRecommender):
    """What attention makes of a window of item vectors, wherever these come from."""

    def add_body(self, shape: Shape, linear: Linear = nn.Linear) -> None:
        """Give the model its positions, its blocks and the layer after them."""
        self.window, self.dim = shape.window, shape.dim
        self.position = nn.Embedding(shape.window, shape.dim)
        self.blocks = nn.ModuleList(Block(shape.dim, shape.heads, linear) for _ in range(shape.blocks))
        self.after = nn.LayerNorm(shape.dim)

    def states(self, vectors: Tensor) -> Tensor:
        """Return the state [..., n, d] after each position for the vectors [..., n, d] of the items there."""
        x = vectors * math.sqrt(self.dim) + self.position.weight[: vectors.shape[-2]]
        for block in self.blocks:
            x = block(x)
        return self.after(x)


class SASRec(Attentive):
    """The whole model is shared: what is personal about a device is its history, which it reads when it ranks.

    logit of an item after a window = state of the window's last position . item + item_bias.
    """

    name: ClassVar[str] = "sasrec"
    by_item = frozenset({"item.weight", "item_bias.weight"})

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        dim: int = 64,
        window: int = 128,
        blocks: int = 2,
        heads: int = 1,
        warm_start: str | None = None,
    ) -> None:
        super().__init__()
        shape = Shape(dim, window, blocks, heads)
        self.items = len(catalogue)
        self.item, self.item_bias = nn.Embedding(self.items, dim), nn.Embedding(self.items, 1)
        self.add_body(shape)
        for table in (self.item, self.position):
            nn.init.normal_(table.weight, std=0.02)
        nn.init.zeros_(self.item_bias.weight)
        if warm_start is not None:
            warm_start_from_text(self.item, catalogue, 0.02, warm_start)
        self.warm_start = warm_start
        self.shared = frozenset(name for name, _ in self.named_parameters())

    def inputs(self, catalogue: Catalogue) -> tuple[ModelInput, ...]:
        """Return the encoder that items start from."""
        return encoder_input("model.warm_start", self.warm_start, catalogue)

    def forward(self, windows: Windows, rows: Mapping[str, Tensor]) -> Tensor:
        """Return each device's summed cross-entropy of the next item."""
        vectors, biases = rows["item.weight"], rows["item_bias.weight"].squeeze(-1)
        states = self.states(vectors[..., : windows.items.shape[-1] - 1, :])
        return next_item_losses(states, vectors, biases, windows, self.items)

    def scores(self, history: Tensor) -> Tensor:
        """Return a logit for every item [V] to come after the history [n]."""
        if not len(history):
            return self.item_bias.weight[:, 0]
        state = self.states(self.item(history[-self.window :]))[-1]
        return self.item.weight @ state + self.item_bias.weight[:, 0]

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the scores [C, V] of C devices; shorter histories are filled up behind, where nothing looks."""
        lines, lengths = filled(histories, self.window)
        states = self.states(self.item(lines))[torch.arange(len(lines)), (lengths - 1).clamp(min=0)]
        return self.item_bias.weight[:, 0] + (states * (lengths > 0).unsqueeze(1)) @ self.item.weight.T
